# Passes a pg_dumpall stream on as it is, and writes to the file `contents` what it holds, as manifest lines: every
# database that it connects to, the rows of every COPY block, the large objects, and the bytes. Exits with 65 when the
# stream is not a whole dump. (A tee beside a counter would cost twice as much as passing it through.)
#
# Rows, comments and function bodies may hold any text, SQL-looking text included. Two facts make the reading exact:
# inside a COPY block a row never reads `\.`, because COPY doubles every backslash; outside of one, text stands
# between quotes, so a line is structure only if it starts outside of them.

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

# Follow the quotes through one line: '…', "…" and $tag$…$tag$; a doubled quote closes and opens again.
function scan(line,    at) {
  while (1) {
    if (quote != "") {
      at = index(line, quote)
      if (!at) return
      line = substr(line, at + length(quote))
      quote = ""
    } else {
      if (!match(line, /'|"|--|\$([A-Za-z_\200-\377][0-9A-Za-z_\200-\377]*)?\$/)) return
      quote = substr(line, RSTART, RLENGTH)
      line = substr(line, RSTART + RLENGTH)
      if (quote == "--") { quote = ""; return }
    }
  }
}

# A statement has ended a line outside of quotes: is it the head of a COPY block?
function copy() {
  if (statement !~ /^COPY .* FROM stdin;$/) return
  match(statement, /^COPY ("([^"]|"")*"|[^". (]+)(\.("([^"]|"")*"|[^". (]+))?/)
  table = escaped(substr(statement, 6, RLENGTH - 5))
  copying = 1
  rows = 0
}

# `\connect name`, `\connect "Name"` or `\connect -reuse-previous=on "dbname='na me'"`
function connect(name) {
  leave()
  complex = sub(/^-reuse-previous=on /, "", name)
  if (name ~ /^"/) {
    name = substr(name, 2, length(name) - 2)
    gsub(/""/, "\"", name)
  }
  if (complex) {
    sub(/^dbname='?/, "", name)
    sub(/'$/, "", name)
    gsub(/\\'/, "'", name)
    gsub(/\\\\/, "\\", name)
  }
  database = escaped(name)
  if (!(database in seen)) print "database\t" database >contents
  seen[database] = 1
}

function leave() {
  if (objects) printf "largeobject\t%s\t%.0f\n", database, objects >contents
  objects = 0
}

function escaped(value,    i, c, out) {
  for (i = 1; i <= length(value); i++) {
    c = substr(value, i, 1)
    out = out (c == "\\" ? "\\\\" : c == "\t" ? "\\t" : c == "\n" ? "\\n" : c)
  }
  return out
}
