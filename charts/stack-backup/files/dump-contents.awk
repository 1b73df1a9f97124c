# Passes a pg_dumpall stream on as it is, and writes to the file `contents` what it holds, as manifest lines: every
# database that it connects to, the rows of every COPY block, the position of every sequence, the large objects, and the
# bytes. Exits with 65 when the stream is not a whole dump. (A tee beside a counter would cost twice as much as passing
# it through.)
#
# To be read after dump-scan.awk, which says why the reading is exact.

BEGIN { TRAILER = "-- PostgreSQL database cluster dump complete" }

{
  print
  bytes += length($0) + 1
}

copying {
  if ($0 != "\\.") { rows++; next }
  printf "table\t%s\t%s\t%.0f\n", database, table, rows >contents
  copying = 0
  next
}

quote == "" {
  fourth = third; third = second; second = last; last = $0
  if (substr($0, 1, 1) == "\\") { if ($1 == "\\connect") connect(substr($0, 10)); next }
  if (substr($0, 1, 2) == "--") next
  if (/^SELECT pg_catalog\.lo_create\('/) objects++
  # Nothing but hexadecimal digits between the quotes: no need to look at all of them.
  if (/^SELECT pg_catalog\.lowrite\(0, '\\x/ && substr($0, length($0) - 2) == "');") next
  if (/^SELECT pg_catalog\.setval\('.*', -?[0-9]+, (true|false)\);$/) sequence(substr($0, 26, length($0) - 27))
  statement = $0
  scan($0)
  if (quote == "") copy()
  next
}

{
  last = "text"
  if (statement ~ /^COPY /) statement = statement "\n" $0
  scan($0)
  if (quote == "") copy()
}

END {
  leave()
  printf "sql_bytes\t%.0f\n", bytes >contents
  if (copying || quote != "" || fourth != "--" || third != TRAILER || second != "--" || last != "") exit 65
}

# A statement has ended a line outside of quotes: is it the head of a COPY block?
function copy() {
  if (!heads_copy(statement)) return
  match(statement, /^COPY ("([^"]|"")*"|[^". (]+)(\.("([^"]|"")*"|[^". (]+))?/)
  table = escaped(substr(statement, 6, RLENGTH - 5))
  copying = 1
  rows = 0
}

# What stands between the brackets of setval: 'name', value, whether that value was given out already
function sequence(text,    used, value) {
  used = text ~ /true$/ ? "t" : "f"
  sub(/, (true|false)$/, "", text)
  match(text, /-?[0-9]+$/)
  value = substr(text, RSTART)
  text = substr(text, 2, RSTART - 5)
  gsub(/''/, "'", text)
  printf "sequence\t%s\t%s\t%s\t%s\n", database, escaped(text), value, used >contents
}

# `\connect …`: another database begins.
function connect(name) {
  leave()
  database = escaped(connected(name))
  if (!(database in seen)) print "database\t" database >contents
  seen[database] = 1
}

function leave() {
  if (objects) printf "largeobject\t%s\t%.0f\n", database, objects >contents
  objects = 0
}
