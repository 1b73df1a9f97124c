#!/bin/bash
# The drill: the newest verified dump is restored in the pod, in the stack's own database image, compared with its
# manifest, asked what the values say, and thrown away.
#
# Environment: JOB DATABASE_SUPERUSER DATABASE_NAME SOURCE_VOLUME SOURCE_FOLDERS DUMP (latest or a time) MAXIMUM_AGE_SECONDS
# SQL_FOLDER MEDIA_REPLICA_VOLUME (or empty) SCRATCH DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"
# shellcheck source=charts/stack-backup/files/private-server.sh
. "$PROGRAMS/private-server.sh"

EMPTY_SERVER=$((256 << 20)) # what a server without data takes, its log of changes included

main() {
  begin
  UNTOUCHED='The drill changes nothing: the dumps and the live database are as they were.'
  require DATABASE_SUPERUSER DATABASE_NAME SOURCE_VOLUME SOURCE_FOLDERS DUMP MAXIMUM_AGE_SECONDS SQL_FOLDER SCRATCH
  number MAXIMUM_AGE_SECONDS 0
  PROBLEMS=()

  choose_dump
  check_version
  check_room
  grep -qxF -e $'database\t'"$(escaped "$DATABASE_NAME")" -- "$MANIFEST" ||
    fail 65 "$NAME holds no database $DATABASE_NAME." 'Check that the backup is of the right server (value database.host).'
  say "Reading $NAME ($((BYTES >> 20)) MiB)."
  clock
  expect_digest "$SOURCE" "$MANIFEST" "The dump $NAME"
  lap read_seconds
  start_private_server "$SCRATCH/server.$RANDOM" "$DATABASE_SUPERUSER"
  check_extensions
  say "Restoring $NAME."
  clock
  load_private "$SOURCE"
  lap load_seconds
  say 'Comparing what was restored with the manifest.'
  clock
  compare
  lap compare_seconds
  run_assertions
  look_up_references
  judge
}

clock() { BEGAN=$SECONDS; }
lap() { figure "$1" $((SECONDS - BEGAN)); }

