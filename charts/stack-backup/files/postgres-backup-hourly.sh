#!/bin/bash
# The hourly dump: pg_dumpall, compressed, under its final name only when it is whole, then the retention.
#
# Environment: JOB NAMESPACE POD_NAME PGHOST PGPORT DATABASE_SUPERUSER DATABASE_NAME PASSWORD_FILE BACKUP_VOLUME
# BACKUP_FOLDER KEEP COMPRESSOR MINIMUM_SHARE DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"

main() {
  begin
  UNTOUCHED='Nothing was published, and every earlier dump is as it was.'
  require NAMESPACE POD_NAME PGHOST PGPORT DATABASE_SUPERUSER DATABASE_NAME PASSWORD_FILE BACKUP_VOLUME BACKUP_FOLDER KEEP COMPRESSOR MINIMUM_SHARE
  number KEEP 1
  number MINIMUM_SHARE 0
  choose_compressor "$COMPRESSOR"

  FOLDER=$BACKUP_VOLUME/$BACKUP_FOLDER
  STARTED=$(date +%Y-%m-%dT%H:%M:%SZ)
  NAME=backup-$STARTED-dumpall.sql.$SUFFIX
  local dump=$FOLDER/$NAME unique=${POD_NAME:0:63}.$$.$RANDOM
  local temporary=$FOLDER/.tmp.$NAME.$unique manifest=$FOLDER/.manifest/.tmp.$NAME.$unique

  use_password "$PASSWORD_FILE"
  open_folder "$FOLDER"
  drop_former
  inspect_server
  check_space
  warn_of_future

  TEMPORARY+=("$temporary" "$manifest")
  say "Dumping the server $PGHOST:$PGPORT to $dump."
  take_dump "$temporary"
  check_databases
  check_copy "$temporary"
  write_manifest "$manifest" "$temporary"
  publish "$temporary" "$manifest" "$dump"
  retain
}

