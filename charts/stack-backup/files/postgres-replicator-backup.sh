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
  local source=$BACKUP_VOLUME/$BACKUP_FOLDER folder=$REPLICA_VOLUME/$REPLICA_FOLDER age pruned=0

  find_newest "$source"
  warn_of_future
  [[ -n $NEWEST ]] || fail 66 "There is no verified dump in $source." 'Look why the hourly backup publishes none.'
  age=$(age_of "$NEWEST")
  open_folder "$folder"
  check_room "$NEWEST" "$folder"

  say "Copying ${NEWEST##*/} to $folder."
  take_over "$NEWEST" "$folder" cp
  figure dump "${NEWEST##*/}"
  figure bytes "$(stat -c %s -- "$NEWEST")"
  figure age_seconds "$age"
  UNTOUCHED="The replica holds ${NEWEST##*/}, whole."
  # A source that stands still must not push out what may be the last good dumps.
  ((age <= MAXIMUM_AGE_SECONDS)) ||
    fail 65 "The newest verified dump ${NEWEST##*/} is $((age / 60)) minutes old, and may be $((MAXIMUM_AGE_SECONDS / 60)); no dump was removed." \
      'Look why the hourly backup publishes no newer one.'
  prune "$folder" "$KEEP" "$GRACE_SECONDS" || pruned=$?
  figure verified "$(count_verified "$folder")"
  figure removed "$REMOVED"
  ((pruned == 0)) || fail 75 'An old dump of the replica could not be removed.' 'Check the volume: without retention it fills up.'
  if [[ $TAKEN == present ]]; then
    conclude 0 present "${NEWEST##*/} is in the replica already."
  fi
  conclude 0 published "${NEWEST##*/} is in the replica, verified."
}

# check_room DUMP FOLDER
check_room() {
  local need free
  [[ ! -e $2/${1##*/} ]] || return 0
  need=$(($(stat -c %s -- "$1") + (1 << 20)))
  free=$(df --output=avail --block-size=1 -- "$2" | tail -n 1)
  ((free >= need)) || fail 73 "The replica has $((free >> 20)) MiB left, and the dump needs $((need >> 20)) MiB." \
    'Make room on the export or keep fewer dumps; no dump is ever deleted to make room.'
}

{
  main "$@"
  exit
}
