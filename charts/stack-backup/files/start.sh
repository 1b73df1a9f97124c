#!/bin/sh
# Starts a program with the interpreter that the pod has (PYTHON), and gives the verdict where that one cannot. It stays the
# pod's first process: from that one the kernel keeps each signal without a handler, and Python has none as it starts.
end() {
  line="{\"job\":\"$JOB\",\"exit\":$1,\"outcome\":\"failed\",\"message\":\"$2\"}"
  [ -z "$TERMINATION_LOG" ] || echo "$line" >"$TERMINATION_LOG"
  echo "$line" && exit "$1"
}
trap '[ "$!" ] || end 143 "The job was told to stop. Nothing was done."; while kill -TERM "$!" 2>/dev/null; do sleep 0.2; done' TERM INT HUP
"$PYTHON" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>&1 || case $PYTHON in
  /*) end 78 "The Python of python.image does not run in the database image: its C library is another one, or older than glibc 2.35. Set the value python.image.repository to an empty string if that image has Python 3.11 or newer itself, else to an image of Python built for its C library. Nothing was done." ;;
  *) end 78 "The database image has no Python 3.11 or newer itself. Set the value python.image.repository to python. Nothing was done." ;;
esac
export STATE="${TMPDIR:-/tmp}/state.$$" && true >"$STATE"
"$PYTHON" -I /programs "$@" &
{ wait "$!" && code=0; } || code=$? # interrupted, perhaps: then the second one tells, else it knows of no such process
{ wait "$!" && code=0; } || { again=$? && [ "$again" = 127 ]; } || code=$again
[ ! -e "$STATE" ] || { [ "$code" = 143 ] && end 143 "The job was told to stop. Nothing was done."; } || end 75 "The program could not start: see the log above. Nothing was done."
[ ! -e "$STATE.begun" ] || end 137 "The program was killed. How far it came is not known: see the log above."
exit "$code"
