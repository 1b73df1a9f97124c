# shellcheck shell=bash disable=SC2034,SC2153,SC2317
# What the programs of the media share: what a tree holds, how two trees differ, rclone, and the state of a replica.
#
# REPLICA/…                        the mirrored tree, at the root
# REPLICA/.stack-backup/state      since when a mirror is in progress, or when the last complete one ended
# REPLICA/.stack-backup/sample.tsv the sha256 of some files, as the source has them
# REPLICA/.stack-backup/trash/TIME what the run that began at TIME deleted or replaced
# REPLICA/.stack-backup/lock       the run that is at work

# Whoever serves the files may be another user than the one who copies them.
umask 022
# After the image's own: where the init container put the static binary.
PATH+=:/tools

NO_ROOM='Make room on the volume; the next run goes on from here.'

OWN=.stack-backup
# What a killed rclone leaves: named so that nobody else's file is taken for it. The next run removes it.
HEX='[0-9a-f]'
UNFINISHED="*.$HEX$HEX$HEX$HEX$HEX$HEX$HEX$HEX.stack.partial"

# ---- trees --------------------------------------------------------------------------------------------------------

# listing TREE [readable]: all that it holds but our own folder, as the records that media-trees.awk reads. The last
# record says that nothing was missed. With `readable`, files that cannot be read are told apart.
listing() {
  local unreadable=()
  [[ ${2-} != readable ]] || unreadable=(-type f ! -readable -printf 'u\t%s\t%Ts\t%P\0' -o)
  find "$1" -ignore_readdir_race -mindepth 1 -path "$1/$OWN" -prune -o \( \
    -type f -name "$UNFINISHED" -printf 'p\t%s\t0\t%P\0' -o "${unreadable[@]}" \
    -type f -printf 'f\t%s\t%Ts\t%P\0' -o -type d -printf 'd\t0\t0\t%P\0' -o -type l -printf 'l\t%s\t0\t%P//%l\0' -o \
    -printf 's\t0\t0\t%P\0' \) && printf 'end\t0\t0\t\0'
}

# keep_listing TREE FILE [readable]: packed, for it lies in memory.
keep_listing() { listing "$1" "${3-}" | gzip -1 >"$2"; }

# list TREE NAME WHAT [readable]: the listing of a source, to $WORK/NAME.gz.
list() {
  attend keep_listing "$1" "$WORK/$2.gz" "${4-}" 2>"$WORK/list-error" && return
  cat -- "$WORK/list-error" >&2
  classify_list_error "$(<"$WORK/list-error")"
  fail "$CODE" "$3 cannot be read as a whole: $(cause "$WORK/list-error")." "$ADVICE"
}

# compare NAME TARGET WHAT [BEFORE]: how TARGET differs from the listing NAME: keys and values, to $WORK/trees. Paths go
# to $WORK/conflicts (of another kind in the target), $WORK/unfinished and $WORK/different.
compare() {
  local list note
  for list in conflicts different unfinished; do : >"$WORK/$list"; done
  if attend compare_streams "$@" >"$WORK/trees" 2>"$WORK/list-error"; then
    while IFS= read -r note; do say "${note^}"; done < <(sed -n 's/^note\t//p' "$WORK/trees")
    return
  fi
  cat -- "$WORK/list-error" >&2
  classify_list_error "$(<"$WORK/list-error")"
  fail "$CODE" "$3 cannot be read as a whole: $(cause "$WORK/list-error")." "$ADVICE"
}

compare_streams() {
  awk -f "$PROGRAMS/media-trees.awk" -v conflicts="$WORK/conflicts" -v different="$WORK/different" \
    -v unfinished="$WORK/unfinished" \
    part=before <([[ -z ${4-} ]] || gzip -dc -- "$WORK/$4.gz") \
    part=source <(gzip -dc -- "$WORK/$1.gz") part=target <(listing "$2")
}

# tree KEY: a figure of the last comparison.
tree() { manifest_value "$WORK/trees" "$1"; }

# sweep TARGET: takes away what killed runs left unfinished.
sweep() {
  local path
  while IFS= read -r -d '' path; do
    say "Removing $(escaped "$path"), left by a run that was killed."
    on_volume rm -f -- "$1/$path"
  done <"$WORK/unfinished"
}

# name_some FILE WHAT: the first paths of a list, into the log.
name_some() {
  local path count=0
  while IFS= read -r -d '' path && ((count++ < 20)); do
    say "$2: $(escaped "$path")"
  done <"$1"
}

