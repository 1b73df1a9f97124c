# shellcheck shell=bash disable=SC2034,SC2153
# A PostgreSQL server of the program's own: in a folder of the pod, reached by nobody else, and gone with the program.
# To be sourced after lib.sh.
#
# It takes nothing from the stack's server and cannot reach it: what libpq would take from the environment is left out.

# start_private_server FOLDER SUPERUSER: in the new folder FOLDER, with a superuser of that name, as the dump has it: what
# a role has granted can only be loaded if the role is there. Sets PRIVATE_SOCKET, PRIVATE_SUPERUSER, PRIVATE_SERVER (its
# process).
start_private_server() {
  PRIVATE_FOLDER=$1 PRIVATE_SOCKET=$1/socket PRIVATE_SUPERUSER=$2 PRIVATE_SERVER=''
  TEMPORARY+=("$PRIVATE_FOLDER")
  AT_END+=(stop_private_server)
  on_volume mkdir -m 0700 -- "$PRIVATE_FOLDER" "$PRIVATE_SOCKET"
  attend initialise >"$WORK/initdb" 2>&1 || private_failure "$WORK/initdb" 'could not be made'
  configure >>"$PRIVATE_FOLDER/data/postgresql.conf"
  printf 'local all all trust\n' >"$PRIVATE_FOLDER/data/pg_hba.conf"
  set -m
  postgres -D "$PRIVATE_FOLDER/data" </dev/null >"$PRIVATE_FOLDER/log" 2>&1 &
  PRIVATE_SERVER=$!
  set +m
  until attend private pg_isready --quiet; do
    kill -0 "$PRIVATE_SERVER" 2>"$WORK/probe" || private_failure "$PRIVATE_FOLDER/log" 'did not start'
    sleep 0.05
  done
}

# initdb wants to know its user's name, and a pod's user may have none.
initialise() {
  local wrapper
  if ! getent passwd "$(id -u)" >"$WORK/probe"; then
    wrapper=$(find /usr/lib /lib -name libnss_wrapper.so -print -quit)
    printf 'postgres:x:%s:%s::/:/bin/false\n' "$(id -u)" "$(id -g)" >"$WORK/passwd"
    printf 'postgres:x:%s:\n' "$(id -g)" >"$WORK/group"
    export LD_PRELOAD=$wrapper NSS_WRAPPER_PASSWD=$WORK/passwd NSS_WRAPPER_GROUP=$WORK/group
  fi
  initdb --pgdata="$PRIVATE_FOLDER/data" --username="$PRIVATE_SUPERUSER" --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions
}

# As fast as it can be: nothing of it need outlive the program. What would lie in /dev/shm (64 MiB in a pod) lies in files.
configure() {
  cat <<EOF
listen_addresses = ''
port = 5432
unix_socket_directories = '$PRIVATE_SOCKET'
unix_socket_permissions = 0700
max_connections = 20
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 256MB
checkpoint_warning = 0
checkpoint_timeout = 1h
autovacuum = off
jit = off
shared_buffers = 256MB
maintenance_work_mem = 256MB
dynamic_shared_memory_type = mmap
log_destination = stderr
logging_collector = off
EOF
}

stop_private_server() {
  [[ -n $PRIVATE_SERVER ]] || return 0
  kill -QUIT "$PRIVATE_SERVER" 2>"$WORK/probe" || : # it need not be there any more
  wait "$PRIVATE_SERVER" || :
  PRIVATE_SERVER=''
}

# private COMMAND…: a client (pg_dump, psql) of this server. Nothing of the environment can lead it to another one.
private() {
  env -u PGHOSTADDR -u PGSERVICE -u PGPASSFILE -u PGPASSWORD PGHOST="$PRIVATE_SOCKET" PGPORT=5432 PGUSER="$PRIVATE_SUPERUSER" \
    PGCLIENTENCODING=UTF8 PGOPTIONS='-c statement_timeout=0 -c lock_timeout=0 -c client_min_messages=warning' "$@"
}

# private_psql DATABASE OPTION…: an error is one line, without the rows that it is about.
private_psql() {
  local database=$1
  shift
  private env PGDATABASE="$database" psql --no-psqlrc --no-password --quiet \
    --set=ON_ERROR_STOP=1 --set=VERBOSITY=terse --set=SHOW_CONTEXT=never "$@"
}

