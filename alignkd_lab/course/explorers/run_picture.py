"""What is seen of a run: what it will take, where it stands, what came out, and the record of the same settings."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab import claims, records
from alignkd_lab.course.explorers.runs import Request
from alignkd_lab.course.shipped import recorded, recorded_smollm2
from alignkd_lab.doctor import Rates, duration, estimate
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import ORDERS, YARDSTICKS, planned_steps
from alignkd_lab.plots import figures
from alignkd_lab.plots.drawing import DEPTH, INK, QUIET, legend, mark, panels, themed, whole, write
from alignkd_lab.plots.style import SYMBOLS, pipeline_style
from alignkd_lab.plots.verdicts import in_short
from alignkd_lab.presets import planned_work, preset
from alignkd_lab.recording import plain_settings
from alignkd_lab.records import Records

_AT_HUB = ("base", "truth")  # the gpu preset prefers the original weights to their quantised copy
LOADING = 10.0  # seconds that a child takes to begin
_INSTANT = 0.5  # seconds: a unit that took less was kept from an earlier start


# What a run will take


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
        each = recorded("gaussians-pilot").provenance["seconds"].mean()
        return LOADING + each * seeds * request.cells() if request.preset != "tiny" else None
    if rates is None or not needs_rates(request):
        return None
    names = dict.fromkeys((*YARDSTICKS, *request.pipeline_names()))
    # What is planned are both orders; other pipelines cost about as much for each stage and evaluation.
    more = planned_steps(tuple(names)) / planned_steps((*YARDSTICKS, *ORDERS))
    return LOADING + estimate(planned_work(request.preset, request.base_settings()), rates) * seeds * more


def cost_in_words(request: Request) -> str:
    """The estimate as a sentence; the machine is measured where that takes its rates."""
    if request.preset == "tiny":
        return "This takes well under a minute for each seed."
    try:
        seconds = expected_seconds(request, machine_rates() if needs_rates(request) else None)
    except BadInput as error:
        return f"No estimate: {error}"
    if seconds is None:
        return "No estimate: see what `alignkd doctor` says of this machine."
    basis = "from `alignkd doctor`'s calibration" if request.world == "lm" else "as long as the recorded runs took"
    return f"This will take about {duration(seconds)} here, {basis}; finished stages are not run again."


# Where it stands, from what it told (`alignkd_lab.progress`)


@dataclass(frozen=True)
class Standing:
    """`share` of the units done (0 to 1), seconds `left` (None while nothing has been timed), and both in words."""

    share: float
    left: float | None
    text: str


@dataclass(frozen=True)
class Curve:
    """One alignment of one seed, measured on validation prompts as it goes: points with `step`, `reward`, `kl`."""

    seed: int
    pipeline: str
    stage: str
    points: tuple[dict, ...]


@dataclass(frozen=True)
class Unit:
    """A stage or an evaluation of a pipeline, and the seconds that it took, or has taken so far."""

    pipeline: str
    stage: str
    seconds: float


def standing(events: Sequence[dict], now: float) -> Standing:
    """Where a run stands after the events of its current start; `now` in seconds since 1970."""
    units = [event for event in events if event["what"] in ("unit", "cell")]
    if not units:
        return Standing(0.0, None, "loading libraries and weights")
    done, total = _counted(events, units)
    left = _left(units, total - done, now)
    words = _words(events, units[-1])
    if left is not None:
        words += f"; about {duration(left)} left"
    return Standing(min(1.0, (done + _part(events)) / total), left, words)


def timed(events: Sequence[dict], now: float) -> list[Unit]:
    """The units of the current seed, oldest first; the last one is under way."""
    units: list[dict] = []
    for event in events:
        if event["what"] == "seed":
            units = []
        elif event["what"] == "unit":
            units.append(event)
    ends = [unit["at"] for unit in units[1:]] + [now]
    return [Unit(unit["pipeline"], unit["stage"], end - unit["at"]) for unit, end in zip(units, ends, strict=True)]


def curves(events: Sequence[dict]) -> list[Curve]:
    """All alignments so far, in the order in which they began; the trials that choose a learning rate are left out."""
    found: dict[tuple, list[dict]] = {}
    seed, pipeline = 0, ""
    for event in events:
        seed, pipeline = event.get("seed", seed), event.get("pipeline", pipeline)
        if event["what"] != "curve" or event["stage"].startswith("trial"):
            continue
        key = (seed, pipeline, event["stage"])
        if event["step"] == 0:  # a stage that was cut off began again
            found.pop(key, None)
        found.setdefault(key, []).append(event)
    return [Curve(*key, tuple(points)) for key, points in found.items()]


def _counted(events: Sequence[dict], units: Sequence[dict]) -> tuple[int, int]:
    """Units done, and units in all."""
    if units[-1]["what"] == "cell":
        return units[-1]["number"] - 1, units[-1]["cells"]
    seed = next(event for event in reversed(events) if event["what"] == "seed")
    here = sum(unit["at"] >= seed["at"] for unit in units)
    return (seed["number"] - 1) * seed["units"] + here - 1, seed["seeds"] * seed["units"]


def _left(units: Sequence[dict], waiting: int, now: float) -> float | None:
    """As long as the units that were done took on average, for each that waits, the current one included."""
    begun = [unit["at"] for unit in units]
    took = [after - before for before, after in pairwise(begun) if after - before > _INSTANT]
    if not took:
        return None
    mean = sum(took) / len(took)
    return mean * (waiting - 1) + max(0.0, mean - (now - begun[-1]))


def _part(events: Sequence[dict]) -> float:
    """The share of the current unit's training that is done."""
    last = events[-1]
    trained = last["what"] == "step" and not last["stage"].startswith("trial")
    return last["step"] / last["steps"] if trained else 0.0


