"""`python -m alignkd_lab`: the command where no `alignkd` is on the path, or a launcher starts several processes."""

import sys

from alignkd_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
