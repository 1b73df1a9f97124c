# shellcheck shell=bash disable=SC2034,SC2317
# What the programs share: the verdict, the password, and the protocol of a folder of dumps.
#
# A program sources this file, calls `begin`, does its work, and ends with `conclude` or `fail`. All that it prints is
# one stream, whose last line is the verdict: one JSON object, which is also the pod's termination message.

set -Eeuo pipefail
umask 027
# Messages in English and byte-wise text, whatever the image's default is: errors are told apart by their words.
export LC_ALL=C TZ=UTC PGCONNECT_TIMEOUT=20

NO_ROOM='Make the volume larger or keep fewer dumps; no dump is ever deleted to make room.'
DUMP_NAME='^backup-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z-dumpall\.sql\.(gz|zst)$'

# ---- log, verdict, end --------------------------------------------------------------------------------------------

say() { printf '%s %s\n' "$(date +%Y-%m-%dT%H:%M:%SZ)" "$*" >&"$LOG"; }

# figure KEY NUMBER-OR-TEXT: one more member of the verdict.
figure() {
  local value=$2
  [[ $value =~ ^(0|[1-9][0-9]*)$ ]] || value=$(json "$value")
  FIGURES+=",\"$1\":$value"
}

# json TEXT: as a JSON string. What is no UTF-8 is left out, and so is what a termination message cannot hold (4096 bytes).
json() {
  local text
  text=$(iconv -c -f UTF-8 -t UTF-8 <<<"${1:0:1500}") || : # it says so when it left something out
  text=${text//\\/"\\\\"}
  text=${text//\"/"\\\""}
  text=${text//$'\n'/"\\n"}
  text=${text//$'\t'/"\\t"}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# begin: to be called first. Takes what every job has from the environment: JOB, DEADLINE_SECONDS.
begin() {
  exec 2>&1 {LOG}>&1 # a trap may run while the output of a command goes elsewhere
  FIGURES='' FAILED_AT='' CHILD='' WATCH='' WORK='' UNTOUCHED='' PUBLISHING=() TEMPORARY=() AT_END=()
  trap 'FAILED_AT="${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND"' ERR
  trap 'end $?' EXIT
  trap 'fail 143 "The job was told to stop."' TERM INT HUP
  trap 'fail 124 "The job did not end within $((DEADLINE_SECONDS - 120)) s." \
    "Look for what holds it up: a lock in the database, a slow server, or a slow volume."' USR1
  require JOB DEADLINE_SECONDS
  number DEADLINE_SECONDS 121
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/work.XXXXXXXX")
  set -m
  watch &
  WATCH=$!
  set +m
  disown "$WATCH" # else bash reports its end
}

# require NAME…: each must be set to something.
require() {
  local name
  for name; do
    [[ -n ${!name-} ]] || fail 64 "The variable $name is not set." 'Correct the values of the release.'
  done
}

# number NAME LEAST
number() {
  if ! [[ ${!1} =~ ^(0|[1-9][0-9]{0,8})$ && ${!1} -ge $2 ]]; then
    fail 64 "The variable $1 is \"${!1}\"; it must be a whole number from $2 on." 'Correct the values of the release.'
  fi
}

# fail CODE WHAT-HAPPENED [WHAT-TO-DO]: ends the program. UNTOUCHED says what the failure left as it was.
fail() {
  trap '' TERM INT HUP USR1
  settle
  verdict "$1" failed "$2${UNTOUCHED:+ $UNTOUCHED}${3:+ $3}"
  exit "$1"
}

# conclude CODE OUTCOME MESSAGE
conclude() {
  verdict "$@"
  exit "$1"
}

verdict() {
  trap '' TERM INT HUP USR1
  clean
  local line
  line="{\"job\":$(json "${JOB-}"),\"exit\":$1,\"outcome\":\"$2\",\"message\":$(json "$3")$FIGURES,\"seconds\":$SECONDS}"
  say "$3"
  if [[ -n ${TERMINATION_LOG-} ]]; then
    printf '%s\n' "$line" >"$TERMINATION_LOG" || say "The termination message could not be written to $TERMINATION_LOG."
  fi
  printf '%s\n' "$line" >&"$LOG"
  trap - EXIT
}

# Reached only when a command failed that no line of the program expected to fail.
end() {
  fail 75 "The program stopped unexpectedly at ${FAILED_AT:-its end with $1}."
}

# Ends what still runs and takes away what is unfinished. AT_END are commands that end what is neither CHILD nor WATCH.
clean() {
  local command
  [[ -z $CHILD ]] || kill -TERM -- "-$CHILD" || :
  [[ -z $WATCH ]] || kill -KILL -- "-$WATCH" || :
  CHILD='' WATCH=''
  for command in ${AT_END[@]+"${AT_END[@]}"}; do "$command" || :; done
  rm -rf -- ${WORK:+"$WORK"} ${TEMPORARY[@]+"${TEMPORARY[@]}"} || :
}

# The inner deadline: earlier than Kubernetes' own, which would take the pod and its log away.
watch() {
  local left
  while left=$((DEADLINE_SECONDS - 120 - SECONDS)) && ((left > 0)); do
    sleep $((left < 30 ? left : 30))
    say "$SECONDS s$(progress)"
  done
  kill -USR1 $$
}

# $WORK/progress names a file that is being written, or what the kernel knows of one that is being read.
progress() {
  local path
  [[ -s $WORK/progress ]] || return 0
  path=$(<"$WORK/progress")
  case $path in
    /proc/*) printf ', %s MiB read' "$(($(awk '$1 == "pos:" { print $2 }' "$path") >> 20))" ;;
    *) printf ', %s MiB written' "$(($(stat -c %s -- "$path") >> 20))" ;;
  esac
}

# attend COMMAND…: runs it in a process group of its own, so that a signal ends it and all its children at once
# (bash runs a trap only when the command in the foreground has ended).
attend() {
  local status=0
  set -m
  "$@" </dev/null &
  CHILD=$!
  set +m
  wait "$CHILD" || status=$?
  CHILD=''
  return "$status"
}

# ---- errors -------------------------------------------------------------------------------------------------------

# What a server said: sets CODE and ADVICE.
classify_server_error() {
  case $1 in
    *'server version mismatch'*)
      CODE=78 ADVICE='Use the image of the server'\''s own major version (value database.image.tag).'
      ;;
    *'password authentication failed'* | *'no password supplied'* | *'no pg_hba.conf entry'* | *'permission denied'* | \
      *'must be superuser'* | *'is not permitted to log in'* | *role\ *' does not exist'*)
      CODE=77 ADVICE='Check the superuser and its password in the Secret: a changed Secret does not change the role in the server.'
      ;;
    *'could not translate host name'* | *'onnection refused'* | *'timeout expired'* | *'onnection timed out'* | *'o route to host'* | \
      *'etwork is unreachable'* | *'closed the connection'* | *'terminating connection'* | *'onnection reset'* | *'SSL SYSCALL'* | \
      *'system is starting up'* | *'system is shutting down'* | *'in recovery mode'* | *'too many clients'* | *'connection slots'* | \
      *'not yet accepting connections'* | *'could not receive data'* | *'could not send data'*)
      CODE=69 ADVICE='Check that the server runs and that its Service and NetworkPolicy let this pod reach it.'
      ;;
    *'not currently accepting connections'* | *'invalid database'* | *database\ *' does not exist'*)
      CODE=66 ADVICE='Check that this is the right server, and that the database exists and takes connections (values database.host and database.name).'
      ;;
    *) CODE=65 ADVICE='Read the lines above and the log of the server.' ;;
  esac
}

# What the volume's file system said: sets CODE and ADVICE.
classify_volume_error() {
  case $1 in
    *'No space left'* | *'quota exceeded'* | *'File too large'*)
      CODE=73 ADVICE=$NO_ROOM
      ;;
    *'Read-only file system'* | *'Permission denied'* | *'Operation not permitted'* | *'Not a directory'*)
      CODE=77 ADVICE="The pod's user $(id -u):$(id -g) must have the right to: check the volume's owner, and that it is not read-only where it is written."
      ;;
    *'Stale file handle'* | *'Resource temporarily'*)
      CODE=75 ADVICE='The next run tries again; if it comes back, check the file server.'
      ;;
    *) CODE=74 ADVICE='Check the volume and its file server.' ;;
  esac
}

# cause FILE: the one line of an error output that says most.
cause() {
  grep -m 1 -a -F 'Error message from server:' -- "$1" || grep -m 1 -a -E 'error|FATAL|ERROR' -- "$1" || head -n 1 -- "$1"
}

# on_volume COMMAND…: a command on the volume; when it fails, so does the job, with the file system's own words.
on_volume() {
  attend "$@" 2>"$WORK/volume-error" || volume_refused
}

# volume_refused: ends the program with what the file system said last.
volume_refused() {
  cat -- "$WORK/volume-error" >&2
  classify_volume_error "$(<"$WORK/volume-error")"
  fail "$CODE" "The volume refused: $(cause "$WORK/volume-error")." "$ADVICE"
}

# ---- server -------------------------------------------------------------------------------------------------------

# use_password FILE: libpq takes the password from a file in memory, where `:` and `\` are escaped.
use_password() {
  [[ -s $1 ]] || fail 78 "There is no password in ${1##*/} (the Secret or its key is missing or empty)." \
    'Create the Secret with the key that the values name (database.secret).'
  local password
  password=$(<"$1") # without the newline that editors put at the end
  [[ $password != *$'\n'* && -n $password ]] || fail 78 "The password in ${1##*/} is empty or has several lines." 'Correct the Secret.'
  password=${password//\\/"\\\\"}
  export PGPASSFILE=$WORK/pgpass
  (umask 077 && printf '*:*:*:*:%s\n' "${password//:/"\\:"}" >"$PGPASSFILE")
}

# query DATABASE SQL: prints fields and records, each ended by a NUL byte, to $WORK/answer.
query() {
  PGDATABASE=$1 PGCLIENTENCODING=UTF8 attend psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password \
    --quiet --tuples-only --no-align --field-separator-zero --record-separator-zero --set=ON_ERROR_STOP=1 --command="$2" \
    >"$WORK/answer" 2>"$WORK/server-error" && return
  cat -- "$WORK/server-error" >&2
  classify_server_error "$(<"$WORK/server-error")"
  fail "$CODE" "Asking the server $PGHOST:$PGPORT failed: $(cause "$WORK/server-error")." "$ADVICE"
}

literal() { printf "'%s'" "${1//\'/\'\'}"; }
identifier() { printf '"%s"' "${1//\"/\"\"}"; }

# drop_former: drops the databases that a recovery has replaced and whose time is over. Name and setting must both say so:
# one that was taken back has the setting, too.
drop_former() {
  local names name
  query postgres "SELECT datname FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) setting
    WHERE setrole = 0 AND datname ~ '_former_[0-9]{14}\$' AND setting LIKE 'stack_backup.drop_after=%'
    AND split_part(setting, '=', 2)::timestamptz <= now()"
  mapfile -d '' -t names <"$WORK/answer"
  for name in ${names[@]+"${names[@]}"}; do
    say "Dropping $name: a recovery has replaced it, and its time is over."
    query postgres "DROP DATABASE $(identifier "$name") WITH (FORCE)"
  done
}

# ---- a folder of dumps --------------------------------------------------------------------------------------------
# FOLDER/backup-…-dumpall.sql.gz    final names: whole dumps only
# FOLDER/.manifest/NAME.tsv         what a dump holds; a dump that agrees with its manifest is verified
# FOLDER/.tmp.…                     unfinished

# escaped TEXT: as a value in a manifest.
escaped() {
  local text=${1//\\/"\\\\"}
  text=${text//$'\t'/"\\t"}
  printf '%s' "${text//$'\n'/"\\n"}"
}

manifest_of() { printf '%s' "${1%/*}/.manifest/${1##*/}.tsv"; }

# manifest_value MANIFEST KEY: its first value, or nothing.
manifest_value() { awk -F '\t' -v key="$2" '$1 == key { print $2; exit }' "$1"; }

# manifest_count MANIFEST KEY
manifest_count() { awk -F '\t' -v key="$2" '$1 == key { n++ } END { print n + 0 }' "$1"; }

# open_folder FOLDER: makes it where needed, proves that files can be made, linked and removed in it, and takes away
# what killed runs left: nobody has touched it for longer than any run may live.
open_folder() {
  on_volume mkdir -p -- "$1/.manifest"
  local probe=$1/.tmp.probe.${POD_NAME:0:63}.$$.$RANDOM
  TEMPORARY+=("$probe" "$probe.link")
  on_volume cp -- "${BASH_SOURCE[0]}" "$probe"
  on_volume ln -- "$probe" "$probe.link"
  on_volume rm -- "$probe" "$probe.link"
  local old
  old=$(date -d "-$((DEADLINE_SECONDS + 300)) seconds" '+%Y-%m-%d %H:%M:%S')
  on_volume find "$1" "$1/.manifest" -maxdepth 1 -type f -name '.tmp.*' ! -newermt "$old" \
    -printf 'Removing %p, left by a run that was killed.\n' -delete
}

# open_source FOLDER WHAT-TO-DO: a folder of dumps that is only read. One that cannot be listed is not an empty one.
open_source() {
  [[ -d $1 ]] || fail 66 "There is no folder $1." "$2"
  on_volume ls -- "$1" >"$WORK/listing"
}

# dumps FOLDER: the paths of final names, oldest first. A name more than ten minutes ahead of the clock would be "the
# newest" for ever: it is left alone and left out.
dumps() {
  local path limit
  limit=backup-$(date -d '+10 minutes' +%Y-%m-%dT%H:%M:%SZ)
  for path in "$1"/backup-*; do
    if [[ ${path##*/} =~ $DUMP_NAME && -f $path && ! -L $path ]]; then
      if [[ ${path##*/} < $limit ]]; then printf '%s\n' "$path"; else printf '%s\n' "$path" >>"$WORK/future"; fi
    fi
  done
}

# warn_of_future: once, about what `dumps` left out.
warn_of_future() {
  local path
  [[ -e $WORK/future ]] || return 0
  while IFS= read -r path; do
    say "Ignoring ${path##*/}: its time is in the future."
  done < <(sort -u -- "$WORK/future")
}

# verified PATH: is there a manifest that agrees with the file?
verified() {
  local manifest
  manifest=$(manifest_of "$1")
  [[ -f $manifest && $(manifest_value "$manifest" name) == "${1##*/}" && $(manifest_value "$manifest" bytes) == "$(stat -c %s -- "$1")" ]]
}

# suspicious PATH: does its manifest say so?
suspicious() { [[ $(manifest_value "$(manifest_of "$1")" suspicious) == yes ]]; }

# publish DUMP MANIFEST PATH: gives a finished dump its final name, for good. The link to PATH is the commit point: a
# manifest alone is nothing to a reader.
publish() {
  on_volume sync -- "$1" "$2"
  PUBLISHING=("$@")
  link "$2" "$(manifest_of "$3")" || taken "$(manifest_of "$3")"
  link "$1" "$3" || taken "$3"
  settle
}

# link FILE NAME: never takes a name that is in use: false then. A file server may do it and lose the answer.
link() {
  if ! attend ln -T -- "$1" "$2" 2>"$WORK/volume-error" && ! [[ $2 -ef $1 ]]; then
    [[ ! -e $2 ]] || return 1
    volume_refused
  fi
  on_volume sync -- "${2%/*}"
}

taken() { fail 75 "The name ${1##*/} is taken already." 'Two runs began in the same second: the next one will find its own name.'; }

# settle: whatever ends the program in the middle of publishing, the files tell how far it came.
settle() {
  local dump manifest name
  ((${#PUBLISHING[@]})) || return 0
  dump=${PUBLISHING[0]} manifest=${PUBLISHING[1]} name=${PUBLISHING[2]}
  PUBLISHING=()
  if [[ $name -ef $dump ]]; then
    UNTOUCHED="The new dump ${name##*/} is published and whole."
  elif [[ ! -e $name && $(manifest_of "$name") -ef $manifest ]]; then
    rm -f -- "$(manifest_of "$name")"
  fi
}

# prune FOLDER KEEP [GRACE [GOOD]]: removes what is older than the KEEP-th newest verified dump that is not suspicious,
# unless that one came into the folder less than GRACE seconds ago: what it took the place of may still be read. GOOD is
# a command that a dump must pass, too, to be counted. Sets REMOVED. Lists the folder again: another run may have
# changed it.
prune() {
  local paths path keep=$2 grace=${3-0} good=0 i since
  REMOVED=0
  mapfile -t paths < <(dumps "$1")
  ((${#paths[@]} > keep)) || return 0
  for ((i = ${#paths[@]} - 1; i >= 0 && good < keep; i--)); do
    if verified "${paths[i]}" && ! suspicious "${paths[i]}" && "${4-:}" "${paths[i]}"; then good=$((good + 1)); fi
  done
  ((i >= 0)) || return 0
  since=$(stat -c %Y -- "$(manifest_of "${paths[i + 1]}")") || return
  if (($(date +%s) - since < grace)); then
    say "Leaving $((i + 1)) superseded dumps for a while: somebody may be reading them."
    return 0
  fi
  for (( ; i >= 0; i--)); do
    path=${paths[i]}
    say "Removing ${path##*/}: $keep newer dumps are verified."
    rm -f -- "$path" "$(manifest_of "$path")" || return
    REMOVED=$((REMOVED + 1))
  done
}

# age_of PATH: seconds since the time in a dump's name, which may be a little ahead of the clock.
age_of() {
  local name=${1##*/}
  name=${name#backup-}
  local age=$(($(date +%s) - $(date -d "${name%%-dumpall*}" +%s)))
  printf '%s' $((age < 0 ? 0 : age))
}

# find_newest FOLDER…: sets NEWEST to the newest verified dump that is not suspicious, or to nothing, and DOUBT to a
# sentence about a newer one that is suspicious.
find_newest() {
  local folder path doubtful=''
  NEWEST='' DOUBT=''
  for folder; do
    while IFS= read -r path; do
      if ! verified "$path"; then
        continue
      elif suspicious "$path"; then
        if [[ ${path##*/} > ${doubtful##*/} ]]; then doubtful=$path; fi
      elif [[ ${path##*/} > ${NEWEST##*/} ]]; then
        NEWEST=$path
      fi
    done < <(dumps "$folder")
  done
  if [[ ${doubtful##*/} > ${NEWEST##*/} ]]; then DOUBT="${doubtful##*/} is marked as suspicious, and was passed over."; fi
}

# read_back FILE: its sha256, to $WORK/sha256.read.
read_back() { digest <"$1" >"$WORK/sha256.read"; }

# read_afresh FILE: the same, from the disk or the file server where the kernel allows it, and not from memory.
read_afresh() {
  on_volume dd if="$1" iflag=nocache count=0 status=none
  on_volume read_back "$1"
}

# is_what FILE MANIFEST: has FILE, which was just read, the sha256 that MANIFEST says?
is_what() { [[ $(<"$WORK/sha256.read") == "$(manifest_value "$1" sha256)" ]]; }

# expect_digest FILE MANIFEST WHAT: FILE must have the sha256 that MANIFEST says.
expect_digest() {
  read_afresh "$1"
  is_what "$2" ||
    fail 65 "$3 is not what its manifest says: its sha256 differs." 'It was changed or damaged: use another dump, and check the volume and its file server.'
}

# need_room FOLDER BYTES
need_room() {
  local free need=$(($2 + (1 << 20)))
  on_volume df --output=avail --block-size=1 -- "$1" >"$WORK/free"
  free=$(tail -n 1 -- "$WORK/free")
  ((free >= need)) || fail 73 "$1 has $((free >> 20)) MiB left, and the dump needs $((need >> 20)) MiB." \
    'Make room there or keep fewer dumps; no dump is ever deleted to make room.'
}

# take_over DUMP FOLDER cp|ln: brings a verified dump with its manifest into another folder, under its own name, for good:
# a copy, or a link where the file system gives one. Sets TAKEN to `published`, or to `present` when another run has
# brought it, and it is whole.
take_over() {
  local source=$1 path=$2/${1##*/} how=$3 unique=${POD_NAME:0:63}.$$.$RANDOM
  local temporary=$2/.tmp.${1##*/}.$unique manifest
  manifest=$(manifest_of "$source")
  TAKEN=present
  if [[ -e $path ]]; then
    take_present "$source" "$path"
    return
  fi
  TEMPORARY+=("$temporary")
  expect_digest "$source" "$manifest" "The source ${source##*/}"
  if [[ $how == ln ]] && can_link "$source" "$temporary"; then
    # The dump itself: a temporary link would be as old as the dump, so that another run might sweep it.
    temporary=$source
  else
    need_room "$2" "$(stat -c %s -- "$source")"
    printf '%s' "$temporary" >"$WORK/progress"
    on_volume cp -- "$source" "$temporary"
    on_volume sync -- "$temporary"
    read_afresh "$temporary"
    is_what "$manifest" ||
      fail 74 "The copy of ${source##*/} reads back differently from its source." 'Check the volume and its file server: it does not keep what it is given.'
    rm -f -- "$WORK/progress"
  fi
  put_manifest "$manifest" "$path"
  PUBLISHING=("$temporary" "$WORK/none" "$path")
  if link "$temporary" "$path"; then
    settle
    TAKEN=published
  else
    PUBLISHING=()
    take_present "$source" "$path"
  fi
}

# take_present SOURCE PATH: a dump of this name is there. It is read again: the sizes agree in a damaged one, too.
take_present() {
  if ! [[ $2 -ef $1 ]]; then
    read_afresh "$2"
    is_what "$(manifest_of "$1")" ||
      fail 65 "$2 is there already, but it is not what the manifest of the source says: its sha256 differs." \
        'It was changed or damaged there: move it away, check the volume and its file server, and run this job again.'
  fi
  put_manifest "$(manifest_of "$1")" "$2"
}

# put_manifest MANIFEST PATH: as the manifest of the dump PATH. A run that was killed may have left the same or half of one.
put_manifest() {
  local manifest=$1 target temporary
  target=$(manifest_of "$2")
  cmp -s -- "$manifest" "$target" && return
  temporary=${target%/*}/.tmp.${2##*/}.${POD_NAME:0:63}.$$.$RANDOM
  TEMPORARY+=("$temporary")
  on_volume cp -- "$manifest" "$temporary"
  on_volume sync -- "$temporary"
  attend mv -T -- "$temporary" "$target" 2>"$WORK/volume-error" || cmp -s -- "$manifest" "$target" || volume_refused
  on_volume sync -- "${target%/*}"
}

# can_link FILE NAME: can FILE have another name there? Some file systems refuse it, and Linux does for the files of others.
can_link() {
  if attend ln -T -- "$1" "$2" 2>"$WORK/volume-error"; then
    on_volume rm -- "$2"
    return
  fi
  case $(<"$WORK/volume-error") in
    *'Operation not permitted'* | *'Too many links'* | *'not supported'* | *'cross-device link'*)
      say "No link can be made, so ${1##*/} is copied: $(cause "$WORK/volume-error")."
      return 1
      ;;
  esac
  volume_refused
}

# unpack PATH: a dump's SQL.
# shellcheck disable=SC2094 # unpack_stream only looks at the name
unpack() { unpack_stream "$1" <"$1"; }

# unpack_stream NAME: the same of what it reads; the name says how it is packed.
unpack_stream() {
  case $1 in
    *.zst) zstd -dc -q ;;
    *) gzip -dc ;;
  esac
}

# read_contents: passes a dump's text on, and writes what it holds to $WORK/contents. Fails when it is no whole dump.
read_contents() { awk -v contents="$WORK/contents" -f "$PROGRAMS/dump-scan.awk" -f "$PROGRAMS/dump-contents.awk"; }

# count_verified FOLDER
count_verified() {
  local path count=0
  while IFS= read -r path; do
    if verified "$path"; then count=$((count + 1)); fi
  done < <(dumps "$1")
  printf '%s' "$count"
}

# ---- compression and hashes: the fastest that the image has --------------------------------------------------------

# choose_compressor gzip|zstd: sets COMPRESS (a command that reads and writes streams) and SUFFIX.
choose_compressor() {
  case $1 in
    zstd) COMPRESS=(zstd -1 -T2 -q -c) SUFFIX=zst ;;
    gzip)
      COMPRESS=(gzip -1 -c) SUFFIX=gz
      # The same format, a third faster; a zstd that was built without zlib says no.
      if zstd --format=gzip -1 -q -c </dev/null >"$WORK/probe" 2>&1; then COMPRESS=(zstd --format=gzip -1 -q -c); fi
      ;;
    *) fail 64 "COMPRESSOR is \"$1\"; it must be gzip or zstd." 'Correct the value backup.compressor.' ;;
  esac
}

# digest: the sha256 of what it reads, in hexadecimal. openssl uses the processor's own instructions.
digest() {
  local line
  if type -P openssl >"$WORK/probe"; then line=$(openssl dgst -sha256 -r) || return; else line=$(sha256sum) || return; fi
  printf '%s\n' "${line%% *}"
}
