#!/bin/bash
# The recovery of the application's database: a dump is loaded beside the live database, counted, and takes its place in
# one step, or not at all. The server keeps its own roles and passwords.
#
# Environment: JOB NAMESPACE POD_NAME PGHOST PGPORT DATABASE_SUPERUSER DATABASE_NAME DATABASE_OWNER PASSWORD_FILE
# OWNER_PASSWORD_FILE SOURCE_VOLUME (read-only) SOURCE_FOLDERS DUMP CONFIRM ALLOW_SOURCE_SERVER KEEP_FORMER_SECONDS SQL_FILE
# SCRATCH DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"

main() {
  begin
  UNTOUCHED='The live database is as it was.'
  require NAMESPACE POD_NAME PGHOST PGPORT DATABASE_SUPERUSER DATABASE_NAME DATABASE_OWNER PASSWORD_FILE OWNER_PASSWORD_FILE \
    SOURCE_VOLUME SOURCE_FOLDERS DUMP ALLOW_SOURCE_SERVER KEEP_FORMER_SECONDS SQL_FILE SCRATCH
  number KEEP_FORMER_SECONDS 0
  [[ $ALLOW_SOURCE_SERVER == true || $ALLOW_SOURCE_SERVER == false ]] ||
    fail 64 "ALLOW_SOURCE_SERVER is \"$ALLOW_SOURCE_SERVER\"; it must be true or false." 'Correct the value databaseRecovery.allowSourceServer.'
  [[ -n ${CONFIRM-} ]] || fail 64 "Nothing confirms that the database of $NAMESPACE is to be replaced." "Start the run with CONFIRM=$NAMESPACE."
  [[ $CONFIRM == "$NAMESPACE" ]] || fail 77 "The run is confirmed for $CONFIRM, and this is $NAMESPACE." 'Check in which namespace you are.'
  STAMP=$(date +%Y%m%d%H%M%S)
  SIDE=${DATABASE_NAME:0:39}_restore_$STAMP FORMER=${DATABASE_NAME:0:39}_former_$STAMP

  [[ -s $OWNER_PASSWORD_FILE ]] || fail 78 "There is no password in ${OWNER_PASSWORD_FILE##*/} (the Secret or its key is missing or empty)." \
    "Create the Secret with the password of $DATABASE_OWNER (database.secret)."

  choose_dump
  use_password "$PASSWORD_FILE"
  inspect_target
  hold_server
  clear_leftovers
  fetch
  check_target
  make_side_database
  load
  compare
  run_sql
  swap
  finish
}

# ---- the dump -----------------------------------------------------------------------------------------------------

