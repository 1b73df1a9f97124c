#!/bin/bash
# The replica of the media: the stack's files, mirrored to a volume that another cluster reads.
#
# Environment: JOB NAMESPACE POD_NAME MEDIA_VOLUME (read-only) MEDIA_REPLICA_VOLUME MINIMUM_SHARE SENTINEL TRASH_DAYS
# TRANSFERS CHECKERS BANDWIDTH_LIMIT SAMPLE_FILES DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory); for tests
# LOCK_PATIENCE (seconds for which the lock of a run that is alive may stand still).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"
# shellcheck source=charts/stack-backup/files/media.sh
. "$PROGRAMS/media.sh"

SAMPLE_BYTES=$((1 << 30)) # read once more every night, and never more than that

main() {
  begin
  UNTOUCHED='Nothing was deleted from the replica, nor changed in it.'
  require NAMESPACE POD_NAME MEDIA_VOLUME MEDIA_REPLICA_VOLUME MINIMUM_SHARE TRASH_DAYS TRANSFERS CHECKERS SAMPLE_FILES
  number MINIMUM_SHARE 0
  number TRASH_DAYS 0
  number SAMPLE_FILES 0
  LOCK_PATIENCE=${LOCK_PATIENCE:-90}
  number LOCK_PATIENCE 1
  use_rclone
  SINCE=$(date +%Y-%m-%dT%H:%M:%SZ)
  FOLDER=$MEDIA_REPLICA_VOLUME/$OWN
  TRASH=$FOLDER/trash/$SINCE

  check_source
  open_replica
  lock
  survey
  UNTOUCHED="The replica is marked as in progress; what it lost is in its trash $SINCE, and the next run goes on from here."
  write_state in-progress "$(state completed)" "$(state files)" "$(state bytes)"
  sweep "$MEDIA_REPLICA_VOLUME"
  set_aside
  say "Mirroring $(tree files) files, $(($(tree bytes) >> 20)) MiB: $(tree to_copy) to copy, $(tree lost) to move to the trash."
  copy_tree sync "$MEDIA_VOLUME" "$MEDIA_REPLICA_VOLUME" --backup-dir "$TRASH" "${LIMIT[@]}"
  verify
  take_sample
  on_volume sync -f -- "$FOLDER"
  write_state complete "$(date +%Y-%m-%dT%H:%M:%SZ)" "$(tree there)" "$(tree there_bytes)"
  UNTOUCHED='The mirror itself is complete.'
  empty_trash
  conclude 0 copied "The replica holds all $(tree there) files of the media: $COPIED copied, $REMOVED moved to its trash."
}

# The right volume, and something in it?
check_source() {
  [[ -d $MEDIA_VOLUME && -x $MEDIA_VOLUME ]] || fail 66 "The source $MEDIA_VOLUME is not there." 'Check the claim of the media (value volumes.media.existingClaim).'
  [[ -z ${SENTINEL-} || -e $MEDIA_VOLUME/$SENTINEL ]] ||
    fail 66 "The source has no $SENTINEL, which proves that it is the right volume." \
      'Check what is mounted there (value volumes.media.existingClaim); if it is right, make that file.'
  [[ ! -e $MEDIA_VOLUME/$OWN ]] || fail 65 "The source itself holds a folder $OWN: it is a replica, or a copy of one." \
    'Check what is mounted there (value volumes.media.existingClaim); if it is right, move that folder away.'
}

# May we write there, and is it ours?
open_replica() {
  local owner probe=$FOLDER/.tmp.probe.${POD_NAME:0:63}.$$.$RANDOM
  owner=$(state namespace)
  [[ -z $owner || $owner == "$NAMESPACE" ]] ||
    fail 77 "The replica belongs to $owner, and this is $NAMESPACE." 'Check the export (value volumes.mediaReplica): each stack needs one of its own.'
  on_volume mkdir -p -- "$FOLDER/trash"
  TEMPORARY+=("$probe")
  on_volume cp -- "${BASH_SOURCE[0]}" "$probe"
  on_volume rm -- "$probe"
}

