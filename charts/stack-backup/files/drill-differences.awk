# How a restored server differs from the manifest of its dump: both are manifest lines, the manifest first. Prints one
# line for each difference. A manifest of an older release says nothing of sequences: then nothing is said about them.

BEGIN { FS = "\t" }

$1 == "database" { note("the database " $2, "there"); next }
$1 == "extension" { note("the extension " $3 " of " $2, $4); next }
$1 == "sequence" { note("the sequence " $3 " of " $2, $4 ($5 == "t" ? "" : " (not given out yet)")); next }
$1 == "table" { note("the table " $3 " of " $2, $4 " rows"); next }
$1 == "largeobject" { note("the large objects of " $2, $3 + 0); next }
# A table of an extension: its own rows are there besides.
$1 == "member" { least["the table " $3 " of " $2] = $4 }

function note(what, value) {
  if (FNR == NR) {
    if (!(what in expected)) order[++count] = what
    expected[what] = (what ~ /^the large objects/) ? expected[what] + value : value
  } else {
    found[what] = value
    if (!(what in expected) && $1 ~ /^(database|table|largeobject)$/ && value != 0) print what ": not in the manifest, but restored (" value ")"
  }
}

END {
  for (i = 1; i <= count; i++) {
    what = order[i]
    if (what in found) {
      if (found[what] != expected[what]) print what ": " found[what] " instead of " expected[what]
    } else if (!(what in least)) {
      print what ": missing"
    } else if (least[what] + 0 < expected[what] + 0) {
      print what ": " least[what] " rows instead of " expected[what]
    }
  }
}