def _words(events: Sequence[dict], unit: dict) -> str:
    if unit["what"] == "cell":
        return unit["text"].replace("mog", "cell", 1)
    seed = next(event for event in reversed(events) if event["what"] == "seed")
    said = f"seed {seed['seed']}"
    if seed["seeds"] > 1:
        said += f" ({seed['number']} of {seed['seeds']})"
    said += f", {pipeline_style(unit['pipeline']).label}: {unit['stage'].replace('_', ' ')}"
    last = events[-1]
    if last["what"] == "step":
        trial = f"{last['stage']}, " if last["stage"].startswith("trial") else ""
        said += f", {trial}step {last['step']} of {last['steps']}"
    return said


# What came out


def runs_of(request: Request) -> list[Records]:
    """What the records in the request's folder hold of it so far, without other seeds and pipelines."""
    files = sorted((request.out / "runs").glob(f"{request.world}-{request.preset}-*.json"))
    names, seeds = (*YARDSTICKS, *request.pipeline_names()), set(request.seed_numbers())
    fitting = [run for run in records.load(*files).each() if agrees(request, run)] if files else []
    return [run.select(seed=seeds, pipeline=names) for run in fitting if seeds & set(run.seeds)]


def shipped_runs(request: Request) -> list[Records]:
    """The recorded runs of the project with the request's settings: none where they differ in anything."""
    studies = {"mog": ("gaussians-pilot",), "lm": ("smollm2-pilot", "smollm2-study")}[request.world]
    return [run for study in studies for run in recorded(study).each() if agrees(request, run)]


def recorded_runs(world: str) -> list[Records]:
    """The recorded runs of a world that stand for it: the study on text, every cell of the sweep on Gaussians."""
    if world == "lm":
        return [whole(recorded_smollm2(), (*YARDSTICKS, *ORDERS))]
    return list(recorded("gaussians-pilot").each())