# Everything about the server that can be known before the dump; a server that cannot give a whole one is refused here.
inspect_server() {
  local client answer refusing='' database
  CLIENT_VERSION=$(pg_dumpall --version)
  CLIENT_VERSION=${CLIENT_VERSION#*PostgreSQL) }
  query "$DATABASE_NAME" "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), system_identifier
    FROM pg_control_system()"
  mapfile -d '' -t answer <"$WORK/answer"
  SERVER_VERSION=${answer[1]} SYSTEM_IDENTIFIER=${answer[2]}
  client=${CLIENT_VERSION%%[!0-9]*}
  ((client >= answer[0])) || fail 78 "The image's pg_dumpall is version $CLIENT_VERSION, older than the server's $SERVER_VERSION." \
    "Use the image of the server's own major version (value database.image.tag)."

  # pg_dumpall passes over a database that takes no connections, and says nothing.
  query "$DATABASE_NAME" "SELECT datname, datallowconn AND datconnlimit <> -2, datistemplate FROM pg_database ORDER BY datname"
  mapfile -d '' -t answer <"$WORK/answer"
  DATABASES=()
  local i
  for ((i = 0; i + 2 < ${#answer[@]}; i += 3)); do
    if [[ ${answer[i + 1]} == t ]]; then
      DATABASES+=("${answer[i]}")
    elif [[ ${answer[i + 2]} == f ]]; then
      refusing+="${refusing:+, }\"${answer[i]}\""
    fi
  done
  [[ -z $refusing ]] || fail 66 "These databases take no connections, so they cannot be dumped: $refusing." \
    'Let them take connections (ALTER DATABASE … ALLOW_CONNECTIONS true), or drop what is invalid.'

  : >"$WORK/extensions"
  for database in "${DATABASES[@]}"; do
    query "$database" 'SELECT extname, extversion FROM pg_extension ORDER BY extname'
    mapfile -d '' -t answer <"$WORK/answer"
    for ((i = 0; i + 1 < ${#answer[@]}; i += 2)); do
      printf 'extension\t%s\t%s\t%s\n' "$(escaped "$database")" "$(escaped "${answer[i]}")" "$(escaped "${answer[i + 1]}")" >>"$WORK/extensions"
    done
  done
}

# Room for a dump like the newest, and some growth.
check_space() {
  local path newest='' free need
  while IFS= read -r path; do
    if [[ -z $newest ]] || verified "$path" || ! verified "$newest"; then newest=$path; fi
  done < <(dumps "$FOLDER")
  [[ -n $newest ]] || return 0
  need=$(($(stat -c %s -- "$newest") * 13 / 10))
  free=$(df --output=avail --block-size=1 -- "$FOLDER" | tail -n 1)
  ((free >= need)) || fail 73 "The volume has $((free >> 20)) MiB left, and a dump like the newest needs $((need >> 20)) MiB." \
    'Make the volume larger or keep fewer dumps; no dump is ever deleted to make room.'
}

# take_dump FILE: one pass counts what the dump holds, compresses it, writes it, and hashes what was written.
take_dump() {
  printf '%s' "$1" >"$WORK/progress"
  attend pipeline "$1" || : # every stage has its own status
  rm -f -- "$WORK/progress"
  local dump counted compressed written hashed
  read -r dump counted compressed written hashed <"$WORK/status"
  if [[ -s $WORK/dump-error ]]; then cat -- "$WORK/dump-error" >&2; fi

  # A full volume breaks every pipe before it: so the last stage is asked first.
  if grep -q -v -F "'standard output'" -- "$WORK/volume-error"; then
    cat -- "$WORK/volume-error" >&2
    classify_volume_error "$(<"$WORK/volume-error")"
    fail "$CODE" "The dump could not be written: $(cause "$WORK/volume-error")." "$ADVICE"
  fi
  [[ " $dump $counted $compressed $written $hashed " != *' 137 '* ]] ||
    fail 137 'A process of the dump was killed, most likely for want of memory.' 'Raise the memory limit (value backup.resources).'
  if ((dump)) && [[ -s $WORK/dump-error && $(<"$WORK/dump-error") != *'Broken pipe'* ]]; then
    classify_server_error "$(<"$WORK/dump-error")"
    ((CODE != 66)) || CODE=75 # it was there when the run began
    fail "$CODE" "pg_dumpall did not finish: $(cause "$WORK/dump-error")." "$ADVICE"
  fi
  ((compressed + written + hashed == 0)) ||
    fail 75 "The pipe from pg_dumpall to the volume broke (${COMPRESS[0]} $compressed, write $written, sha256 $hashed)." 'Read the lines above.'
  ((dump == 0)) || fail 65 "pg_dumpall ended with $dump and said nothing." 'Read the log of the server.'
  ((counted == 0)) || fail 65 'The stream of pg_dumpall ended before its last line.' 'Read the log of the server.'
}

pipeline() {
  set +e
  pg_dumpall --username="$DATABASE_SUPERUSER" --no-password 2>"$WORK/dump-error" |
    read_contents | "${COMPRESS[@]}" |
    tee --output-error=exit -- "$1" 2>"$WORK/volume-error" | digest >"$WORK/sha256"
  printf '%s\n' "${PIPESTATUS[*]}" >"$WORK/status"
}

# A dump that lacks a database is a whole stream all the same.
check_databases() {
  local database
  for database in "${DATABASES[@]}"; do
    printf 'database\t%s\n' "$(escaped "$database")"
  done >"$WORK/expected"
  while IFS= read -r database; do
    grep -qxF -e "$database" -- "$WORK/contents" || fail 65 "The dump lacks the database ${database#*$'\t'}." 'It may have been dropped meanwhile: run the job again.'
  done <"$WORK/expected"
  (($(manifest_count "$WORK/contents" table))) || fail 65 'The dump holds no table at all.' 'Check that this is the right server.'
}

# check_copy FILE: what the volume gives back is what was written to it. The page cache is dropped first, so that the
# answer comes from the disk or the file server where the kernel allows it.
check_copy() {
  on_volume sync -- "$1" # else nothing of it can be dropped
  on_volume dd if="$1" iflag=nocache count=0 status=none
  on_volume read_back "$1"
  [[ $(<"$WORK/sha256") == "$(<"$WORK/sha256.read")" ]] ||
    fail 74 'The dump reads back differently from what was written.' 'Check the volume and its file server: it does not keep what it is given.'
}

# write_manifest MANIFEST DUMP
write_manifest() {
  local baseline='' path tables sql_bytes
  sql_bytes=$(manifest_value "$WORK/contents" sql_bytes)
  tables=$(manifest_count "$WORK/contents" table)
  while IFS= read -r path; do
    if verified "$path" && ! suspicious "$path"; then baseline=$(manifest_of "$path"); fi
  done < <(dumps "$FOLDER")
  SUSPICION=''
  if [[ -n $baseline ]]; then
    local was_bytes was_tables
    was_bytes=$(manifest_value "$baseline" sql_bytes)
    was_tables=$(manifest_count "$baseline" table)
    if ((sql_bytes * 100 < was_bytes * MINIMUM_SHARE || tables * 100 < was_tables * MINIMUM_SHARE)); then
      SUSPICION="It holds $sql_bytes bytes of SQL in $tables tables, less than $MINIMUM_SHARE % of the $was_bytes bytes in $was_tables tables before"
    fi
  fi
  BYTES=$(stat -c %s -- "$2")
  {
    printf '%s\t%s\n' format 1 name "$NAME" sha256 "$(<"$WORK/sha256")" bytes "$BYTES" sql_bytes "$sql_bytes" \
      started "$STARTED" finished "$(date +%Y-%m-%dT%H:%M:%SZ)" job "$JOB" namespace "$NAMESPACE" \
      client_version "$CLIENT_VERSION" server_version "$SERVER_VERSION" system_identifier "$SYSTEM_IDENTIFIER" compressor "$COMPRESSOR"
    [[ -z $SUSPICION ]] || printf 'suspicious\tyes\n'
    cat -- "$WORK/extensions"
    awk -F '\t' '$1 != "sql_bytes"' "$WORK/contents"
  } >"$WORK/manifest"
  on_volume cp -- "$WORK/manifest" "$1"
}

# The retention, and the verdict over a published dump.
retain() {
  figure dump "$NAME"
  figure bytes "$BYTES"
  figure databases "$(manifest_count "$WORK/manifest" database)"
  figure tables "$(manifest_count "$WORK/manifest" table)"
  figure rows "$(awk -F '\t' '$1 == "table" { rows += $4 } END { printf "%.0f", rows }' "$WORK/manifest")"
  local pruned=0
  REMOVED=0
  if [[ -z $SUSPICION ]]; then prune "$FOLDER" "$KEEP" || pruned=$?; fi
  figure verified "$(count_verified "$FOLDER")"
  figure removed "$REMOVED"
  [[ -z $SUSPICION ]] || conclude 65 suspicious "The dump $NAME is published, but it shrank. $SUSPICION; it is marked as suspicious and no older dump was removed. \
Find out what became of the data; if all is well, run once with backup.minimumShare 0."
  ((pruned == 0)) || fail 75 'An old dump could not be removed.' 'Check the volume: without retention it fills up.'
  conclude 0 published "The dump $NAME is published and verified ($((BYTES >> 20)) MiB in $SECONDS s)."
}

{
  main "$@"
  exit
}
