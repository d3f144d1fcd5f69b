"""What is seen of a run: what it will take, where it stands, and what came out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.clock import START, Rates, calibrate
from alignkd_lab.course.explorers.runs import Request
from alignkd_lab.course.shipped import recorded_gaussians, recorded_smollm2
from alignkd_lab.errors import AlignkdError
from alignkd_lab.pipelines import PIPELINES, YARDSTICKS
from alignkd_lab.plan import plan_run
from alignkd_lab.plots import figures
from alignkd_lab.plots.drawing import DEPTH, legend, mark, panels, themed
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.plots.verdicts import in_short
from alignkd_lab.presets import default_pipelines
from alignkd_lab.progress import duration
from alignkd_lab.provenance import best_device
from alignkd_lab.records import Records

KEPT = 0.5  # seconds: a unit of the language world that took less was kept from an earlier start
PRIOR = 0.02  # of all work, what the expected pace counts for beside the measured one


# What a run will take


@functools.cache
def machine_rates() -> Rates:
    """This machine's rates as `alignkd doctor` measures them, in some seconds."""
    return calibrate(best_device())


def needs_rates(request: Request) -> bool:
    """Whether an estimate asks for this machine's rates."""
    return request.world == "lm" and request.preset != "tiny"


@functools.cache
def recorded_seconds(world: str) -> pd.Series:
    """Mean seconds of each stage and of an `evaluation` in recorded runs: what takes long there does elsewhere, too."""
    run = recorded_gaussians() if world == "mog" else recorded_smollm2("colour")
    stages = run.stages.drop_duplicates(["seed", "stage"])
    held, seconds = stages.groupby("stage")["seconds"].mean(), run.provenance["seconds"]
    whole = seconds.sum() if world == "mog" else seconds.median()  # Gaussians: a batch of all seeds
    held["evaluation"] = max(0.1, whole - held.sum()) / len(run.pipelines)
    return held


def planned(world: str, pipelines: Sequence[str] | None, algorithm: str) -> float:
    """Seconds in the record of all stages and evaluations of a cell, or of a seed on text."""
    names = {*YARDSTICKS, *(pipelines or default_pipelines(world, algorithm or "dpo"))}
    stages = {stage for name in names for stage in PIPELINES[name]}
    return weights(world, [*(stage.name for stage in stages), *["evaluation"] * len(names)]).sum()


def weights(world: str, units: Sequence[str]) -> pd.Series:
    """The recorded seconds of these stages and evaluations; of one that the record lacks, the mean."""
    held = recorded_seconds(world)
    return held.reindex(units).fillna(held.mean())


def expected_seconds(request: Request) -> float | None:
    """Seconds for all of the request, on text by this machine's rates; None where nothing tells."""
    if request.preset == "tiny":
        return None
    try:
        made = plan_run(request.keywords, machine_rates() if needs_rates(request) else None)
    except AlignkdError:  # a model of a size that is not known, or Gaussians of other settings than the recorded ones
        return None
    return made["seconds"] - (START if request.world == "mog" else 0.0)  # their libraries are loaded before


def cost_in_words(request: Request) -> str:
    """The estimate as a sentence."""
    seconds = expected_seconds(request)
    if seconds is None:
        if request.preset == "tiny":
            return "This takes well under a minute for each seed."
        unknown = "a model's size is not known" if request.world == "lm" else "such Gaussians were never timed"
        return f"No estimate: {unknown}."
    basis = "from `alignkd doctor`'s calibration" if request.world == "lm" else "as long as the recorded runs took"
    return f"This will take about {duration(seconds)} here, {basis}."


# Where it stands, from what it told (`alignkd_lab.progress`)


def standing(
    request: Request, events: Sequence[dict], now: float, expected: float | None
) -> tuple[float, float | None, str]:
    """Where a run stands: the share of the work that is done, seconds left (None while nothing tells), and in words.

    `events` are those since its start, `now` is in seconds since 1970, `expected` the seconds for all of it.
    """
    units = [event for event in events if event["what"] == "unit"]
    if not units:
        return 0.0, expected, f"loading libraries{_time(expected)}"
    part = next(event for event in reversed(events) if event["what"] == "part")
    whole = planned(request.world, request.keywords["pipelines"], request.algorithm) * part["parts"]
    done = weights(request.world, [unit["stage"] for unit in units]).tolist()
    took = [after["at"] - before["at"] for before, after in pairwise([*units, {"at": now}])]
    # Seconds for each of the record's: of what has been run here, and as expected for a little of the work.
    known = [(PRIOR * expected, PRIOR * whole)] if expected else []
    least = KEPT if needs_rates(request) else 0.0
    known += [pair for pair in zip(took[:-1], done[:-1], strict=True) if pair[0] > least]
    if known and took[-1] * sum(work for _, work in known) > done[-1] * sum(seconds for seconds, _ in known):
        known.append((took[-1], done[-1]))  # the unit under way is overdue
    pace = sum(seconds for seconds, _ in known) / sum(work for _, work in known) if known else None
    left = pace and pace * max(0.0, whole - sum(done)) + max(0.0, pace * done[-1] - took[-1])
    name = pipeline_style(units[-1]["pipeline"]).label
    words = f"{part['name']} ({part['number']} of {part['parts']}), {name}: {units[-1]['stage'].replace('_', ' ')}"
    if events[-1]["what"] == "step":
        words += f", step {events[-1]['step']} of {events[-1]['steps']}"
    return 0.0 if left is None else sum(took) / (sum(took) + left), left, words + _time(left)


def _time(left: float | None) -> str:
    return f"; about {duration(left)} left" if left else ""


def curves(events: Sequence[dict]) -> Iterable[tuple[tuple[str, str, str], pd.DataFrame]]:
    """By part, pipeline and stage the points of each alignment so far, without the trials of a learning rate."""
    told = pd.DataFrame(events, columns=["what", "name", "pipeline", "stage", "step", "reward", "kl"])
    told[["name", "pipeline"]] = told[["name", "pipeline"]].ffill()
    told = told[(told["what"] == "curve") & ~told["stage"].astype(str).str.startswith("trial")]
    return told.groupby(["name", "pipeline", "stage"], sort=False)


@themed
def progress(events: Sequence[dict], tiny: bool) -> Figure:
    """Reward and KL along every alignment so far."""
    note = f"{DEPTH['tiny' if tiny else 'live']}. On validation prompts, a line for each seed; marked: the last point."
    figure, grid = panels(1, 2, (9, 3.4), "The alignments as they go", note)
    for axis, name, label in zip(grid[0], ("reward", "kl"), ("reward", "KL from its reference (nats)"), strict=True):
        for (_, pipeline, _), points in curves(events):
            axis.plot(points["step"], points[name], color=pipeline_style(pipeline).colour, linewidth=1.6)
            mark(axis, points["step"].iloc[-1], points[name].iloc[-1], pipeline, 8)
        axis.set(xlabel="step of the alignment", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.margins(0.08)
        if name == "kl":  # an estimate may lie below 0, an empty margin may not
            axis.set_ylim(bottom=min(0.0, axis.dataLim.y0))
    legend(figure, [pipeline for (_, pipeline, _), _ in curves(events)])
    return figure


# What came out


def outcome(runs: Sequence[Records], depth: str) -> tuple[Figure, str]:
    """What came out, and in words: one run's metrics, or all cells of a sweep."""
    if len(runs) > 1 and runs[0].the_run()["world"] == "mog":
        return figures.reward_by_sharpening(runs, depth), f"{len(runs)} settings."
    return figures.four_metrics(runs, depth), " ".join(map(in_short, runs))
