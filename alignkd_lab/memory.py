"""How much memory a piece of work took, and what is done where it does not suffice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from alignkd_lab.errors import CannotContinue, first_line

Made = TypeVar("Made")
# How the CPU's allocator, C++, CUDA beside what torch holds of it, and cuBLAS, when it finds no room to start, say it;
# torch's own allocator on a GPU has a class for it.
_WORDS = ("can't allocate memory", "not enough memory", "std::bad_alloc", "CUDA error: out of memory",
          "CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip
_WATCHING: list[dict[str, int]] = []


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[dict[str, int]]:
    """Highest resident memory of this process (CPU) or allocated device memory (GPU) while it is open, as `bytes`."""
    found = {"bytes": 0}
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found["bytes"] = torch.cuda.max_memory_allocated(device)
        return
    import psutil

    process, stop = psutil.Process(), threading.Event()

    def watch() -> None:
        while True:
            found["bytes"] = max(found["bytes"], process.memory_info().rss)
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def halve(
    work: Callable[[int], Made],
    size: int,
    what: str,
    way_out: str,
    undo: Callable[[], None] = lambda: None,
) -> tuple[Made, int]:
    """`work(size)` and the size that it took: where memory runs out, half of it, after `undo()`, down to 1.

    `work` does all of its work in parts of at most `size`, so only rounding depends on it. `what` names the size: each
    one that was halved stands in `shortages()`.

    Raises:
        CannotContinue: parts of 1 do not fit; `way_out` says what to change.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = first_line(error)
        # Outside the except block, or the traceback would keep the work's tensors alive.
        undo()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size <= 1:
            raise CannotContinue(f"memory: {way_out} ({failure})")
        size = -(-size // 2)
        for found in _WATCHING:
            found[what] = min(size, found.get(what, size))


@contextlib.contextmanager
def shortages() -> Iterator[dict[str, int]]:
    """The sizes that were halved while it is open, such as `{"micro_batch": 2}`; empty where memory sufficed."""
    found: dict[str, int] = {}
    _WATCHING.append(found)
    try:
        yield found
    finally:
        _WATCHING.pop()
