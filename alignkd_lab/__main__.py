"""`python -m alignkd_lab`: the command, as launchers of several processes start it."""

import sys

from alignkd_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
