# Cuts one database out of a pg_dumpall stream, so that it can be loaded into a database of another name. To be read after
# dump-scan.awk. Prints what makes the content of the database `only` (a name as in a manifest), and writes
#
#   create       the options of its CREATE DATABASE, encoding and locale among them
#   properties   the statements that name the database itself: its comment, privileges and settings
#   roles        the roles of the dump that the part may name, as identifiers
#   version      the version of the server that it was dumped from

BEGIN {
  printf "" >create
  printf "" >properties
  printf "" >roles
  printf "" >version
}

copying {
  if (inside) print
  if ($0 == "\\.") copying = 0
  next
}

quote == "" {
  if (substr($0, 1, 1) == "\\") { command(); next }
  if (substr($0, 1, 2) == "--") { comment(); next }
  if (/^CREATE DATABASE /) options(substr($0, 17))
  if (!begun && /^CREATE ROLE .*;$/) known[substr($0, 13, length($0) - 13)] = 1
  if (inside && length($0) < 10000) for (role in known) if (!(role in used) && names($0, role)) used[role] = 1
  put()
  statement = $0
  # Nothing but hexadecimal digits between the quotes: no need to look at all of them.
  if (/^SELECT pg_catalog\.lowrite\(0, '\\x/ && substr($0, length($0) - 2) == "');") next
  scan($0)
  if (quote == "") copying = heads_copy(statement)
  next
}

{
  put()
  if (statement ~ /^COPY /) statement = statement "\n" $0
  scan($0)
  if (quote == "") copying = heads_copy(statement)
}

END { for (role in used) print role >roles }

# names(line, word): is the word in the line, and not a part of another one?
function names(line, word,    at) {
  while ((at = index(line, word)) > 0) {
    if (substr(line, at + length(word), 1) !~ /[A-Za-z0-9_$\200-\377]/ && (at == 1 || substr(line, at - 1, 1) !~ /[A-Za-z0-9_$\200-\377]/)) return 1
    line = substr(line, at + length(word))
  }
  return 0
}

function put() {
  if (inside && itself) print >properties
  else if (inside) print
}

# \connect, \restrict or \unrestrict: of these, the first names the database, and the others guard its text.
function command() {
  if ($1 == "\\connect") {
    begun = 1
    inside = escaped(connected(substr($0, 10))) == only
    itself = 0
  } else if (inside) print
}

# What pg_dump says above every entry tells what it is of. The entry of the next database ends this one.
function comment() {
  if (/^-- Database "/) inside = 0
  if (/^-- Name: /)
    itself = /^-- Name: DATABASE .*; Type: (COMMENT|ACL|SECURITY LABEL); Schema: -; Owner: / || /; Type: DATABASE PROPERTIES; Schema: -; Owner: /
  if (/^-- Dumped from database version /) print $6 >version
}

# `name WITH TEMPLATE = template0 ENCODING = 'UTF8' …;`
function options(text) {
  match(text, /^("([^"]|"")*"|[^ ]+)/)
  if (escaped(unquoted(substr(text, 1, RLENGTH))) == only) print substr(text, RLENGTH + 1) >create
}
