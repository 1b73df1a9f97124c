"""`python -m stack_backup` is `stack-backup`."""

import sys

from stack_backup.app import main

if __name__ == "__main__":
    sys.exit(main())
