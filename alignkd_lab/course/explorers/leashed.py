"""`alignkd` as the child of a page: it ends when the page's kernel is gone, however that went.

`python -m alignkd_lab.course.explorers.leashed run --world ...`. A kernel that is shut down ends its runs itself; one
that was killed cannot, and its run would go on unseen.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from alignkd_lab import cli

GRACE = 5.0  # seconds from the request to end, which leaves no half-written stage, to the end by force


def main(arguments: Sequence[str]) -> int:
    """`alignkd` with these arguments, in a process group of its own."""
    # A kernel ignores the interrupt while it is idle, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    return cli.main(arguments)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.getpgid(0) == os.getpid():  # else the group holds others
        os.killpg(0, signal.SIGINT)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
