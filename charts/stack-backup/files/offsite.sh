#!/bin/bash
# The off-site copy: verified dumps, and the media where they are mounted, to a remote of the user's own rclone
# configuration.
#
# REMOTE/FOLDER/backup-…-dumpall.sql.gz      as on the backup volume
# REMOTE/FOLDER/.manifest/NAME.tsv           its manifest, there before the dump is
# REMOTE/FOLDER/.manifest/NAME.stored        what the store said of the dump when it was last read back and found right
# REMOTE/media, REMOTE/media.state           the media, and what the last complete copy of them held
# REMOTE/trash/media/TIME                    media files that were deleted or replaced
#
# Environment: JOB POD_NAME NAMESPACE BACKUP_VOLUME FOLDERS MEDIA_VOLUME (or empty) REMOTE CONFIGURATION_FILE KEEP
# TRASH_DAYS TRANSFERS BANDWIDTH_LIMIT (or empty) MINIMUM_SHARE DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/jobs/offsite.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"
shopt -s extglob

main() {
  begin
  UNTOUCHED='Nothing was removed off-site.'
  require POD_NAME NAMESPACE BACKUP_VOLUME FOLDERS REMOTE CONFIGURATION_FILE KEEP TRASH_DAYS TRANSFERS MINIMUM_SHARE
  number KEEP 1
  number TRASH_DAYS 1
  number TRANSFERS 1
  number MINIMUM_SHARE 0
  local folder newest='' folders
  SENT=0 SENT_BYTES=0 KEPT=0 REMOVED=0 REPAIRED=0 CHANGED=0 PROBLEM=()
  read -ra folders <<<"$FOLDERS"
  configure

  find_newest "${folders[@]/#/"$BACKUP_VOLUME/"}"
  newest=$NEWEST
  warn_of_future
  [[ -n $newest ]] || fail 66 "There is no verified dump in $BACKUP_VOLUME ($FOLDERS)." 'Look why the hourly backup and its tiers publish none.'
  reach

  for folder in "${folders[@]}"; do send_folder "$folder"; done
  figure sent "$SENT"
  figure sent_bytes "$SENT_BYTES"
  figure repaired "$REPAIRED"
  figure kept "$KEPT"
  figure removed "$REMOVED"
  UNTOUCHED='The dumps are off-site, verified.'
  ((${#PROBLEM[@]} == 0)) || UNTOUCHED='What else there is of verified dumps is off-site.'
  if [[ -n ${MEDIA_VOLUME-} ]]; then copy_media; fi

  ((${#PROBLEM[@]} == 0)) || fail "${PROBLEM[@]}"
  if ((SENT + CHANGED == 0)); then
    conclude 0 present "All $KEPT dumps${MEDIA_VOLUME:+ and the media} are off-site already."
  fi
  conclude 0 published "$KEPT dumps${MEDIA_VOLUME:+ and the media} are off-site, verified."
}

# problem CODE WHAT WHAT-TO-DO: ends the job red, but only when all else is done. The first one is told in the verdict.
problem() {
  say "$2"
  ((${#PROBLEM[@]})) || PROBLEM=("$@")
}

# ---- the remote ---------------------------------------------------------------------------------------------------

# configure: rclone may write to its configuration, and the Secret is read-only.
configure() {
  [[ -s $CONFIGURATION_FILE ]] || fail 78 "There is no configuration of rclone in $CONFIGURATION_FILE (the Secret or its key is missing or empty)." \
    'Create the Secret with the key that the values name (offsite.secret).'
  # A remote that is written out in the values would bring its credentials into values and logs.
  [[ $REMOTE =~ ^[A-Za-z0-9_][A-Za-z0-9_.+@-]*:[^:]*$ ]] ||
    fail 78 'The value offsite.remote is no name of a remote with a path, such as s3:backups/production.' \
      'Put the remote and its credentials into the configuration in the Secret, and name it in the value.'
  REMOTE=${REMOTE%/}
  export RCLONE_CONFIG=$WORK/rclone.conf RCLONE_CACHE_DIR=$WORK/cache RCLONE_ASK_PASSWORD=false
  export RCLONE_CONTIMEOUT=20s RCLONE_STATS=0 RCLONE_STATS_ONE_LINE=true RCLONE_STATS_LOG_LEVEL=NOTICE
  export RCLONE_TRANSFERS=$TRANSFERS RCLONE_CHECKERS=16 RCLONE_BWLIMIT=${BANDWIDTH_LIMIT:-off}
  # A mistyped bucket is an error, and never made.
  export RCLONE_S3_NO_CHECK_BUCKET=true
  # Names as they are, byte by byte: else of two that look the same one is left out.
  export RCLONE_LOCAL_ENCODING=Raw RCLONE_NO_UNICODE_NORMALIZATION=true
  (umask 077 && cat -- "$CONFIGURATION_FILE" >"$RCLONE_CONFIG")
  rclone listremotes || refused 'The configuration of rclone cannot be read'
  grep -Fqx -- "${REMOTE%%:*}:" "$WORK/answer" || fail 78 "The configuration of rclone has no remote named ${REMOTE%%:*}." \
    'Correct the Secret, or the value offsite.remote.'
}

# reach: is the place there, and which hash does it know? Sets HASH to MD5, or to nothing (crypt, and some others).
reach() {
  RCLONE_RETRIES=1 RCLONE_LOW_LEVEL_RETRIES=2 rclone lsf --max-depth=1 "$REMOTE" || refused "$REMOTE cannot be listed"
  off_site backend features "$REMOTE"
  HASH=''
  if grep -Fq '"md5"' "$WORK/answer"; then HASH=MD5; fi
}

# rclone ARGUMENT…: its output goes to $WORK/answer, its messages to the log, and the first of them to $WORK/remote-error.
rclone() { attend piped /tools/rclone "$@"; }

piped() {
  "$@" 2>&1 >"$WORK/answer" | tell
}

tell() {
  local line count=0
  : >"$WORK/remote-error"
  while IFS= read -r line; do
    printf '%s\n' "$line" >&"$LOG"
    if ((count++ < 1000)); then printf '%s\n' "$line" >>"$WORK/remote-error"; fi
  done
}

# off_site ARGUMENT…: an rclone that must succeed.
off_site() { rclone "$@" || refused "rclone $1 failed"; }

# fetch FROM TO FILTER…: copies what is there of small files; nothing there is no error.
fetch() {
  local status=0
  mkdir -p -- "$2"
  rclone copy "$1" "$2" "${@:3}" || status=$?
  # 3: a store with real folders has none of that name.
  ((status == 0 || status == 3)) || refused "$1 cannot be read"
}

# refused WHAT: the last rclone failed, and so does the job.
refused() {
  local said
  said=$(grep -m 1 -a -E 'ERROR|CRITICAL|Failed' -- "$WORK/remote-error" || head -n 1 -- "$WORK/remote-error")
  classify_remote_error "$(<"$WORK/remote-error")"
  said=${said#* @(ERROR |CRITICAL|NOTICE): }
  fail "$CODE" "$1: ${said:0:600}." "$ADVICE"
}

# classify_remote_error TEXT: sets CODE and ADVICE.
classify_remote_error() {
  case $1 in
    *"find section in config"* | *'Failed to create file system'* | *'config file'* | *'NewFs'*)
      CODE=78 ADVICE='Correct the configuration of rclone in the Secret, or the value offsite.remote.'
      ;;
    *'source file is being updated'*)
      CODE=75 ADVICE='Files change while they are copied: the next run takes them.'
      ;;
    *SignatureDoesNotMatch* | *InvalidAccessKeyId* | *AccessDenied* | *'Access Denied'* | *ExpiredToken* | *InvalidToken* | \
      *'StatusCode: 401'* | *'StatusCode: 403'* | *Unauthorized* | *Forbidden* | *'unable to authenticate'* | *RequestTimeTooSkewed*)
      CODE=77 ADVICE='Check the keys in the Secret, and what the store lets them do there.'
      ;;
    *': permission denied'*)
      CODE=77 ADVICE="The pod's user $(id -u):$(id -g) must be able to read every file that is copied."
      ;;
    *NoSuchBucket* | *'directory not found'*)
      CODE=66 ADVICE='Make the bucket (or folder), or correct the value offsite.remote: it is never made by this job.'
      ;;
    *KeyTooLong* | *'ile name too long'* | *InvalidObjectName*)
      CODE=65 ADVICE='The store cannot hold a name of that length or kind: rename the file.'
      ;;
    *QuotaExceeded* | *InsufficientStorage* | *StorageFull* | *'uota exceeded'* | *'No space left'* | *'no space left'*)
      CODE=73 ADVICE='Make room in the store or keep fewer dumps there; no dump is ever deleted to make room.'
      ;;
    *'onnection refused'* | *'no such host'* | *'server misbehaving'* | *'i/o timeout'* | *'o route to host'* | *'onnection reset'* | \
      *'etwork is unreachable'* | *'TLS handshake'* | *x509:* | *'unexpected EOF'* | *'request send failed'*)
      CODE=69 ADVICE='Check that the store runs, and that the NetworkPolicy (values network.offsitePeers and offsitePorts) lets this pod reach it.'
      ;;
    *) CODE=75 ADVICE='Read the lines above; the next run tries again.' ;;
  esac
}

# ---- dumps --------------------------------------------------------------------------------------------------------

# send_folder FOLDER: every verified dump of the newest KEEP, then the retention.
send_folder() {
  local folder=$1 name path sent=0
  declare -A VERIFIED=() GOOD=() ALTERED=()
  while IFS= read -r path; do
    if verified "$path"; then VERIFIED[${path##*/}]=$path; fi
  done < <(dumps "$BACKUP_VOLUME/$folder")
  survey "$folder"
  if ((${#VERIFIED[@]} == 0)); then
    if ((${#GOOD[@]})); then
      problem 66 "There is no verified dump in $folder any more, while off-site there are ${#GOOD[@]}; they are kept." \
        'Look why that tier publishes none, or take the folder out of the value offsite.folders.'
    fi
    KEPT=$((KEPT + ${#GOOD[@]}))
    return 0
  fi
  choose "$folder"
  for name in "${WANTED[@]}"; do
    path=${VERIFIED[$name]-}
    if [[ -z $path ]] || { [[ -n ${GOOD[$name]-} ]] && cmp -s -- "$(manifest_of "$path")" "$(manifest_off_site "$folder" "$name")"; }; then
      continue
    fi
    if send "$path" "$folder"; then
      sent=$((sent + 1))
      SENT_BYTES=$((SENT_BYTES + $(stat -c %s -- "$path")))
      if [[ -n ${ALTERED[$name]-} ]]; then REPAIRED=$((REPAIRED + 1)); fi
    fi
  done
  if ((sent)); then survey "$folder"; fi
  SENT=$((SENT + sent))
  for name in "${!ALTERED[@]}"; do
    problem 65 "$folder/$name was changed off-site, and is not there to be sent again." 'Find out who did it; move the object away.'
  done
  remove_old "$folder"
  for name in "${!GOOD[@]}"; do
    if [[ ! $name < $OLDEST ]]; then KEPT=$((KEPT + 1)); fi
  done
}

manifest_off_site() { printf '%s' "$WORK/off-site/$1/$2.tsv"; }

# survey FOLDER: what is off-site there. Sets THERE to the names of dumps, GOOD to those that are verified, and ALTERED to
# those that once were.
survey() {
  local folder=$1 name rest size manifest limit
  limit=backup-$(date -d '+10 minutes' +%Y-%m-%dT%H:%M:%SZ)
  THERE=() GOOD=() ALTERED=()
  rm -rf -- "$WORK/off-site/$folder"
  fetch "$REMOTE/$folder/.manifest" "$WORK/off-site/$folder" --include='/backup-*.tsv' --include='/backup-*.stored'
  rclone lsf --files-only --format="pst${HASH:+h}" --hash=MD5 --separator='|' "$REMOTE/$folder" || (($? == 3)) || refused "$folder cannot be listed"
  while IFS='|' read -r name rest; do
    [[ $name =~ $DUMP_NAME && $name < $limit ]] || continue
    THERE+=("$name")
    size=${rest%%|*} manifest=$(manifest_off_site "$folder" "$name")
    [[ -s $manifest && -s ${manifest%.tsv}.stored ]] || continue
    [[ $(manifest_value "$manifest" namespace) == "$NAMESPACE" ]] ||
      fail 77 "$REMOTE/$folder holds the dumps of another stack ($(manifest_value "$manifest" namespace))." \
        'Give every stack a place of its own (value offsite.remote).'
    if [[ $(<"${manifest%.tsv}.stored") == "$rest" && $(manifest_value "$manifest" name) == "$name" && $(manifest_value "$manifest" bytes) == "$size" ]]; then
      GOOD[$name]=1
    else
      ALTERED[$name]=1
      say "$folder/$name is not what was stored: $rest instead of $(<"${manifest%.tsv}.stored")."
    fi
  done <"$WORK/answer"
}

# choose FOLDER: sets WANTED to the verified dumps, here or there, from the newest to the KEEP-th that is not suspicious,
# and OLDEST to that one (to nothing, where there are fewer).
choose() {
  local name good=0 manifest
  WANTED=() OLDEST=''
  while IFS= read -r name; do
    WANTED+=("$name")
    manifest=$(manifest_off_site "$1" "$name")
    if [[ -n ${VERIFIED[$name]-} ]]; then manifest=$(manifest_of "${VERIFIED[$name]}"); fi
    if [[ $(manifest_value "$manifest" suspicious) != yes ]]; then good=$((good + 1)); fi
    if ((good == KEEP)); then
      OLDEST=$name
      break
    fi
  done < <(printf '%s\n' "${!VERIFIED[@]}" "${!GOOD[@]}" | sort -ru | sed '/^$/d')
}

# send PATH FOLDER: a dump and its manifest, read back; only then it counts as being there.
send() {
  local path=$1 name=${1##*/} manifest there=$REMOTE/$2 stored=$WORK/stored said size hash
  manifest=$(manifest_of "$path")
  say "Sending $2/$name, $(($(stat -c %s -- "$path") >> 20)) MiB."
  on_volume hashes "$path"
  if [[ $(<"$WORK/sha256.read") != "$(manifest_value "$manifest" sha256)" ]]; then
    problem 65 "$2/$name on the backup volume is not what its manifest says: its sha256 differs; it was not sent." \
      'It was changed or damaged: check the volume and its file server, and move it away.'
    return 1
  fi
  off_site copyto --ignore-times "$manifest" "$there/.manifest/$name.tsv"
  RCLONE_STATS=30s off_site copyto --ignore-times "$path" "$there/$name"
  off_site lsf --format="st${HASH:+h}" --hash=MD5 --separator='|' "$there/$name"
  said=$(<"$WORK/answer")
  size=${said%%|*} hash=''
  [[ -z $HASH ]] || hash=${said##*|}
  if [[ $size != "$(manifest_value "$manifest" bytes)" ]] || ! same_off_site "$hash" "$there/$name"; then
    fail 74 "$2/$name reads back differently from the store ($said)." 'Check the store: it does not keep what it is given. The next run sends it again.'
  fi
  printf '%s\n' "$said" >"$stored"
  off_site copyto --ignore-times "$stored" "$there/.manifest/$name.stored"
}

# same_off_site MD5-OR-NOTHING OBJECT: a store that knows no hash has to give the dump back.
same_off_site() {
  if [[ -n $1 ]]; then
    [[ $1 == "$(<"$WORK/md5.read")" ]]
  else
    local expected
    expected=$(<"$WORK/sha256.read")
    attend given_back "$2" || refused "$2 cannot be read back"
    [[ $(<"$WORK/sha256.read") == "$expected" ]]
  fi
}

given_back() {
  : >"$WORK/remote-error"
  /tools/rclone cat "$1" 2>>"$WORK/remote-error" | digest >"$WORK/sha256.read"
}

# hashes PATH: its sha256 and its MD5, read once.
hashes() {
  rm -f -- "$WORK/pipe"
  mkfifo -- "$WORK/pipe"
  digest <"$WORK/pipe" >"$WORK/sha256.read" &
  tee -- "$WORK/pipe" <"$1" | md5sum | cut -c -32 >"$WORK/md5.read"
  wait $!
}

# remove_old FOLDER: dumps older than the KEEP-th newest good one, and what is left of the manifests of such.
remove_old() {
  local folder=$1 name path
  choose "$folder"
  for name in "${WANTED[@]}"; do
    [[ -n ${GOOD[$name]-} ]] || return 0 # one that should be there is not: nothing goes
  done
  [[ -n $OLDEST ]] || return 0
  : >"$WORK/old"
  : >"$WORK/old-manifests"
  for name in "${THERE[@]}"; do
    if [[ $name < $OLDEST ]]; then
      say "Removing $folder/$name off-site: $KEEP newer dumps are verified."
      printf '%s\n' "$name" >>"$WORK/old"
    fi
  done
  for path in "$WORK/off-site/$folder"/backup-*; do
    name=${path##*/}
    if [[ ${name%.*} =~ $DUMP_NAME && ${name%.*} < $OLDEST ]]; then printf '%s\n' "$name" >>"$WORK/old-manifests"; fi
  done
  # The dump first: a manifest alone is nothing to a reader.
  if [[ -s $WORK/old ]]; then
    off_site delete --files-from-raw="$WORK/old" "$REMOTE/$folder"
    REMOVED=$((REMOVED + $(wc -l <"$WORK/old")))
  fi
  if [[ -s $WORK/old-manifests ]]; then off_site delete --files-from-raw="$WORK/old-manifests" "$REMOTE/$folder/.manifest"; fi
}

# ---- media --------------------------------------------------------------------------------------------------------

copy_media() {
  local before after there files bytes special time
  # An empty folder is kept as an object whose name ends in a slash.
  export RCLONE_S3_DIRECTORY_MARKERS=true
  measure_media
  read -r files bytes special <"$WORK/media"
  before=$files
  ((files > 0)) || fail 66 'The media volume holds no file; the media off-site are as they were.' \
    'Check that the claim is the right one and is mounted.'
  check_share "$files" "$bytes"

  time=$(date +%Y-%m-%dT%H%M%SZ)
  say "Copying the media: $files files, $((bytes >> 20)) MiB."
  RCLONE_STATS=30s off_site sync --links --create-empty-src-dirs --backup-dir="$REMOTE/trash/media/$time" --missing-on-dst="$WORK/added" \
    --differ="$WORK/replaced" --missing-on-src="$WORK/deleted" "$MEDIA_VOLUME" "$REMOTE/media"
  CHANGED=$(cat -- "$WORK/added" "$WORK/replaced" "$WORK/deleted" | wc -l)
  figure media_added "$(wc -l <"$WORK/added")"
  figure media_replaced "$(wc -l <"$WORK/replaced")"
  figure media_deleted "$(wc -l <"$WORK/deleted")"
  rm -f -- "$WORK/added" "$WORK/replaced" "$WORK/deleted"

  # A name that was left out would be missed here; what came and went meanwhile is no error.
  measure_media
  read -r after bytes special <"$WORK/media"
  off_site size --json "$REMOTE/media"
  there=$(answered count)
  figure media_files "$there"
  figure media_bytes "$(answered bytes)"
  ((there >= (before < after ? before : after) && there <= (before > after ? before : after))) ||
    fail 65 "Off-site there are $there media files, and the volume holds $after." 'Read the lines above for names that the store cannot hold.'
  printf 'format\t1\nnamespace\t%s\nfinished\t%s\nfiles\t%s\nbytes\t%s\n' \
    "$NAMESPACE" "$(date +%Y-%m-%dT%H:%M:%SZ)" "$there" "$(answered bytes)" >"$WORK/media.state"
  off_site copyto --ignore-times "$WORK/media.state" "$REMOTE/media.state"
  empty_trash
  ((special == 0)) || problem 65 "The media volume holds $special pipes, sockets or devices, which no store can hold; all else is off-site." \
    'Remove them from the volume.'
}

# measure_media: files and links, their bytes, and what is neither file, link nor folder.
measure_media() {
  on_volume find "$MEDIA_VOLUME" -mindepth 1 -printf '%y %s\n' >"$WORK/found"
  awk '$1 == "f" || $1 == "l" { n++; bytes += $2; next } $1 != "d" { special++ } END { printf "%.0f %.0f %.0f\n", n, bytes, special }' \
    "$WORK/found" >"$WORK/media"
  rm -f -- "$WORK/found"
}

# check_share FILES BYTES: a source that shrank would sweep the copy into the trash, and from there out of the world.
check_share() {
  local files bytes
  fetch "$REMOTE" "$WORK/state" --max-depth=1 --include=/media.state
  if [[ -s $WORK/state/media.state ]]; then
    files=$(manifest_value "$WORK/state/media.state" files) bytes=$(manifest_value "$WORK/state/media.state" bytes)
    [[ $(manifest_value "$WORK/state/media.state" namespace) == "$NAMESPACE" ]] ||
      fail 77 "$REMOTE holds the media of another stack." 'Give every stack a place of its own (value offsite.remote).'
  else
    rclone size --json "$REMOTE/media" || (($? == 3)) || refused 'The media off-site cannot be counted'
    files=$(answered count) bytes=$(answered bytes)
  fi
  if (($1 * 100 < ${files:-0} * MINIMUM_SHARE || $2 * 100 < ${bytes:-0} * MINIMUM_SHARE)); then
    fail 65 "The media volume holds $1 files of $(($2 >> 20)) MiB, less than $MINIMUM_SHARE % of the $files files of $((bytes >> 20)) MiB off-site; the media off-site are as they were." \
      'Check the volume. If that many files were meant to go, run the job once by hand with MINIMUM_SHARE=0.'
  fi
}

# answered KEY: a number of the JSON in the answer.
answered() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$WORK/answer"; }

# empty_trash: by the time in a folder's name.
empty_trash() {
  local folder limit purged=0
  limit=$(date -d "-$TRASH_DAYS days" +%Y-%m-%dT%H%M%SZ)
  rclone lsf --dirs-only "$REMOTE/trash/media" || (($? == 3)) || refused 'The trash cannot be listed'
  cp -- "$WORK/answer" "$WORK/trash"
  while IFS= read -r folder; do
    if [[ $folder =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z/$ && $folder < $limit ]]; then
      say "Emptying trash/media/$folder: older than $TRASH_DAYS days."
      off_site purge "$REMOTE/trash/media/${folder%/}"
      purged=$((purged + 1))
    fi
  done <"$WORK/trash"
  figure trash_emptied "$purged"
}

{
  main "$@"
  exit
}
