#!/bin/bash
# The check of the replicas, in the cluster that will need them: is the newest dump young and whole, and are the media
# what the mirror recorded? Whatever is wrong with one, the other is looked at, too.
#
# Environment: JOB POD_NAME REPLICA_VOLUME REPLICA_FOLDER MEDIA_REPLICA_VOLUME (both read-only; an empty one is not
# checked) STATE_VOLUME MAXIMUM_AGE_SECONDS MEDIA_MAXIMUM_AGE_SECONDS REREAD_SECONDS DEADLINE_SECONDS TERMINATION_LOG
# TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"

SAMPLE_FILES=20 SAMPLE_BYTES=$((256 << 20)) # of one run: in some days of hourly runs, all of the sample

main() {
  begin
  require POD_NAME STATE_VOLUME MAXIMUM_AGE_SECONDS MEDIA_MAXIMUM_AGE_SECONDS REREAD_SECONDS
  number MAXIMUM_AGE_SECONDS 1
  number MEDIA_MAXIMUM_AGE_SECONDS 1
  number REREAD_SECONDS 0
  [[ -n ${REPLICA_VOLUME-}${MEDIA_REPLICA_VOLUME-} ]] ||
    fail 64 'Neither REPLICA_VOLUME nor MEDIA_REPLICA_VOLUME is set.' 'Correct the values of the release.'
  FOUND='' EXIT=0 SOUND=''
  if [[ -n ${REPLICA_VOLUME-} ]]; then
    require REPLICA_FOLDER
    check_dumps
  fi
  if [[ -n ${MEDIA_REPLICA_VOLUME-} ]]; then check_media; fi
  ((EXIT == 0)) || fail "$EXIT" "$FOUND"
  conclude 0 sound "$SOUND"
}

# finding CODE WHAT-IS-WRONG WHAT-TO-DO: the job will be red, with the code of the first one.
finding() {
  say "$2"
  ((EXIT)) || EXIT=$1
  FOUND+="${FOUND:+ }$2 $3"
}

# look WHAT COMMAND…: what the file system says against the command is a finding.
look() {
  local what=$1
  shift
  attend "$@" 2>"$WORK/volume-error" && return
  cat -- "$WORK/volume-error" >&2
  classify_volume_error "$(<"$WORK/volume-error")"
  finding "$CODE" "$what: $(cause "$WORK/volume-error")." "$ADVICE"
  return 1
}

# ---- the dumps ----------------------------------------------------------------------------------------------------

check_dumps() {
  local folder=$REPLICA_VOLUME/$REPLICA_FOLDER path wrong='' age
  if [[ ! -d $folder ]]; then
    finding 66 "The replica of the dumps has no folder $folder." \
      'Look whether postgres-replicator-backup runs in the stack that is backed up, and whether this is its export.'
    return
  fi
  look 'The replica of the dumps cannot be read' ls -- "$folder" >"$WORK/listing" || return 0
  while IFS= read -r path; do
    if [[ -e $(manifest_of "$path") ]] && ! verified "$path" && [[ -e $path ]]; then wrong+="${wrong:+, }${path##*/}"; fi
  done < <(dumps "$folder")
  [[ -z $wrong ]] || finding 65 "These dumps of the replica differ in name or size from what their manifests say: $wrong." \
    'They were cut off or altered: move them away, and check the export.'

  find_newest "$folder"
  warn_of_future
  figure verified "$(count_verified "$folder")"
  if [[ -z $NEWEST ]]; then
    finding 66 "There is no verified dump in $folder.${DOUBT:+ $DOUBT}" 'Look why postgres-replicator-backup of the stack that is backed up brings none.'
    return
  fi
  age=$(age_of "$NEWEST")
  figure dump "${NEWEST##*/}"
  figure bytes "$(manifest_value "$(manifest_of "$NEWEST")" bytes)"
  figure age_seconds "$age"
  ((age <= MAXIMUM_AGE_SECONDS)) ||
    finding 65 "The newest verified dump of the replica, ${NEWEST##*/}, is $((age / 60)) minutes old, and may be $((MAXIMUM_AGE_SECONDS / 60)).${DOUBT:+ $DOUBT}" \
      'Look why postgres-replicator-backup of the stack that is backed up brings no newer one.'
  check_newest
  SOUND+="The dump ${NEWEST##*/} is whole and $((age / 60)) minutes old."
}

