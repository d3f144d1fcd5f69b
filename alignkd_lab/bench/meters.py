"""Time and memory of one call.

Memory is what torch's allocator had handed out at the highest point, above what it held before: on a GPU by its own
statistics, on a CPU by the profiler's list of every allocation. Resident memory would depend on when the C library
returns pages; these numbers repeat to the byte. Scratch space that a library takes elsewhere is unseen.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would announce its start and stop


class Seconds(NamedTuple):
    wall: float
    cpu: float  # of all threads of this process: on a busy machine it says what the wall clock cannot


def seconds(call: Callable[[], object], device: str) -> Seconds:
    """Time of one call."""
    with _no_collection():
        began, cpu = time.perf_counter(), time.process_time()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return Seconds(time.perf_counter() - began, time.process_time() - cpu)


def peak_memory(call: Callable[[], object], device: str) -> int:
    """Bytes at the highest point of one call above those in use before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with _no_collection():
            call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _no_collection(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    events = [event for event in trace if event.get("name") == "[memory]"]
    found = [event["args"] for event in sorted(events, key=lambda event: event["ts"])]
    found = [event for event in found if event["Device Type"] == 0]  # 0 is the CPU
    if not found:
        return 0
    before = found[0]["Total Allocated"] - found[0]["Bytes"]
    return max(event["Total Allocated"] for event in found) - before


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """The garbage collector neither takes its time nor frees what an earlier call left."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
