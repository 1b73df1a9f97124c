#!/bin/bash
# The replica of the dumps: the newest verified dump, copied to a volume that another cluster reads.
#
# Environment: JOB POD_NAME BACKUP_VOLUME BACKUP_FOLDER REPLICA_VOLUME REPLICA_FOLDER KEEP GRACE_SECONDS
# MAXIMUM_AGE_SECONDS DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"

main() {
  begin
  UNTOUCHED='Nothing was published, and every earlier dump of the replica is as it was.'
  require POD_NAME BACKUP_VOLUME BACKUP_FOLDER REPLICA_VOLUME REPLICA_FOLDER KEEP GRACE_SECONDS MAXIMUM_AGE_SECONDS
  number KEEP 1
  number GRACE_SECONDS 0
  number MAXIMUM_AGE_SECONDS 1
  local source=$BACKUP_VOLUME/$BACKUP_FOLDER folder=$REPLICA_VOLUME/$REPLICA_FOLDER dump doubt age pruned=0

  open_source "$source" 'Look whether the hourly backup has run, and whether this is its volume.'
  find_newest "$source"
  warn_of_future
  [[ -n $NEWEST ]] || fail 66 "There is no verified dump in $source.${DOUBT:+ $DOUBT}" 'Look why the hourly backup publishes none.'
  dump=$NEWEST doubt=$DOUBT
  age=$(age_of "$dump")
  open_folder "$folder"
  check_target "$dump" "$folder"

  if [[ ${NEWEST##*/} > ${dump##*/} ]]; then
    # A dump that went back in time would only push out a newer one.
    TAKEN=newer
    figure dump "${NEWEST##*/}"
    UNTOUCHED="The replica holds the newer ${NEWEST##*/}."
  else
    say "Copying ${dump##*/} to $folder."
    take_over "$dump" "$folder" cp
    figure dump "${dump##*/}"
    figure bytes "$(stat -c %s -- "$dump")"
    UNTOUCHED="The replica holds ${dump##*/}, whole."
  fi
  figure age_seconds "$age"
  # A source that stands still must not push out what may be the last good dumps.
  ((age <= MAXIMUM_AGE_SECONDS)) ||
    fail 65 "The newest verified dump of the source, ${dump##*/}, is $((age / 60)) minutes old, and may be $((MAXIMUM_AGE_SECONDS / 60)); \
no dump was removed.${doubt:+ $doubt}" 'Look why the hourly backup publishes no newer one.'
  DAMAGED='' READ=''
  [[ $TAKEN == newer ]] || READ=${dump##*/}
  prune "$folder" "$KEEP" "$GRACE_SECONDS" whole || pruned=$?
  figure verified "$(count_verified "$folder")"
  figure removed "$REMOVED"
  [[ -z $DAMAGED ]] || fail 65 "These dumps of the replica are not what their manifests say, and count for nothing: $DAMAGED." \
    'They were changed or damaged there: move them away, and check the volume and its file server.'
  ((pruned == 0)) || fail 75 'An old dump of the replica could not be removed.' 'Check the volume: without retention it fills up.'
  case $TAKEN in
    newer) conclude 0 present "The replica holds ${NEWEST##*/} already, which is newer than ${dump##*/}, the newest of the source." ;;
    present) conclude 0 present "${dump##*/} is in the replica already, whole." ;;
  esac
  conclude 0 published "${dump##*/} is in the replica, verified."
}

# check_target DUMP FOLDER: two stacks that write to one folder would remove each other's dumps. Sets NEWEST to the
# replica's.
check_target() {
  local ours theirs
  find_newest "$2"
  [[ -n $NEWEST ]] || return 0
  ours=$(manifest_value "$(manifest_of "$1")" namespace)
  theirs=$(manifest_value "$(manifest_of "$NEWEST")" namespace)
  [[ $ours == "$theirs" ]] || fail 77 "The folder $2 holds dumps of namespace \"$theirs\", and this is one of \"$ours\"." \
    'Let each stack write to a folder of its own (value databaseReplica.folder), or move the others away.'
}

# whole PATH: is the dump what its manifest says? Nothing good is removed on the strength of a damaged one.
whole() {
  [[ ${1##*/} != "$READ" ]] || return 0 # read a moment ago
  read_afresh "$1"
  is_what "$(manifest_of "$1")" || {
    DAMAGED+="${DAMAGED:+, }${1##*/}"
    return 1
  }
}

{
  main "$@"
  exit
}