# check_newest: reads it once, and again when the file is another one or REREAD_SECONDS have passed.
check_newest() {
  local memory=$STATE_VOLUME/dump temporary=$STATE_VOLUME/.tmp.dump.${POD_NAME:0:63}.$$ now when='' what='' key manifest unpacked counted
  manifest=$(manifest_of "$NEWEST")
  look 'The newest dump of the replica cannot be read' stat -c '%n %s %.Y %.Z %i' -- "$NEWEST" >"$WORK/key" || return 0
  key="$(<"$WORK/key") $(manifest_value "$manifest" sha256)"
  now=$(date +%s)
  if [[ -f $memory ]]; then { read -r when && IFS= read -r what; } <"$memory" || :; fi
  if [[ $what == "$key" && $when =~ ^[1-9][0-9]{0,11}$ ]] && ((when <= now && now - when < REREAD_SECONDS)); then
    figure read_at "$(date -d "@$when" +%Y-%m-%dT%H:%M:%SZ)"
    return
  fi

  say "Reading ${NEWEST##*/}."
  look 'The newest dump of the replica cannot be read' dd if="$NEWEST" iflag=nocache count=0 status=none || return 0
  look 'The newest dump of the replica cannot be read' read_back "$NEWEST" || return 0
  if ! is_what "$manifest"; then
    finding 65 "The newest dump of the replica, ${NEWEST##*/}, was altered: its sha256 is not what its manifest says." \
      'Do not recover from it. Move it away, check the export, and run postgres-replicator-backup again.'
    return
  fi
  attend read_through "$NEWEST" 2>"$WORK/unpack-error" || : # each stage has its own status
  cat -- "$WORK/unpack-error" >&2
  read -r unpacked counted <"$WORK/status"
  if ((counted != 0 && counted != 65)); then
    finding 75 "The newest dump of the replica, ${NEWEST##*/}, has the right sha256, but reading it broke off (awk $counted)." 'Read the lines above; the next run tries again.'
    return
  fi
  if ((unpacked + counted)) || [[ $(manifest_value "$WORK/contents" sql_bytes) != "$(manifest_value "$manifest" sql_bytes)" ]]; then
    finding 65 "The newest dump of the replica, ${NEWEST##*/}, is as it was published, but it does not unpack to a whole dump: $(cause "$WORK/unpack-error")." \
      'Do not recover from it. Run postgres-backup-hourly and postgres-replicator-backup again.'
    return
  fi
  figure read_at "$(date -d "@$now" +%Y-%m-%dT%H:%M:%SZ)"
  TEMPORARY+=("$temporary")
  printf '%s\n' "$now" "$key" >"$WORK/memory"
  if look 'What was read cannot be remembered' cp -- "$WORK/memory" "$temporary"; then
    look 'What was read cannot be remembered' mv -T -- "$temporary" "$memory" || :
  fi
}

# read_through DUMP: unpacks it from its first to its last line.
read_through() {
  set +e
  unpack "$1" | read_contents >/dev/null
  printf '%s\n' "${PIPESTATUS[*]}" >"$WORK/status"
}

# ---- the media ----------------------------------------------------------------------------------------------------

check_media() {
  local own=$MEDIA_REPLICA_VOLUME/.stack-backup completed ended age found exit
  if [[ ! -e $own/state ]]; then
    finding 66 'The replica of the media has no state: no mirror has ever begun there.' \
      'Look whether media-replicator runs in the stack that is backed up, and whether this is its export.'
    return
  fi
  # A copy: the mirror exchanges the file.
  look 'The state of the media replica cannot be read' cp -- "$own/state" "$WORK/state" || return 0
  if [[ $(state format) != 1 ]]; then
    finding 78 "The state of the media replica has the format \"$(state format)\", which is not known here." 'Bring the releases of both stacks to the same version.'
    return
  fi
  completed=$(state completed)
  if [[ -z $completed ]]; then
    finding 66 "The mirror of the media has never been complete; one is in progress since $(state since)." 'Wait for its end; then look at media-replicator in the stack that is backed up.'
    return
  fi
  if ! [[ $(state files) =~ ^[0-9]{1,15}$ && $(state bytes) =~ ^[0-9]{1,18}$ && $completed =~ ^[0-9]{4}-[0-9-]{5}T[0-9:]{8}Z$ ]] ||
    ! ended=$(date -d "$completed" +%s); then
    finding 65 'The state of the media replica is damaged.' 'Run media-replicator in the stack that is backed up, and check the export.'
    return
  fi
  age=$(($(date +%s) - ended))
  figure media_completed "$completed"
  figure media_age_seconds "$((age < 0 ? 0 : age))"
  ((age <= MEDIA_MAXIMUM_AGE_SECONDS)) ||
    finding 65 "The last complete mirror of the media ended $((age / 60)) minutes ago, at $completed, and it may be $((MEDIA_MAXIMUM_AGE_SECONDS / 60))." \
      'Look why media-replicator of the stack that is backed up does not come to its end.'
  ((age >= -600)) || finding 65 "The last complete mirror of the media ended in the future, at $completed." 'Check the clocks of both clusters.'

  case $(state status) in
    complete) ;;
    in-progress)
      say "A mirror is in progress since $(state since): the files are not compared."
      SOUND+="${SOUND:+ }The media are being mirrored; the last complete mirror ended $((age / 60)) minutes ago."
      return
      ;;
    *)
      finding 65 'The state of the media replica is damaged.' 'Run media-replicator in the stack that is backed up, and check the export.'
      return
      ;;
  esac
  found=$FOUND exit=$EXIT
  check_tree
  check_sample "$own/sample.tsv"
  look 'The state of the media replica cannot be read' cp -- "$own/state" "$WORK/state.after" || return 0
  if ! cmp -s -- "$WORK/state" "$WORK/state.after"; then
    say 'A mirror has begun meanwhile: what was seen of the files does not count.'
    FOUND=$found EXIT=$exit
  fi
  SOUND+="${SOUND:+ }The media are what the mirror recorded $((age / 60)) minutes ago."
}

