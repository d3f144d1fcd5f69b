"""How much memory a piece of work took."""

from __future__ import annotations

import threading


class PeakMemory:
    """Highest resident memory of this process (CPU) or allocated device memory (GPU) while it is open, bytes."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            import psutil

            self._process, self._stop = psutil.Process(), threading.Event()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._stop.wait(0.05):
                return

    def __exit__(self, *_) -> None:
        if self._cuda:
            import torch

            self.bytes = torch.cuda.max_memory_allocated()
        else:
            self._stop.set()
            self._thread.join()
