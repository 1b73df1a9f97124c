# Reading a pg_dumpall stream line by line: what the programs that do it share.
#
# Rows, comments and function bodies may hold any text, SQL-looking text included. Two facts make the reading exact:
# inside a COPY block a row never reads `\.`, because COPY doubles every backslash; outside of one, text stands
# between quotes, so a line is structure only if it starts outside of them.

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

# heads_copy(statement): is this statement, which has ended a line outside of quotes, the head of a COPY block?
function heads_copy(statement) { return statement ~ /^COPY .* FROM stdin;$/ }

# connected(argument): the database of `\connect name`, `\connect "Name"` or `\connect -reuse-previous=on "dbname='na me'"`.
function connected(name,    complex) {
  complex = sub(/^-reuse-previous=on /, "", name)
  name = unquoted(name)
  if (complex) {
    sub(/^dbname='?/, "", name)
    sub(/'$/, "", name)
    gsub(/\\'/, "'", name)
    gsub(/\\\\/, "\\", name)
  }
  return name
}

# unquoted(identifier): the name that an identifier stands for.
function unquoted(name) {
  if (name !~ /^"/) return name
  name = substr(name, 2, length(name) - 2)
  gsub(/""/, "\"", name)
  return name
}

function escaped(value,    i, c, out) {
  for (i = 1; i <= length(value); i++) {
    c = substr(value, i, 1)
    out = out (c == "\\" ? "\\\\" : c == "\t" ? "\\t" : c == "\n" ? "\\n" : c)
  }
  return out
}