# What reading a tree gave: sets CODE and ADVICE.
classify_list_error() {
  case $1 in
    *'Permission denied'* | *'Operation not permitted'*)
      CODE=77 ADVICE="The pod's user $(id -u):$(id -g) must be able to read all of it: correct the owner or the mode of what the lines above name."
      ;;
    *'Stale file handle'* | *'No such file or directory'*) CODE=75 ADVICE='The next run tries again; if it comes back, check the file server.' ;;
    *) CODE=74 ADVICE='Check the volume and its file server.' ;;
  esac
}

# ---- rclone -------------------------------------------------------------------------------------------------------

# use_rclone: what every call of it has. Names are bytes (else one of two names that differ only in their Unicode form
# is lost), links stay links, and a file that changes while it is copied is an error.
use_rclone() {
  number TRANSFERS 1
  number CHECKERS 1
  [[ ${BANDWIDTH_LIMIT:=0} =~ ^[0-9]{1,9}(\.[0-9]{1,3})?[KMGkmg]?$ ]] ||
    fail 64 "The variable BANDWIDTH_LIMIT is \"$BANDWIDTH_LIMIT\"; it must be a number of bytes a second, such as 50M." 'Correct the values of the release.'
  type -P rclone >"$WORK/probe" || fail 78 'There is no rclone in /tools.' 'Check the image of the init container (value rclone.image).'
  RCLONE=(--config /dev/null --local-encoding Raw --no-unicode-normalization --links --skip-specials
    --modify-window 1s --create-empty-src-dirs --exclude "/$OWN/**" --partial-suffix .stack.partial --exclude "$UNFINISHED" --retries 1 --local-fatal-if-no-space
    --transfers "$TRANSFERS" --checkers "$CHECKERS" --buffer-size 4Mi --bwlimit "$BANDWIDTH_LIMIT"
    --stats 60s --stats-one-line --stats-log-level NOTICE --log-level NOTICE)
}

# copy_tree VERB FROM TO OPTION…: by rclone, or the job fails; WHAT it was is the caller's.
copy_tree() {
  local status=0
  : >"$WORK/rclone-error"
  attend logged rclone "$@" "${RCLONE[@]}" || status=$?
  ((status != 0)) || return 0
  classify_rclone_error "$status" "$(<"$WORK/rclone-error")"
  fail "$CODE" "rclone did not finish (its exit code is $status): $(cause "$WORK/rclone-error")." "$ADVICE"
}

# logged COMMAND…: its lines go to the log, and the first errors to $WORK/rclone-error, too: there may be very many.
logged() {
  "$@" 2>&1 | {
    local line kept=0
    while IFS= read -r line; do
      printf '%s\n' "$line"
      if [[ $line == *ERROR* || $line == *CRITICAL* || $line == *Failed* ]] && ((kept++ < 100)); then
        printf '%s\n' "${line#????/??/?? ??:??:?? }" >>"$WORK/rclone-error"
      fi
    done
  }
}

# classify_rclone_error STATUS LINES: sets CODE and ADVICE. The words of the operating system say more than rclone's code.
classify_rclone_error() {
  case $2 in
    *'no space left'* | *'quota exceeded'* | *'file too big'* | *'out of space'*)
      CODE=73 ADVICE=$NO_ROOM
      ;;
    *'read-only file system'*) CODE=77 ADVICE='Check why the volume is read-only.' ;;
    *'permission denied'* | *'operation not permitted'*)
      CODE=77 ADVICE="The pod's user $(id -u):$(id -g) must be able to read the one side and to write the other: correct the owner or the mode of what the lines above name."
      ;;
    *'being updated'* | *"can't copy - source file"* | *'stale'*'file handle'*)
      CODE=75 ADVICE='Files changed while they were copied; the next run goes on from here.'
      ;;
    *'max-delete'*)
      CODE=65 ADVICE='More was deleted in the source than may be at once (value mediaReplica.minimumShare): find out what became of it. What was deleted is in the trash.'
      ;;
    *'input/output error'*) CODE=74 ADVICE='Check the volume and its file server.' ;;
    *)
      case $1 in
        2) CODE=64 ADVICE='This rclone does not know an option: use the version that the values name (rclone.image.tag).' ;;
        3 | 4) CODE=66 ADVICE='Look whether the source is there and mounted.' ;;
        137 | 143) CODE=$1 ADVICE='It was killed, perhaps for its memory; the next run goes on from here.' ;;
        *) CODE=75 ADVICE='Read the lines above; the next run goes on from here.' ;;
      esac
      ;;
  esac
}

# ---- state of a replica -------------------------------------------------------------------------------------------

# state KEY: its value, or nothing.
state() {
  [[ ! -e $MEDIA_REPLICA_VOLUME/$OWN/state ]] || manifest_value "$MEDIA_REPLICA_VOLUME/$OWN/state" "$1"
}