state() { manifest_value "$WORK/state" "$1"; }

# check_tree: are there as many files and bytes as the mirror counted?
check_tree() {
  local files bytes
  look 'The replica of the media cannot be read as a whole' measure_tree >"$WORK/measure" || return 0
  read -r files bytes <"$WORK/measure"
  figure media_files "$files"
  figure media_bytes "$bytes"
  [[ $files == "$(state files)" && $bytes == "$(state bytes)" ]] ||
    finding 65 "The replica of the media holds $files files of $bytes bytes, and the last complete mirror counted $(state files) of $(state bytes)." \
      'Somebody else has written there, or files were lost: check the export, and run media-replicator in the stack that is backed up.'
}

measure_tree() {
  find "$MEDIA_REPLICA_VOLUME" -ignore_readdir_race -mindepth 1 -path "$MEDIA_REPLICA_VOLUME/.stack-backup" -prune -o -type f -printf '%s\n' |
    awk '{ files++; bytes += $1 } END { printf "%.0f %.0f\n", files, bytes }'
}

# check_sample FILE: are some files, other ones every time, what they were in the source?
check_sample() {
  local sum bytes shown path left=$SAMPLE_BYTES sampled=0 altered='' damaged='The sample that the mirror recorded is damaged.'
  if [[ ! -e $1 ]]; then
    finding 66 'The replica of the media has no sample of its files.' 'Run media-replicator in the stack that is backed up.'
    return
  fi
  look 'The sample of the media cannot be read' shuf -n "$SAMPLE_FILES" -- "$1" >"$WORK/sample" || return 0
  while IFS=$'\t' read -r sum bytes shown; do
    if ! [[ $sum =~ ^[0-9a-f]{64}$ && $bytes =~ ^(0|[1-9][0-9]{0,14})$ && -n $shown ]]; then
      finding 65 "$damaged" 'Run media-replicator in the stack that is backed up, and check the export.'
      return
    fi
    # One file at least, however large: else the largest would never be read.
    ((sampled == 0 || bytes <= left)) || continue
    left=$((left - bytes)) sampled=$((sampled + 1))
    printf -v path %b "$shown" # it has no other escapes than \\ \t \n
    same_file "$MEDIA_REPLICA_VOLUME/$path" "$bytes" "$sum" || altered+="${altered:+, }\"$shown\""
  done <"$WORK/sample"
  figure media_sampled "$sampled"
  [[ -z $altered ]] || finding 65 "These files of the media replica are missing or altered: $altered." \
    'Do not recover from them: check the export, move them away, and run media-replicator in the stack that is backed up.'
}

# same_file PATH BYTES SHA256: what cannot be read is a finding of its own.
same_file() {
  [[ -f $1 && ! -L $1 && $(stat -c %s -- "$1") == "$2" ]] || return 1
  look "A file of the media replica cannot be read" dd if="$1" iflag=nocache count=0 status=none || return 0
  look "A file of the media replica cannot be read" read_back "$1" || return 0
  [[ $(<"$WORK/sha256.read") == "$3" ]]
}

{
  main "$@"
  exit
}