def agrees(request: Request, run: Records) -> bool:
    """Whether a run was made with the request's settings."""
    about, held = run.the_run(), run.settings
    if about["preset"] != request.preset or about["algorithm"] not in request.algorithms():
        return False
    free = _AT_HUB if request.preset == "gpu" else ()
    if request.world == "mog":
        chosen = preset(request.preset)
        every = {"sharpening": chosen.sharpenings, "beta": chosen.betas}
        free = tuple(name for name in every if name not in request.settings)
        if any(held[name] not in every[name] for name in free):
            return False
    wanted = plain_settings(request.base_settings())
    return all(held.get(name) == value for name, value in wanted.items() if name not in free)


def outcome(runs: Sequence[Records], depth: str) -> tuple[Figure, str]:
    """What came out, and the verdicts in words: one run's metrics, or all cells of a sweep."""
    if len(runs) > 1 and runs[0].the_run()["world"] == "mog":
        return figures.reward_by_sharpening(runs, depth), _verdicts(runs)
    return figures.four_metrics(runs, depth), " ".join(map(in_short, runs))


@themed
def progress(units: Sequence[Unit], found: Sequence[Curve], tiny: bool) -> Figure:
    """What the current seed has spent its time on, and reward and KL along every alignment so far."""
    note = (
        f"{DEPTH['tiny' if tiny else 'live']}. Left: stages and evaluations of the current seed, the last one under "
        "way. Right: measured on validation prompts as each alignment goes, a line for each seed; the marker is the "
        "last point so far."
    )
    figure, grid = panels(1, 3, (11, max(3.4, 0.24 * len(units) + 1.9)), "The run as it goes", note)
    _bars(grid[0, 0], units)
    for axis, name, label in zip(
        grid[0, 1:], ("reward", "kl"), ("reward", "KL from its reference (nats)"), strict=True
    ):
        for curve in found:
            steps, values = ([point[key] for point in curve.points] for key in ("step", name))
            axis.plot(steps, values, color=pipeline_style(curve.pipeline).colour, linewidth=1.6)
            mark(axis, steps[-1], values[-1], curve.pipeline, 8)
        axis.set(xlabel="step of the alignment", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.margins(0.08)
        if name == "kl":  # an estimate may lie below 0, an empty margin may not
            axis.set_ylim(bottom=min(0.0, axis.dataLim.y0))
        if not found:
            axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
            write(axis, "no alignment has been measured yet", (0.5, 0.5), (0, 0), QUIET, ha="center")
    legend(figure, [*(unit.pipeline for unit in units), *(curve.pipeline for curve in found)])
    return figure


def _bars(axis: Axes, units: Sequence[Unit]) -> None:
    colours = [pipeline_style(unit.pipeline).colour for unit in units]
    axis.barh(range(len(units)), [unit.seconds for unit in units], color=colours, height=0.7)
    axis.set_yticks(range(len(units)), [unit.stage.replace("_", " ") for unit in units])
    axis.set_ylim(max(len(units), 6) - 0.4, -0.6)
    axis.set_xlabel("seconds")
    axis.grid(axis="y", visible=False)


@themed
def banner(words: Sequence[str], command: str) -> Figure:
    """Paragraphs and a command line above a picture, for a page without a kernel."""
    lines = [line for text in words for line in textwrap.wrap(text, 135)]
    figure = Figure(figsize=(11, 0.22 * len(lines) + 0.55))
    figure.text(0.012, 1 - 0.1 / figure.get_figheight(), "\n".join(lines), va="top", color=INK, linespacing=1.45)
    figure.text(0.012, 0.1 / figure.get_figheight(), command, va="bottom", color=INK, family="monospace", weight="bold")
    return figure


def _verdicts(runs: Sequence[Records]) -> str:
    """How often A-K's lead in reward is what it was claimed to be."""
    for run in runs:
        if not set(ORDERS) <= set(run.pipelines):
            return in_short(run)
    verdicts = Counter(
        claims.decide(run).set_index(["metric", "statistic"]).at[("reward", "mean_difference"), "verdict"]
        for run in runs
    )
    counts = ", ".join(f"{name} {verdicts[name]}" for name in SYMBOLS if verdicts[name])
    return f"{len(runs)} settings. “A-K earns more reward”: {counts}."
