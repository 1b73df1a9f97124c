#!/bin/bash
# The recovery of the media: what the replica holds, copied to the stack's own volume. It overwrites what differs, and
# deletes what the replica lacks only when told.
#
# Environment: JOB NAMESPACE POD_NAME MEDIA_VOLUME MEDIA_REPLICA_VOLUME (read-only) CONFIRM DELETE (true or false)
# TRANSFERS CHECKERS BANDWIDTH_LIMIT DEADLINE_SECONDS TERMINATION_LOG TMPDIR (in memory).
# Exit codes: docs/exit-codes.md

# shellcheck disable=SC2153,SC2317
PROGRAMS=${BASH_SOURCE[0]%/*}
# shellcheck source=charts/stack-backup/files/lib.sh
. "$PROGRAMS/lib.sh"
# shellcheck source=charts/stack-backup/files/media.sh
. "$PROGRAMS/media.sh"

main() {
  begin
  UNTOUCHED='No file of the stack was touched.'
  require NAMESPACE POD_NAME MEDIA_VOLUME MEDIA_REPLICA_VOLUME DELETE TRANSFERS CHECKERS
  [[ $DELETE == true || $DELETE == false ]] || fail 64 "DELETE is \"$DELETE\"; it must be true or false." 'Correct the value mediaRecovery.delete.'
  [[ -n ${CONFIRM-} ]] || fail 64 "Nothing confirms that the media of $NAMESPACE are to be written." "Start the run with CONFIRM=$NAMESPACE."
  [[ $CONFIRM == "$NAMESPACE" ]] || fail 77 "The run is confirmed for $CONFIRM, and this is $NAMESPACE." 'Check in which namespace you are.'
  use_rclone

  check_replica
  check_target
  survey
  UNTOUCHED='Some files of the stack may be recovered already, each of them whole; the next run goes on from here.'
  sweep "$MEDIA_VOLUME"
  ((CONFLICTS == 0)) || make_way
  say "Recovering $FILES files, $(($(tree bytes) >> 20)) MiB, as of $MIRRORED: $COPIED to copy."
  if [[ $DELETE == true ]]; then
    copy_tree sync "$MEDIA_REPLICA_VOLUME" "$MEDIA_VOLUME"
  else
    copy_tree copy "$MEDIA_REPLICA_VOLUME" "$MEDIA_VOLUME"
  fi
  verify
  conclude 0 copied "All $FILES files of the replica as of $MIRRORED are in the stack's media: $COPIED copied, $REMOVED deleted."
}

# Is there a whole mirror?
check_replica() {
  [[ -d $MEDIA_REPLICA_VOLUME && -e $MEDIA_REPLICA_VOLUME/$OWN/state ]] ||
    fail 66 'The replica holds no mirror, or one that media-replicator did not make.' 'Check the export (value volumes.mediaReplica) and that media-replicator has run.'
  [[ $(state format) == 1 ]] || fail 78 "The state of the replica is of the format \"$(state format)\", and this program knows 1." 'Upgrade the release.'
  [[ $(state status) == complete ]] ||
    fail 75 "The replica is being written since $(state since) and mixes two days; the last complete mirror ended at $(state completed | grep . || echo 'no time')." \
      'Wait for the end of media-replicator; if it failed, let it run again.'
}

# May we write there?
check_target() {
  local probe=$MEDIA_VOLUME/.tmp.probe.${POD_NAME:0:63}.$$.$RANDOM
  [[ -d $MEDIA_VOLUME ]] || fail 66 "The stack's media volume $MEDIA_VOLUME is not there." 'Check its claim (value volumes.media.existingClaim).'
  [[ ! -e $MEDIA_VOLUME/$OWN ]] || fail 77 "The volume to write to holds a folder $OWN: it is a replica itself." 'Check its claim (value volumes.media.existingClaim).'
  TEMPORARY+=("$probe")
  on_volume cp -- "${BASH_SOURCE[0]}" "$probe"
  on_volume rm -- "$probe"
}

# survey: what is to be done, and whether it may be.
survey() {
  local need free
  list "$MEDIA_REPLICA_VOLUME" source 'The replica' readable
  compare source "$MEDIA_VOLUME" "The stack's media"
  MIRRORED=$(state since) FILES=$(tree files) CONFLICTS=$(tree conflicts) COPIED=$(tree to_copy) REMOVED=0 COMPLETE=true
  figure mirrored "$MIRRORED"
  figure files "$FILES"
  figure bytes "$(tree bytes)"
  ((FILES > 0)) || fail 66 'The replica holds no file at all.' 'Check the export (value volumes.mediaReplica) and its server.'
  (($(tree unreadable) == 0)) || fail 77 "$(tree unreadable) files of the replica cannot be read by the pod's user $(id -u):$(id -g)." \
    'Let both clusters run as the same user (value pod.runAsUser), or correct the owner.'
  if [[ $FILES != "$(state files)" || $(tree bytes) != "$(state bytes)" ]]; then
    COMPLETE=false
    say "The replica holds $FILES files and $(tree bytes) bytes; the last mirror left $(state files) and $(state bytes)."
    [[ $DELETE == false ]] || fail 65 "The replica is not what its last mirror left: $FILES files instead of $(state files), or other sizes." \
      'Nothing is deleted by such a replica: run media-replicator again, or recover with DELETE=false.'
  fi
  name_some "$WORK/conflicts" 'Of another kind in the replica'
  [[ $CONFLICTS == 0 || $DELETE == true ]] ||
    fail 65 "$CONFLICTS names of the stack are a file on one side and a folder or a link on the other." \
      'Move what the lines above name away, or recover with DELETE=true.'
  [[ $DELETE == false ]] || REMOVED=$(tree lost)
  need=$(tree need_bytes)
  free=$(df --output=avail --block-size=1 -- "$MEDIA_VOLUME" | tail -n 1)
  ((free >= need)) || fail 73 "The stack's media volume has $((free >> 20)) MiB left, and $((need >> 20)) MiB are to be copied." 'Make the volume larger.'
}

# make_way: rclone cannot replace a folder by a file, nor a link by a folder.
make_way() {
  local path
  while IFS= read -r -d '' path; do
    on_volume rm -rf -- "$MEDIA_VOLUME/$path"
  done <"$WORK/conflicts"
}

# verify: is every file of the replica in the stack's media, with its size and time?
verify() {
  [[ $(state status) == complete && $(state since) == "$MIRRORED" ]] ||
    fail 75 'A mirror began meanwhile: what was copied may mix two days.' 'Run again after its end.'
  compare source "$MEDIA_VOLUME" "The stack's media"
  name_some "$WORK/different" 'Not as in the replica'
  figure copied "$COPIED"
  figure removed "$REMOVED"
  (($(tree different) == 0)) || fail 75 "$(tree different) files are not as in the replica." \
    'The stack wrote to them meanwhile: stop what writes there, and run again.'
  [[ $COMPLETE == true ]] || fail 65 "All $FILES files of the replica were copied, but its last mirror left $(state files)." \
    'Find out what the replica lost; run media-replicator again.'
}

{
  main "$@"
  exit
}
