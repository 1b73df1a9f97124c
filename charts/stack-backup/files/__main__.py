"""`python3 -I /programs JOB`: one program a job."""

import signal
import sys

# Before anything that takes time is imported. What comes until there are handlers is heeded then.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

# Their folder is read-only. A lent interpreter brings what the init container compiled of them.
if sys.prefix.startswith("/tools/"):
    sys.pycache_prefix = f"{sys.prefix}/compiled"

from stack_backup_jobs.run import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
