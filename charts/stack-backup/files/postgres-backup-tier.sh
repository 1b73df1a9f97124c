#!/bin/bash
# A daily, weekly or monthly dump: the newest verified hourly one by a hard link (a copy where none can be made), at most
# one per period.
#
# Environment: JOB POD_NAME BACKUP_VOLUME SOURCE_FOLDER TIER KEEP MAXIMUM_AGE_SECONDS DEADLINE_SECONDS TERMINATION_LOG
# TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"

main() {
  begin
  UNTOUCHED='Nothing was published, and every earlier dump is as it was.'
  require POD_NAME BACKUP_VOLUME SOURCE_FOLDER TIER KEEP MAXIMUM_AGE_SECONDS
  number KEEP 1
  number MAXIMUM_AGE_SECONDS 1
  case $TIER in
    daily) PERIOD=%Y-%m-%d ;;
    weekly) PERIOD=%G-W%V ;;
    monthly) PERIOD=%Y-%m ;;
    *) fail 64 "TIER is \"$TIER\"; it must be daily, weekly or monthly." 'Correct the values of the release.' ;;
  esac
  local source=$BACKUP_VOLUME/$SOURCE_FOLDER folder=$BACKUP_VOLUME/$TIER age period existing='' path

  open_source "$source" 'Look whether the hourly backup has run, and whether this is its volume.'
  find_newest "$source"
  warn_of_future
  [[ -n $NEWEST ]] || fail 66 "There is no verified dump in $source.${DOUBT:+ $DOUBT}" 'Look why the hourly backup publishes none.'
  age=$(age_of "$NEWEST")
  ((age <= MAXIMUM_AGE_SECONDS)) ||
    fail 65 "The newest verified dump ${NEWEST##*/} is $((age / 60)) minutes old, and may be $((MAXIMUM_AGE_SECONDS / 60)).${DOUBT:+ $DOUBT}" \
      'Look why the hourly backup publishes no newer one; then run this job again.'
  open_folder "$folder"

  period=$(period_of "$NEWEST")
  while IFS= read -r path; do
    if [[ $(period_of "$path") == "$period" ]] && verified "$path" && ! suspicious "$path"; then existing=$path; fi
  done < <(dumps "$folder")
  if [[ -n $existing ]]; then
    TAKEN=present
  else
    take_over "$NEWEST" "$folder" ln
    existing=$folder/${NEWEST##*/}
  fi

  local pruned=0
  prune "$folder" "$KEEP" || pruned=$?
  figure dump "${existing##*/}"
  figure bytes "$(stat -c %s -- "$existing")"
  figure verified "$(count_verified "$folder")"
  figure removed "$REMOVED"
  UNTOUCHED="The $TIER dump ${existing##*/} is safe."
  ((pruned == 0)) || fail 75 "An old $TIER dump could not be removed." 'Check the volume: without retention it fills up.'
  if [[ $TAKEN == present ]]; then
    conclude 0 present "The $TIER dump of $period is there already: ${existing##*/}."
  fi
  conclude 0 published "${existing##*/} is the $TIER dump of $period."
}

# period_of PATH: the day, ISO week or month of the time in a dump's name.
period_of() {
  local stamp=${1##*/}
  stamp=${stamp#backup-}
  date -d "${stamp%%-dumpall*}" "+$PERIOD"
}

{
  main "$@"
  exit
}