# lock: two mirrors at once would undo each other's work. The one at work touches its lock again and again; a lock that
# stands still is one of a run that was killed. No clocks are compared: the file server may have another time.
lock() {
  local lock=$FOLDER/lock first now waited=0 owner
  until attend mkdir -- "$lock" 2>"$WORK/volume-error"; do
    if [[ ! -d $lock ]]; then
      classify_volume_error "$(<"$WORK/volume-error")"
      fail "$CODE" "The volume refused: $(cause "$WORK/volume-error")." "$ADVICE"
    fi
    owner=$(head -n 1 -- "$lock/owner" 2>"$WORK/probe") || owner=somebody
    now=$(stat -c '%i %y' -- "$lock" "$lock/owner" 2>"$WORK/probe") || :
    ((waited)) || first=$now
    [[ $now == "$first" ]] || fail 75 "Another run is at work: $owner." 'Wait for its end.'
    if ((waited++ >= LOCK_PATIENCE)); then
      say "Taking over from a run that was killed: $owner."
      rm -rf -- "$lock"
    else
      attend sleep 1
    fi
  done
  printf '%s since %s\n' "$POD_NAME" "$SINCE" >"$WORK/owner"
  on_volume cp -- "$WORK/owner" "$lock/owner"
  TEMPORARY+=("$lock")
  beat "$lock/owner" "$(((LOCK_PATIENCE + 3) / 4))" &
}

beat() { while sleep "$2" && [[ -e $1 ]]; do touch -c -- "$1"; done; }

# survey: what is there on either side, and whether the source may be taken for the truth.
survey() {
  local files bytes last last_bytes lost there allowed need free
  list "$MEDIA_VOLUME" source 'The source' readable
  compare source "$MEDIA_REPLICA_VOLUME" 'The replica'
  files=$(tree files) bytes=$(tree bytes) lost=$(tree lost)
  figure files "$files"
  figure bytes "$bytes"
  (($(tree unreadable) == 0)) || fail 77 "$(tree unreadable) files of the source cannot be read by the pod's user $(id -u):$(id -g)." \
    'The lines above name them: correct their owner or mode.'
  ((files > 0)) || fail 66 'The source holds no file at all.' 'Check what is mounted there (value volumes.media.existingClaim).'
  (($(tree rclonelink) == 0)) || fail 65 "$(tree rclonelink) names of the source end in .rclonelink, which rclone takes for links." 'Rename what the lines above name.'

  # A replica made by another tool has no state: what lies in it is the measure.
  last=$(state files) last_bytes=$(state bytes)
  [[ $last =~ ^[0-9]+$ ]] || last=$(tree there)
  [[ $last_bytes =~ ^[0-9]+$ ]] || last_bytes=$(tree there_bytes)
  ((files * 100 >= last * MINIMUM_SHARE && bytes * 100 >= last_bytes * MINIMUM_SHARE)) ||
    fail 65 "The source shrank: $files files and $((bytes >> 20)) MiB, after $last and $((last_bytes >> 20)) in the last good mirror." \
      'Find out what became of the files. If it is right, run once with mediaReplica.minimumShare 0: that mirror is the new measure.'
  there=$(($(tree there) + $(tree there_links)))
  allowed=$((there * (100 - MINIMUM_SHARE) / 100)) LIMIT=()
  if ((MINIMUM_SHARE > 0)); then
    LIMIT=(--max-delete "$allowed")
    ((lost <= allowed)) ||
      fail 65 "$lost of the replica's $there files are no longer in the source, and at once it may be $allowed." \
        'Find out whether they were deleted or renamed on purpose. If it is right, run once with mediaReplica.minimumShare 0.'
  fi

  need=$(tree need_bytes)
  free=$(df --output=avail --block-size=1 -- "$MEDIA_REPLICA_VOLUME" | tail -n 1)
  ((free >= need)) || fail 73 "The replica has $((free >> 20)) MiB left, and $((need >> 20)) MiB are to be copied." \
    'Make room on the export, or let the trash be emptied earlier (value mediaReplica.trashDays).'
  COPIED=$(tree to_copy) REMOVED=$lost
}

# write_state STATUS COMPLETED FILES BYTES: in one step; the last three are those of the last complete mirror.
write_state() {
  local temporary=$FOLDER/.tmp.state.${POD_NAME:0:63}.$$
  {
    printf 'format\t1\nstatus\t%s\nsince\t%s\n' "$1" "$SINCE"
    [[ -z $2 ]] || printf 'completed\t%s\nfiles\t%s\nbytes\t%s\n' "$2" "$3" "$4"
    printf 'namespace\t%s\n' "$NAMESPACE"
  } >"$WORK/state"
  TEMPORARY+=("$temporary")
  on_volume cp -- "$WORK/state" "$temporary"
  on_volume sync -- "$temporary"
  on_volume mv -T -- "$temporary" "$FOLDER/state"
  on_volume sync -- "$FOLDER"
}