# choose_dump: sets SOURCE, NAME, MANIFEST, BYTES.
choose_dump() {
  local folders=() folder age
  for folder in $SOURCE_FOLDERS; do folders+=("$SOURCE_VOLUME/$folder"); done
  if [[ $DUMP == latest ]]; then
    find_newest "${folders[@]}"
    warn_of_future
    SOURCE=$NEWEST
    [[ -n $SOURCE ]] || fail 66 "There is no verified dump in $SOURCE_FOLDERS." 'Look why the hourly backup publishes none.'
  else
    find_named "${folders[@]}"
  fi
  NAME=${SOURCE##*/} MANIFEST=$(manifest_of "$SOURCE") BYTES=$(stat -c %s -- "$SOURCE")
  age=$(age_of "$SOURCE")
  figure dump "$NAME"
  figure bytes "$BYTES"
  figure age_seconds "$age"
  [[ $DUMP != latest ]] || ((age <= MAXIMUM_AGE_SECONDS)) ||
    fail 65 "The newest verified dump $NAME is $((age / 60)) minutes old, and may be $((MAXIMUM_AGE_SECONDS / 60))." \
      'Look why the hourly backup publishes no newer one.'
}

# find_named FOLDER…: the dump of the time DUMP, whatever its age, suspicious or not. Sets SOURCE.
find_named() {
  local folder path found=''
  [[ backup-$DUMP-dumpall.sql.gz =~ $DUMP_NAME ]] ||
    fail 64 "DUMP is \"$DUMP\"; it must be latest or the time in a dump's name, such as 2022-11-28T08:51:08Z." 'Correct the value drill.dump.'
  for folder; do
    for path in "$folder/backup-$DUMP-dumpall.sql."{gz,zst}; do
      [[ -f $path ]] || continue
      found=$path
      if verified "$path"; then
        SOURCE=$path
        return
      fi
    done
  done
  [[ -n $found ]] || fail 66 "There is no dump of $DUMP in $SOURCE_FOLDERS." 'Look which there are (stack-backup list).'
  fail 66 "${found##*/} has no manifest that agrees with it, so there is nothing to compare it with." 'Choose another dump.'
}

# check_version: a server takes no dump of a newer one.
check_version() {
  local image server
  image=$(postgres --version)
  image=${image#*PostgreSQL) }
  server=$(manifest_value "$MANIFEST" server_version)
  ((${image%%[!0-9]*} >= ${server%%[!0-9]*})) ||
    fail 78 "The image has PostgreSQL $image, and $NAME is of $server." "Use the image of the server's own version (value database.image)."
}

check_room() {
  local need free
  need=$((8 * BYTES + EMPTY_SERVER))
  free=$(df --output=avail --block-size=1 -- "$SCRATCH" | tail -n 1)
  ((free >= need)) || fail 73 "The scratch space has $((free >> 20)) MiB left, and to restore $NAME may take $((need >> 20)) MiB." \
    'Make it larger (value drill.scratch.size), or give it a storage class.'
}

# check_extensions: what the dump needs must be in the image, in the same version.
check_extensions() {
  local database name version available
  private_query postgres "SELECT name || E'\t' || default_version FROM pg_available_extensions" >"$WORK/answer"
  tr '\0' '\n' <"$WORK/answer" >"$WORK/available"
  while IFS=$'\t' read -r _ database name version; do
    available=$(awk -F '\t' -v name="$name" '$1 == name { print $2 }' "$WORK/available")
    [[ -n $available ]] || fail 78 "The image lacks the extension $name, which the database $database of $NAME needs." \
      'Use the image that the server runs (value database.image): without it no recovery succeeds either.'
    [[ $available == "$version" ]] || fail 78 "The image brings $available of the extension $name, and the database $database of $NAME has $version." \
      'Use the image that the server runs (value database.image), or bring the server up to it (ALTER EXTENSION … UPDATE).'
  done < <(awk '/^extension\t/' "$MANIFEST")
}

# compare: what was restored against the manifest. Both are manifest lines; what is counted here the server counts.
compare() {
  local database count listed
  private_query postgres "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname" >"$WORK/answer"
  while IFS= read -r -d '' database; do
    printf 'database\t%s\n' "$(escaped "$database")" >>"$WORK/restored"
    attend private_psql "$database" --tuples-only --no-align --set=database="$(escaped "$database")" \
      --file="$PROGRAMS/drill-contents.sql" >>"$WORK/restored" 2>"$WORK/private-error" ||
      private_failure "$WORK/private-error" "cannot count what the database $database holds"
  done <"$WORK/answer"
  figure databases "$(manifest_count "$WORK/restored" database)"
  figure tables "$(manifest_count "$WORK/restored" table)"
  figure rows "$(awk -F '\t' '$1 == "table" { rows += $4 } END { printf "%.0f", rows }' "$WORK/restored")"

  awk -f "$PROGRAMS/drill-differences.awk" "$MANIFEST" "$WORK/restored" >"$WORK/differences"
  count=$(wc -l <"$WORK/differences")
  ((count)) || return 0
  say 'What was restored differs from the manifest:'
  head -n 100 -- "$WORK/differences" >&"$LOG"
  listed=$(head -n 3 -- "$WORK/differences")
  PROBLEMS+=("What was restored differs from the manifest in $count places: ${listed//$'\n'/; }$( ((count <= 3)) || printf '; …').")
}

# run_assertions: each is true, or it has failed.
run_assertions() {
  local path name answer failed='' count=0
  for path in "$SQL_FOLDER"/assertion-*.sql; do
    [[ -e $path ]] || continue
    ((count)) || attend private_psql "$DATABASE_NAME" --command=ANALYZE # it has no statistics yet
    count=$((count + 1))
    name=${path##*/assertion-}
    name=${name%.sql}
    if ! attend private_psql "$DATABASE_NAME" --tuples-only --no-align --command="$(<"$path")" >"$WORK/answer" 2>"$WORK/private-error"; then
      answer=$(cause "$WORK/private-error")
    else
      answer=$(head -c 200 -- "$WORK/answer")
    fi
    if [[ $answer == t || $answer == true ]]; then
      say "The assertion $name holds."
    else
      say "The assertion $name does not hold: it says \"$answer\"."
      failed+="${failed:+, }$name"
    fi
  done
  figure assertions "$count"
  [[ -z $failed ]] || PROBLEMS+=("These assertions do not hold: $failed.")
}

# look_up_references: every media file that the restored database names must be in the replica of the media.
look_up_references() {
  local path mirror='' count=0 missing=0 refused=0
  [[ -n ${MEDIA_REPLICA_VOLUME-} && -s $SQL_FOLDER/references.sql ]] || return 0
  [[ -d $MEDIA_REPLICA_VOLUME && -x $MEDIA_REPLICA_VOLUME ]] ||
    fail 66 "The replica of the media $MEDIA_REPLICA_VOLUME is not there." 'Check its claim and its file server (value volumes.mediaReplica).'
  private_query "$DATABASE_NAME" "$(<"$SQL_FOLDER/references.sql")" >"$PRIVATE_FOLDER/references"
  say 'Looking up the media files that the database names.'
  while IFS= read -r -d '' path; do
    [[ -n $path ]] || continue # no file is named there
    count=$((count + 1))
    case /$path/ in
      //* | */../*)
        refused=$((refused + 1))
        ((refused > 100)) || say "No path within the replica: $(escaped "$path")"
        ;;
      *)
        [[ ! -e $MEDIA_REPLICA_VOLUME/$path ]] || continue
        missing=$((missing + 1))
        ((missing > 100)) || say "Missing in the replica of the media: $(escaped "$path")"
        ;;
    esac
  done <"$PRIVATE_FOLDER/references"
  figure references "$count"
  figure missing "$missing"
  # A file that is younger than the mirror is no loss.
  [[ ! -f $MEDIA_REPLICA_VOLUME/.stack-backup/state ]] || mirror=$(manifest_value "$MEDIA_REPLICA_VOLUME/.stack-backup/state" completed)
  ((missing == 0)) ||
    PROBLEMS+=("$missing of $count media files that the database names are missing in the replica of the media${mirror:+, whose last complete mirror is of $mirror}.")
  ((refused == 0)) || PROBLEMS+=("$refused of $count paths that drill.references gives lead out of the replica (absolute, or with ..).")
}

judge() {
  local rows tables
  ((${#PROBLEMS[@]} == 0)) || fail 65 "$NAME was restored, but: ${PROBLEMS[*]}" 'The log above names each.'
  rows=$(awk -F '\t' '$1 == "table" { rows += $4 } END { printf "%.0f", rows }' "$WORK/restored")
  tables=$(manifest_count "$WORK/restored" table)
  conclude 0 proved "$NAME can be restored: all $rows rows in $tables tables came back as its manifest says (in $SECONDS s)."
}

{
  main "$@"
  exit
}
