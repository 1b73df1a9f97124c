#!/bin/sh
# Starts a program with the interpreter that the pod has (PYTHON); where that one cannot run, this gives the verdict.
end() {
  line="{\"job\":\"$JOB\",\"exit\":$1,\"outcome\":\"failed\",\"message\":\"$2 Nothing was done.\",\"seconds\":0}"
  [ -z "$TERMINATION_LOG" ] || echo "$line" >"$TERMINATION_LOG"
  echo "$line"
  exit "$1"
}
trap 'end 143 "The job was told to stop."' TERM INT HUP
said=$("$PYTHON" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>&1) && exec "$PYTHON" -I /programs "$@"
echo "$said"
case $PYTHON in
  /*) end 78 "The Python of python.image does not run in the database image: its C library is another one, or older than \
glibc 2.35. Set the value python.image.repository to an empty string if that image has Python 3.11 or newer itself, else \
to an image of Python built for its C library." ;;
  *) end 78 "The database image has no Python 3.11 or newer itself. Set the value python.image.repository to python." ;;
esac