# set_aside: what is a file on one side and a folder or a link on the other, rclone cannot replace: it would fail every
# night, or write through the link.
set_aside() {
  local path parent
  while IFS= read -r -d '' path; do
    [[ -e $MEDIA_REPLICA_VOLUME/$path || -L $MEDIA_REPLICA_VOLUME/$path ]] || continue # with its folder
    parent=$TRASH/$path
    on_volume mkdir -p -- "${parent%/*}"
    on_volume mv -T -- "$MEDIA_REPLICA_VOLUME/$path" "$TRASH/$path"
  done <"$WORK/conflicts"
}

# verify: is all that stood still in the source in the replica, and nothing else? What came, changed or went during the
# run belongs to the next one.
verify() {
  mv -- "$WORK/source.gz" "$WORK/before.gz"
  list "$MEDIA_VOLUME" source 'The source'
  compare source "$MEDIA_REPLICA_VOLUME" 'The replica' before
  name_some "$WORK/different" 'Not as in the source'
  (($(tree different) + $(tree extra) == 0)) ||
    fail 65 "The replica is not what the source is: $(tree different) files are missing or differ, $(tree extra) are only there." \
      'The lines above name some. If the next run finds the same, check both volumes and their file servers.'
  figure copied "$COPIED"
  figure removed "$REMOVED"
}

# take_sample: the sha256 of some files, of the source, so that the other cluster can tell whether it reads the same.
take_sample() {
  local temporary=$FOLDER/.tmp.sample.${POD_NAME:0:63}.$$
  : >"$WORK/sample"
  if ((SAMPLE_FILES > 0)); then
    attend choose_sample >"$WORK/chosen"
    attend hash_sample >"$WORK/sample"
  fi
  figure sample "$(wc -l <"$WORK/sample")"
  TEMPORARY+=("$temporary")
  on_volume cp -- "$WORK/sample" "$temporary"
  on_volume sync -- "$temporary"
  on_volume mv -T -- "$temporary" "$FOLDER/sample.tsv"
}

choose_sample() {
  gzip -dc -- "$WORK/source.gz" | grep -z -a '^f' | shuf -z -n "$SAMPLE_FILES" |
    awk -v left="$SAMPLE_BYTES" 'BEGIN { RS = "\0"; FS = "\t" } $2 <= left { left -= $2; printf "./%s%c", substr($0, length($1 $2 $3) + 4), 0 }'
}

# hash_sample: only what stands still counts, and what the replica has as it is now; a file may go while it is read.
hash_sample() {
  [[ -s $WORK/chosen ]] || return 0
  awk 'BEGIN { RS = "\0"; FS = "\t" }
    part == "hash" { hash[substr($0, 67)] = substr($0, 1, 64); next }
    { path = substr($0, length($1 $2) + 3); entry = $1 "\t" $2 }
    part == "replica" { replica[path] = entry; next }
    path in hash && replica[path] == entry {
      shown = substr(path, 3)
      gsub(/\\/, "&&", shown); gsub(/\t/, "\\t", shown); gsub(/\n/, "\\n", shown)
      printf "%s\t%s\t%s\n", hash[path], $1, shown
    }' \
    part=hash <(cd "$MEDIA_VOLUME" && xargs -0 -a "$WORK/chosen" sha256sum -z --) \
    part=replica <(cd "$MEDIA_REPLICA_VOLUME" && xargs -0 -a "$WORK/chosen" stat --printf '%s\t%Y\t%n\0' --) \
    part=source <(cd "$MEDIA_VOLUME" && xargs -0 -a "$WORK/chosen" stat --printf '%s\t%Y\t%n\0' --)
}

# empty_trash: by the time in a folder's name, and only after a good run.
empty_trash() {
  local path limit
  limit=$(date -d "-$TRASH_DAYS days" +%Y-%m-%dT%H:%M:%SZ)
  for path in "$FOLDER"/trash/*; do
    [[ ${path##*/} =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$ ]] || continue
    if [[ ${path##*/} < $limit || $TRASH_DAYS == 0 ]]; then
      say "Emptying the trash of ${path##*/}."
      attend rm -rf -- "$path" || fail 75 "The trash ${path##*/} could not be emptied." 'Check the volume: without this it fills up.'
    fi
  done
}

{
  main "$@"
  exit
}