# choose_dump: sets CHOSEN, and MANIFEST to its manifest, or to nothing where an older tool made it.
choose_dump() {
  local folder path found=() folders
  read -ra folders <<<"$SOURCE_FOLDERS"
  for folder in "${folders[@]}"; do
    while IFS= read -r path; do
      found+=("$path")
    done < <(dumps "$SOURCE_VOLUME/$folder")
  done
  warn_of_future
  ((${#found[@]})) || fail 66 "There is no dump in the folders $SOURCE_FOLDERS of the source." 'Check that the right volume is mounted, and that the backup or the replicator runs.'
  CHOSEN=''
  if [[ $DUMP == latest ]]; then
    find_newest "${folders[@]/#/$SOURCE_VOLUME/}"
    CHOSEN=$NEWEST
    [[ -n $CHOSEN ]] || fail 66 'No dump of the source is verified, so none is the latest.' "Name one with DUMP: $(stamps "${found[@]}")."
  else
    for path in "${found[@]}"; do
      if [[ ${path##*/} == "backup-$DUMP-dumpall.sql."* ]] && { [[ -z $CHOSEN ]] || verified "$path"; }; then CHOSEN=$path; fi
    done
    [[ -n $CHOSEN ]] || fail 66 "There is no dump of $DUMP." "There are: $(stamps "${found[@]}")."
  fi
  MANIFEST=''
  if verified "$CHOSEN"; then
    MANIFEST=$(manifest_of "$CHOSEN")
  elif [[ -e $(manifest_of "$CHOSEN") ]]; then
    fail 65 "${CHOSEN##*/} is not of the size that its manifest says." 'It was cut off or changed: use another dump.'
  fi
  figure dump "${CHOSEN##*/}"
}

# stamps PATH…: the times of the newest few.
stamps() {
  printf '%s\n' "${@##*/}" | sort -r -u | sed -n -e '1,6{s/^backup-//;s/-dumpall.*//;p}' | paste -sd ' '
}

# fetch: a copy of the dump in the pod, proved to be whole before a byte of it reaches the server; what it holds goes to
# $WORK/contents, and of the application's database $WORK/create, properties, roles and version.
fetch() {
  local need free status
  COPY=$SCRATCH/${CHOSEN##*/}
  need=$(($(stat -c %s -- "$CHOSEN") + (1 << 20)))
  free=$(df --output=avail --block-size=1 -- "$SCRATCH" | tail -n 1)
  ((free >= need)) || fail 73 "The scratch space has $((free >> 20)) MiB, and the dump needs $((need >> 20)) MiB." 'Raise the value databaseRecovery.scratch.size.'
  TEMPORARY+=("$COPY")
  say "Copying and reading ${CHOSEN##*/} ($(($(stat -c %s -- "$CHOSEN") >> 20)) MiB)."
  printf '%s' "$COPY" >"$WORK/progress"
  on_volume cp -- "$CHOSEN" "$COPY"
  rm -f -- "$WORK/progress"
  if [[ -n $MANIFEST ]]; then
    expect_digest "$COPY" "$MANIFEST" "The dump ${CHOSEN##*/}"
  else
    say 'An older tool made this dump: it has no manifest, so only its own text can tell that it is whole.'
  fi
  NAME=$(escaped "$DATABASE_NAME")
  attend examine || :
  read -ra status <"$WORK/status"
  [[ ${status[0]} == 0 ]] || fail 65 "${CHOSEN##*/} cannot be unpacked to its end." 'It is damaged: use another dump.'
  [[ ${status[1]} == 0 ]] || fail 65 "${CHOSEN##*/} is cut off: its text ends before its last line." 'Use another dump.'
  [[ ${status[2]} == 0 ]] || fail 75 "Reading ${CHOSEN##*/} failed (${status[*]})." 'Read the lines above.'
  grep -qxF -e "database"$'\t'"$NAME" -- "$WORK/contents" ||
    fail 66 "${CHOSEN##*/} holds no database \"$DATABASE_NAME\"." "It holds: $(awk -F '\t' '$1 == "database" { print $2 }' "$WORK/contents" | paste -sd ' ')."
  # What an older pg_dumpall says of it lies before its part, and then the server's own defaults must do.
  [[ -s $WORK/create ]] || printf " WITH TEMPLATE = template0;\n" >"$WORK/create"
  DUMP_VERSION=$(head -n 1 -- "$WORK/version")
  [[ $DUMP_VERSION =~ ^[0-9]+ ]] || fail 65 "${CHOSEN##*/} does not say which version of PostgreSQL it is from." 'It is no dump of pg_dumpall.'
  ROWS=$(awk -F '\t' -v name="$NAME" '$1 == "table" && $2 == name { rows += $4 } END { printf "%.0f", rows }' "$WORK/contents")
  TABLES=$(awk -F '\t' -v name="$NAME" '$1 == "table" && $2 == name { n++ } END { print n + 0 }' "$WORK/contents")
  figure started "$([[ -z $MANIFEST ]] || manifest_value "$MANIFEST" started)"
  figure tables "$TABLES"
  figure rows "$ROWS"
}

examine() {
  set +e
  unpack "$COPY" | read_contents | cut_part >"$WORK/probe"
  printf '%s\n' "${PIPESTATUS[*]}" >"$WORK/status"
}

# What the part holds is printed; nothing of it fits into memory.
cut_part() {
  awk -v only="${NAME//\\/"\\\\"}" -v create="$WORK/create" -v properties="$WORK/properties" -v roles="$WORK/roles" -v version="$WORK/version" \
    -f "$PROGRAMS/dump-scan.awk" -f "$PROGRAMS/dump-part.awk"
}

# ---- the server ---------------------------------------------------------------------------------------------------

# ask DATABASE SQL: the one field of the answer.
ask() {
  query "$1" "$2"
  ANSWER=''
  IFS= read -r -d '' ANSWER <"$WORK/answer" || :
}

# execute DATABASE FILE WHAT: an SQL script, which stops at its first error.
execute() {
  if ! PGDATABASE=$1 PGCLIENTENCODING=UTF8 attend psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet \
    --set=ON_ERROR_STOP=1 --set=VERBOSITY=terse --file="$2" >"$WORK/answer" 2>"$WORK/server-error"; then
    cat -- "$WORK/server-error" >&2
    classify_server_error "$(<"$WORK/server-error")"
    fail "$CODE" "$3 failed: $(cause "$WORK/server-error")." "$ADVICE"
  fi
}

MAINTENANCE=postgres

# hold_server: only one recovery at a time: a session holds a lock as long as this run lives, and the server ends it soon
# after the run, however that ends.
hold_server() {
  local holder attempt lock=1937006963 # "stck"
  set -m
  PGDATABASE=$MAINTENANCE PGAPPNAME=recovery.${POD_NAME:0:50} psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet \
    --set=ON_ERROR_STOP=1 --command="SELECT set_config(name, '1s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'" \
    --command='SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET statement_timeout = 0' \
    --command="SELECT pg_advisory_lock($lock)" --command="SELECT pg_sleep($DEADLINE_SECONDS)" \
    </dev/null >"$WORK/hold" 2>&1 &
  HOLDER=$!
  set +m
  disown "$HOLDER"
  AT_END+=(let_go)
  for ((attempt = 1; ; attempt++)); do
    ask "$MAINTENANCE" "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
      WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = $lock"
    holder=$ANSWER
    [[ $holder != "recovery.${POD_NAME:0:50}" ]] || return 0
    ((attempt < 60)) || fail 75 "Another recovery is at work in this server: ${holder:-its session could not be made}." 'Wait for its end, then run this job again.'
    sleep 0.5
  done
}

let_go() { kill -KILL -- "-$HOLDER"; }

# lift_fence: the live database takes connections again, as many as before.
lift_fence() {
  ask "$MAINTENANCE" "SELECT split_part(setting, '=', 2) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase,
    unnest(setconfig) setting WHERE setrole = 0 AND datname = $(literal "$DATABASE_NAME") AND setting LIKE 'stack_backup.fence=%'"
  if [[ -n $ANSWER ]]; then
    say 'Lifting the fence that a run that was killed has left before the live database.'
    query "$MAINTENANCE" "$(unfence "$ANSWER")"
  fi
}

# clear_leftovers: what runs that were killed have left: a fence before the live database, half-loaded databases.
clear_leftovers() {
  local names name
  lift_fence
  query "$MAINTENANCE" "SELECT datname FROM pg_database
    WHERE datname ~ ('^' || regexp_replace($(literal "${DATABASE_NAME:0:39}"), '[^A-Za-z0-9_]', '.', 'g') || '_restore_[0-9]{14}\$')"
  mapfile -d '' -t names <"$WORK/answer"
  for name in ${names[@]+"${names[@]}"}; do
    say "Dropping $name, left by a run that was killed."
    query "$MAINTENANCE" "DROP DATABASE $(identifier "$name") WITH (FORCE)"
  done
}

# unfence LIMIT: takes connections again, as many as before.
unfence() {
  printf 'ALTER DATABASE %s CONNECTION LIMIT %d; ALTER DATABASE %s RESET "stack_backup.fence"' \
    "$(identifier "$DATABASE_NAME")" "$1" "$(identifier "$DATABASE_NAME")"
}

# inspect_target: is this the server that is meant?
inspect_target() {
  local answer
  query "$MAINTENANCE" "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, system_identifier
    FROM pg_control_system()"
  mapfile -d '' -t answer <"$WORK/answer"
  SERVER_VERSION=${answer[0]} SERVER_MAJOR=${answer[1]}
  if [[ -n $MANIFEST && $ALLOW_SOURCE_SERVER == false && $(manifest_value "$MANIFEST" system_identifier) == "${answer[2]}" ]]; then
    fail 77 "${CHOSEN##*/} was taken from this very server ($PGHOST:$PGPORT), and its database is not to be replaced by that." \
      'If that is what you want, as for a lost production database, set databaseRecovery.allowSourceServer.'
  fi
}

# check_target: can this server hold what the dump holds?
check_target() {
  local missing
  ((${DUMP_VERSION%%.*} <= SERVER_MAJOR)) ||
    fail 78 "The dump is from PostgreSQL $DUMP_VERSION, and the server is $SERVER_VERSION." 'A server of the same or a newer major version is needed.'
  [[ -n $MANIFEST ]] || return 0
  query "$MAINTENANCE" 'SELECT name FROM pg_available_extensions'
  tr '\0' '\n' <"$WORK/answer" >"$WORK/available"
  missing=$(awk -F '\t' -v name="$NAME" 'NR == FNR { there[$1] = 1; next }
    $1 == "extension" && $2 == name && !($3 in there) { print $3 }' "$WORK/available" "$MANIFEST" | paste -sd ' ')
  [[ -z $missing ]] || fail 78 "The dump needs extensions that the server lacks: $missing." 'Run the stack with the database image that has them.'
}

# ---- the new database ---------------------------------------------------------------------------------------------

make_side_database() {
  local role
  {
    # Its objects must belong to somebody. Who is new here cannot log in, and has no password.
    while IFS= read -r role; do
      if [[ $role == \"* ]]; then role=${role:1:-1} role=${role//\"\"/\"}; fi
      role=$(literal "$role")
      printf '%s\n' "SELECT 'CREATE ROLE ' || quote_ident($role) || ' NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $role) \\gexec"
    done < <(sort -u -- "$WORK/roles" - <<<"$(identifier "$DATABASE_OWNER")")
    printf 'CREATE DATABASE %s %s' "$(identifier "$SIDE")" "$(<"$WORK/create")"
  } >"$WORK/side.sql"
  AT_END+=(abandon)
  execute "$MAINTENANCE" "$WORK/side.sql" 'Making the new database'
}

# abandon: a run that comes to its end before the swap leaves nothing. (The server may be the reason: then the next run does it.)
abandon() {
  [[ -n $SIDE ]] || return 0
  local sql=("DROP DATABASE IF EXISTS $(identifier "$SIDE") WITH (FORCE)")
  [[ -z ${FENCED-} ]] || sql=("$(unfence "$FENCED")" "${sql[@]}")
  local statement
  for statement in "${sql[@]}"; do
    PGDATABASE=$MAINTENANCE PGOPTIONS='-c client_min_messages=warning' timeout 30 psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet --command="$statement" ||
      say 'What this run has begun in the server could not be taken back; the next run does it first.'
  done
  SIDE='' FENCED=''
}

load() {
  local status begun=$SECONDS
  say "Loading $ROWS rows of $TABLES tables into $SIDE, beside the live database."
  attend load_part || :
  read -ra status <"$WORK/status"
  if [[ ${status[2]} != 0 ]]; then
    cat -- "$WORK/server-error" >&2
    classify_server_error "$(<"$WORK/server-error")"
    case $(<"$WORK/server-error") in
      *'invalid command \restrict'*) CODE=78 ADVICE="Use a newer minor version of the database image: the dump asks for one." ;;
      *'No space left'*) CODE=73 ADVICE="Make the volume of the database larger: it must hold the live database and the new one." ;;
    esac
    fail "$CODE" "The dump could not be loaded: $(cause "$WORK/server-error")." "$ADVICE"
  fi
  [[ ${status[0]}${status[1]} == 00 ]] || fail 65 "${CHOSEN##*/} could not be read to its end the second time (${status[*]})." 'Run the job again.'
  figure load_seconds $((SECONDS - begun))
}

load_part() {
  set +e
  unpack "$COPY" | cut_part |
    PGDATABASE=$SIDE PGCLIENTENCODING=UTF8 PGOPTIONS='-c synchronous_commit=off -c maintenance_work_mem=256MB' \
      psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet --set=ON_ERROR_STOP=1 --set=VERBOSITY=terse \
      --set=SHOW_CONTEXT=never >"$WORK/probe" 2>"$WORK/server-error"
  printf '%s\n' "${PIPESTATUS[*]}" >"$WORK/status"
}

# compare: every row that was counted in the dump's text must be in the new database; nothing else says that it is whole.
compare() {
  local begun=$SECONDS wrong
  say 'Counting the rows of every table.'
  awk -F '\t' -v name="$NAME" '
    function plain(value,    out, at) {
      while ((at = index(value, "\\")) > 0) {
        out = out substr(value, 1, at - 1) (substr(value, at + 1, 1) == "n" ? "\n" : substr(value, at + 1, 1) == "t" ? "\t" : "\\")
        value = substr(value, at + 2)
      }
      return out value
    }
    BEGIN { print "\\pset format unaligned\n\\pset tuples_only on" }
    $1 == "table" && $2 == name { print "SELECT count(*) FROM ONLY " plain($3) ";" }
    $1 == "largeobject" && $2 == name { objects += $3 }
    END { print "SELECT count(*) FROM pg_largeobject_metadata;" }' "$WORK/contents" >"$WORK/count.sql"
  execute "$SIDE" "$WORK/count.sql" 'Counting the new database'
  awk -F '\t' -v name="$NAME" '$1 == "table" && $2 == name { print $3 "\t" $4 } $1 == "largeobject" && $2 == name { objects += $3 }
    END { print "large objects\t" objects + 0 }' "$WORK/contents" >"$WORK/expected"
  wrong=$(paste "$WORK/expected" "$WORK/answer" | awk -F '\t' '$2 != $3 { printf "%s%s has %s rows instead of %s", n++ ? ", " : "", $1, $3, $2 }')
  [[ -z $wrong ]] || fail 65 "The new database is not what the dump holds: $wrong." 'Use another dump, and look at the log of the server.'
  printf 'ANALYZE;\n' >"$WORK/analyze.sql"
  execute "$SIDE" "$WORK/analyze.sql" 'Analysing the new database'
  figure compare_seconds $((SECONDS - begun))
}

run_sql() {
  [[ -s $SQL_FILE ]] || return 0
  say 'Running the SQL of the value databaseRecovery.sql in the new database.'
  if ! PGDATABASE=$SIDE PGCLIENTENCODING=UTF8 attend psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet \
    --set=ON_ERROR_STOP=1 --single-transaction --file="$SQL_FILE" >"$WORK/answer" 2>"$WORK/server-error"; then
    cat -- "$WORK/server-error" >&2
    fail 78 "The SQL of the value databaseRecovery.sql failed: $(cause "$WORK/server-error")." 'Correct it and run the job again.'
  fi
}

# ---- the swap -----------------------------------------------------------------------------------------------------

# swap: two renames in one transaction. Nobody gets into the live database meanwhile; who is in it is thrown out.
swap() {
  local attempt live side sessions
  live=$(identifier "$DATABASE_NAME") side=$(identifier "$SIDE")
  ask "$MAINTENANCE" "SELECT datconnlimit FROM pg_database WHERE datname = $(literal "$DATABASE_NAME")"
  LIMIT=$ANSWER
  sessions="SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
    AND datname IN ($(literal "$DATABASE_NAME"), $(literal "$SIDE"))"
  {
    printf 'BEGIN;\n'
    [[ -z $LIMIT ]] || printf 'ALTER DATABASE %s SET "stack_backup.drop_after" = %s;\nALTER DATABASE %s RENAME TO %s;\n' \
      "$live" "$(literal "$(date -d "+$KEEP_FORMER_SECONDS seconds" +%Y-%m-%dT%H:%M:%SZ)")" "$live" "$(identifier "$FORMER")"
    printf 'ALTER DATABASE %s RENAME TO %s;\nALTER DATABASE %s OWNER TO %s;\nCOMMIT;\n' "$side" "$live" "$live" "$(identifier "$DATABASE_OWNER")"
  } >"$WORK/swap.sql"
  if [[ -n $LIMIT ]]; then
    say 'Replacing the live database.'
    FENCED=$LIMIT
    query "$MAINTENANCE" "ALTER DATABASE $live SET \"stack_backup.fence\" = $(literal "$LIMIT"); ALTER DATABASE $live CONNECTION LIMIT 0"
  fi
  for ((attempt = 1; ; attempt++)); do
    query "$MAINTENANCE" "$sessions"
    if PGDATABASE=$MAINTENANCE attend psql --no-psqlrc --username="$DATABASE_SUPERUSER" --no-password --quiet --set=ON_ERROR_STOP=1 \
      --set=VERBOSITY=terse --file="$WORK/swap.sql" >"$WORK/answer" 2>"$WORK/server-error"; then
      break
    fi
    # The server's answer may be lost although it has done it.
    ask "$MAINTENANCE" "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $(literal "$SIDE"))
      AND EXISTS (SELECT FROM pg_database WHERE datname = $(literal "$([[ -n $LIMIT ]] && printf %s "$FORMER" || printf %s "$DATABASE_NAME")"))"
    [[ $ANSWER != t ]] || break
    ((attempt < 20)) || {
      cat -- "$WORK/server-error" >&2
      fail 75 "The live database could not be replaced: $(cause "$WORK/server-error")." 'Stop what connects to it as the superuser, and run the job again.'
    }
    sleep 0.5
  done
  SIDE='' FENCED=''
  if [[ -n $LIMIT ]]; then
    UNTOUCHED="The recovered database is live already, and the former one is kept as $FORMER."
    figure former "$FORMER"
  else
    UNTOUCHED='The recovered database is live already; there was none before.'
  fi
}

# finish: what belongs to the database itself and names it, the owner's own password, and the end of former databases.
finish() {
  local password
  execute "$DATABASE_NAME" "$WORK/properties" 'Setting the comment, privileges and settings of the database'
  lift_fence # where the dump was taken from a database that had one
  password=$(<"$OWNER_PASSWORD_FILE")
  {
    printf "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = panic;\n"
    printf "SET password_encryption = 'scram-sha-256';\n"
    [[ $DATABASE_OWNER == "$DATABASE_SUPERUSER" ]] ||
      printf 'ALTER ROLE %s LOGIN PASSWORD %s;\n' "$(identifier "$DATABASE_OWNER")" "$(literal "$password")"
    printf 'GRANT ALL PRIVILEGES ON DATABASE %s TO %s;\n' "$(identifier "$DATABASE_NAME")" "$(identifier "$DATABASE_OWNER")"
  } >"$WORK/owner.sql"
  execute "$MAINTENANCE" "$WORK/owner.sql" "Giving $DATABASE_OWNER the stack's own password"

  drop_former
  conclude 0 recovered "The database $DATABASE_NAME of $NAMESPACE is that of ${CHOSEN##*/}: $ROWS rows in $TABLES tables, all counted."
}

{
  main "$@"
  exit
}
