# How a copy of a tree differs from its source, by listings of both. Records end with NUL: kind, size, time of change
# (seconds), path, separated by tabs. Kinds: f file, u unreadable file, d folder, l link (path//target), p unfinished
# file of rclone, s anything else; `end` closes a complete listing.
#
# The variable `part` says what is read: `source` and `target`, and `before`, the source at an earlier time: what has
# changed since is no difference. Prints keys and values. Sizes are doubles: exact up to 2^53.

BEGIN {
  RS = "\0"
  FS = "\t"
}

$1 == "end" {
  ended[part] = 1
  next
}

{
  path = substr($0, length($1) + length($2) + length($3) + 4)
  goal = ""
  if ($1 == "l") {
    i = index(path, "//")
    goal = substr(path, i + 2)
    path = substr(path, 1, i - 1)
  }
}

$1 == "p" {
  if (part == "target") printf "%s%c", path, 0 > unfinished
  next
}

part == "before" {
  before[path] = $1 "\t" $2 "\t" $3 "\t" goal
  next
}

part == "source" {
  source[path] = $1 "\t" $2 "\t" $3 "\t" goal
  count[$1]++
  if ($1 == "f") bytes += $2
  if ($1 == "u") { count["f"]++; tell("unreadable", path) }
  if ($1 == "s") { tell("special", path); delete source[path] }
  # rclone keeps links as files of this name, and would make a link of such a file.
  if (path ~ /\.rclonelink$/) { count["rclonelink"]++; tell("of a name that rclone keeps for links", path) }
  next
}

{
  if ($1 == "f") { there++; there_bytes += $2 }
  if ($1 == "l") there_links++
  if (!(path in source)) {
    if ($1 != "d") lost++
    if (!(path in before)) { extra++; tell("only in the copy", path) }
    next
  }
  seen[path] = 1
  entry = $1 "\t" $2 "\t" $3 "\t" goal
  if (same(source[path], entry)) next
  split(source[path], of, "\t")
  if (of[1] != $1) {
    kinds++
    printf "%s%c", path, 0 > conflicts
    need(source[path])
  } else {
    changed++
    if (of[2] != $2) need(source[path])
  }
  # A version that the source had in the meantime is a good copy, too.
  if (!(path in before && same(before[path], entry)) && still(path)) differ(path)
}

END {
  for (path in source) {
    if (path in seen) continue
    missing++
    if (substr(source[path], 1, 1) == "d") missing_folders++
    need(source[path])
    if (still(path)) differ(path)
  }
  print_number("files", count["f"])
  print_number("bytes", bytes)
  print_number("folders", count["d"])
  print_number("links", count["l"])
  print_number("special", count["s"])
  print_number("unreadable", count["u"])
  print_number("rclonelink", count["rclonelink"])
  print_number("there", there)
  print_number("there_bytes", there_bytes)
  print_number("there_links", there_links)
  print_number("lost", lost)
  print_number("extra", extra)
  print_number("conflicts", kinds)
  print_number("to_copy", missing - missing_folders + changed + kinds)
  print_number("need_bytes", needed)
  print_number("different", differing)
  if (!ended["source"] || !ended["target"]) exit 1
}

function same(one, other,   a, b, apart) {
  if (one == other) return 1
  split(one, a, "\t")
  split(other, b, "\t")
  if (a[1] != b[1]) return 0
  apart = a[3] - b[3]
  return a[2] == b[2] && apart <= 1 && apart >= -1 && substr(one, index_goal(a)) == substr(other, index_goal(b))
}

function index_goal(a) { return length(a[1]) + length(a[2]) + length(a[3]) + 4 }

# still(PATH): has it been the same in the source all the time?
function still(path) { return !ended["before"] || (path in before && same(before[path], source[path])) }

function differ(path) {
  differing++
  printf "%s%c", path, 0 > different
}

function need(entry,   a) {
  split(entry, a, "\t")
  if (a[1] == "f") needed += a[2]
}

function tell(what, path) {
  if (told[what]++ >= 20) return
  gsub(/\\/, "&&", path)
  gsub(/\n/, "\\n", path)
  printf "note\t%s: %s\n", what, path
}

function print_number(key, value) { printf "%s\t%.0f\n", key, value }
