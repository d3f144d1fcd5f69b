"""What a request of the run panel will take on this machine, before it is started."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from statistics import mean

from alignkd_lab.course.explorers.run_picture import shipped_runs
from alignkd_lab.course.explorers.runs import Request
from alignkd_lab.doctor import Rates, duration, estimate
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import ORDERS, YARDSTICKS, planned_steps
from alignkd_lab.presets import planned_work

LOADING = 10.0  # seconds that a child takes to begin


@functools.cache
def machine_rates() -> Rates | None:
    """This machine's rates as `alignkd doctor` measures them, in a process of its own; None if it cannot."""
    command = [sys.executable, "-m", "alignkd_lab.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        return Rates(**json.loads(done.stdout)["rates"])
    except (ValueError, KeyError):
        return None


def needs_rates(request: Request) -> bool:
    """Whether the estimate asks for this machine's rates."""
    return request.world == "lm" and request.preset != "tiny"


def expected_seconds(request: Request, rates: Rates | None) -> float | None:
    """Seconds for all seeds of the request; None where nothing was measured that would tell."""
    seeds = len(request.seed_numbers())
    if request.world == "mog":
        # A cell costs much the same whatever its setting, so the record's seconds serve for every cell.
        held = [
            record["provenance"]["seconds"]
            for run in shipped_runs(Request("mog", "laptop"))
            for record in run["records"]
        ]
        return LOADING + mean(held) * seeds * request.cells() if held and request.preset != "tiny" else None
    if rates is None or not needs_rates(request):
        return None
    names = dict.fromkeys((*YARDSTICKS, *request.pipeline_names()))
    # What is planned are both orders; other pipelines cost about as much for each stage and evaluation.
    more = planned_steps(tuple(names)) / planned_steps((*YARDSTICKS, *ORDERS))
    return LOADING + estimate(planned_work(request.preset, request.base_settings()), rates) * seeds * more


def in_words(request: Request, rates: Rates | None) -> str:
    """The estimate as a sentence."""
    if request.preset == "tiny":
        return "This takes well under a minute for each seed."
    try:
        seconds = expected_seconds(request, rates)
    except BadInput as error:
        return f"No estimate: {error}"
    if seconds is None:
        return "No estimate: see what `alignkd doctor` says of this machine."
    basis = "from `alignkd doctor`'s calibration" if request.world == "lm" else "as long as the recorded runs took"
    return f"This will take about {duration(seconds)} here, {basis}; finished stages are not run again."
