"""Where a record comes from: code, libraries, device, the type of its matrix products, and time."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alignkd_lab
from alignkd_lab.errors import BadInput

DTYPES = ("float32", "bfloat16")
LIBRARIES = ("torch", "transformers", "numpy", "scipy")  # that decide numbers
USUAL_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}


def installed(read: Callable, package: str) -> Any:
    """What `read` knows of a package, None where it is not installed."""
    try:
        return read(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def best_device(asked: str | None = None) -> str:
    """The device that was asked for; without, `cuda` where there is a GPU that torch can use, else `cpu`.

    Raises:
        BadInput: a GPU was asked for, and there is none.
    """
    if asked == "cpu":
        return asked
    import torch

    there = torch.cuda.is_available()
    if asked and not there:
        raise BadInput(f"device: {asked!r} was asked for, and torch finds no GPU here; leave it out, or use 'cpu'")
    return asked or ("cuda" if there else "cpu")


def resolve_dtype(dtype: str, device: str) -> str:
    """`float32` or `bfloat16`: what a run's `dtype` means on a device.

    The default is bfloat16 on a GPU, and float32 on a CPU, where bfloat16 is slower on some machines and on every one
    other samples: the same seed in another dtype is another draw.

    Raises:
        BadInput: a kind of device that nothing here was tried on, as Apple's `mps`.
    """
    kind = device.partition(":")[0]
    if kind not in USUAL_DTYPE:
        raise BadInput(f"device: {kind} is untried here; use one of {', '.join(USUAL_DTYPE)}")
    return USUAL_DTYPE[kind] if dtype == "default" else dtype


def device_label(device: str, dtype: str | None) -> str:
    """`cpu`, or `cpu, bfloat16` where that is not the type in which this device usually multiplies."""
    name = (dtype or "").removeprefix("torch.")
    return f"{device}, {name}" if name and name != USUAL_DTYPE.get(device.partition(":")[0], name) else device


def provenance(device: str = "cpu") -> dict:
    """What a record says about its making: commit and whether it was changed, versions, device, time (UTC).

    `commit` and `dirty` are None where the package does not run from a git checkout of its own.
    """
    import torch

    made_by, dirty = commit()
    return {
        "commit": made_by,
        "dirty": dirty,
        "version": alignkd_lab.__version__,
        "python": platform.python_version(),
        **{name: installed(importlib.metadata.version, name) for name in LIBRARIES},
        "device": device,
        "device_name": device_name(device),
        # Another number of threads sums in another order, and one rounding may change a sampled token.
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
    }


@functools.cache
def device_name(device: str) -> str:
    """The name of the GPU or of the processor, as its maker writes it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """Commit and whether it was changed, once a process: ask before work begins, when the code has just been loaded.

    Where git cannot say (a slow disk, a lock) it counts as changed.
    """
    package = Path(__file__).parent
    # An installed copy may lie inside somebody else's checkout: only a tracked file tells our own commit.
    if _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    head = _git(package, "rev-parse", "HEAD")
    return head, None if head is None else _git(package, "status", "--porcelain", "--", ".") != ""


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
