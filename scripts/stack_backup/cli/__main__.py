"""`python -m stack_backup.cli` is `stack-backup`."""

import sys

from stack_backup.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