# private_query DATABASE SQL: prints fields and records, each ended by a NUL byte. To be redirected, not substituted: a
# failure ends the program.
private_query() {
  attend private_psql "$1" --tuples-only --no-align --field-separator-zero --record-separator-zero --command="$2" \
    2>"$WORK/private-error" || private_failure "$WORK/private-error" 'refused a question'
}

# load_private DUMP: all of a pg_dumpall file, made with --clean or not. Nothing is known then about whether it is whole:
# one that was cut off loads without an error.
load_private() {
  { exec {STREAM}<"$1"; } 2>"$WORK/volume-error" || {
    classify_volume_error "$(<"$WORK/volume-error")"
    fail "$CODE" "The dump cannot be read: $(cause "$WORK/volume-error")." "$ADVICE"
  }
  # All who read from it share one position.
  printf '/proc/%s/fdinfo/%s' "$$" "$STREAM" >"$WORK/progress"
  attend load_pipeline "$1" || : # every stage has its own status
  rm -f -- "$WORK/progress"
  exec {STREAM}<&-
  local unpacked passed loaded
  read -r unpacked passed loaded <"$WORK/status"
  if [[ -s $WORK/unpack-error && $(<"$WORK/unpack-error") != *'roken pipe'* ]]; then
    cat -- "$WORK/unpack-error" >&2
    fail 65 "The dump cannot be unpacked to its end: $(cause "$WORK/unpack-error")." 'It is damaged: use another one, and check the volume and its file server.'
  fi
  ((loaded == 0)) || private_failure "$WORK/private-error" 'cannot take the dump'
  ((unpacked + passed == 0)) || fail 75 "The dump was not read to its end ($unpacked, $passed)." 'Read the lines above.'
}

load_pipeline() {
  set +e
  unpack_stream "$1" <&"$STREAM" 2>"$WORK/unpack-error" | pass_roles |
    private_psql postgres --output=/dev/null 2>"$WORK/private-error"
  printf '%s\n' "${PIPESTATUS[*]}" >"$WORK/status"
}

# Passes a dump on, but for what a new server has already (its superuser) or cannot have yet (what --clean drops). Both
# stand before the first \connect. A role's comment may hold such lines, too: so quotes are followed.
pass_roles() {
  local line quote='' create=$PRIVATE_SUPERUSER
  while IFS= read -r line; do
    if [[ -z $quote ]]; then
      case $line in
        "CREATE ROLE $create;" | "CREATE ROLE \"${create//\"/\"\"}\";" | 'DROP ROLE '*';' | 'DROP TABLESPACE '*';') continue ;;
        'DROP DATABASE template1;' | 'DROP DATABASE postgres;') ;; # they are made again
        'DROP DATABASE '*';') continue ;;
      esac
    fi
    printf '%s\n' "$line"
    [[ -n $quote || $line != '\connect '* ]] || break
    [[ -z $quote && $line == --* ]] || follow_quotes "$line"
  done
  cat
}

# follow_quotes LINE: which quote is open after it.
follow_quotes() {
  local rest=$1
  while [[ -z $quote && $rest == *[\'\"]* || -n $quote && $rest == *"$quote"* ]]; do
    if [[ -z $quote ]]; then
      rest=${rest#"${rest%%[\'\"]*}"}
      quote=${rest:0:1} rest=${rest:1}
    else
      rest=${rest#*"$quote"} quote=''
    fi
  done
}

# private_failure FILE WHAT: ends the program with what the server, or psql, said in FILE.
private_failure() {
  local line
  grep -a -E 'ERROR|FATAL|PANIC|error|HINT' -- "$1" | head -n 20 >&2 || :
  line=$(cause "$1")
  case $(<"$1") in
    *'No space left'*)
      CODE=73 ADVICE='Make the scratch space larger (value scratch.size of this job).'
      ;;
    *'extension control file'* | *'is not available'* | *'could not access file'* | *'could not load library'* | *'no installation script'* | \
      *locale* | *LC_C* | *'command not found'* | *'invalid command'* | *'unrecognized configuration parameter'*)
      CODE=78 ADVICE='Use the image that the stack'\''s own server runs (value database.image).'
      ;;
    *'closed the connection unexpectedly'* | *'Connection refused'* | *'terminated by signal 9'* | *'annot allocate memory'* | *'out of memory'*)
      CODE=137 ADVICE='Most likely it lacks memory: raise the memory limit of this job.'
      ;;
    *) CODE=65 ADVICE='Read the lines above: a recovery would meet the same.' ;;
  esac
  fail "$CODE" "The server in the pod $2: $line." "$ADVICE"
}
