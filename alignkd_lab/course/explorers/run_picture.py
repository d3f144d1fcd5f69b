"""The pictures of the run panel: a run as it goes, what came out, and the shipped record of the same settings."""

from __future__ import annotations

import functools
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.course.exercises import recorded_smollm2
from alignkd_lab.course.explorers.run_progress import Curve, Unit
from alignkd_lab.course.explorers.runs import Request
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS, YARDSTICKS
from alignkd_lab.plots import figures
from alignkd_lab.plots.drawing import DEPTH, INK, QUIET, legend, mark, only, panels, themed, write
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.presets import preset
from alignkd_lab.records import RecordError, load_records, plain_settings
from alignkd_lab.report.tables import SYMBOLS, in_short
from alignkd_lab.runs import group_runs, summarise_run

_AT_HUB = ("base", "truth")  # the gpu preset prefers the original weights to their quantised copy


def runs_of(request: Request) -> list[dict]:
    """What the records in the request's folder hold of it so far, without other seeds and pipelines."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a last line that is still being written
        for path in sorted(request.out.glob(f"{request.world}-{request.preset}-*.jsonl*")):
            try:
                found += load_records(path)
            except RecordError:
                continue
    names, seeds = (*YARDSTICKS, *request.pipeline_names()), set(request.seed_numbers())
    fitting = [record for record in found if record["seed"] in seeds and agrees(request, record)]
    return [only(run, names) for run in group_runs(fitting)]


def shipped_runs(request: Request) -> list[dict]:
    """The recorded runs of the project with the request's settings: none where they differ in anything."""
    return [run for run in _shipped() if run["world"] == request.world and agrees(request, run)]


def recorded(world: str) -> list[dict]:
    """The recorded runs of a world that stand for it: the study on text, every cell of the sweep on Gaussians."""
    if world == "lm":
        return [only(recorded_smollm2(), (*YARDSTICKS, *ORDERS))]
    return [run for run in _shipped() if run["world"] == "mog" and run["preset"] == "laptop"]


def agrees(request: Request, record: Mapping) -> bool:
    """Whether a record or run was made with the request's settings."""
    if record["preset"] != request.preset or record["algorithm"] not in request.algorithms():
        return False
    wanted = plain_settings(request.base_settings())
    held = record["settings"]
    free = _AT_HUB if request.preset == "gpu" else ()
    if request.world == "mog":
        chosen = preset(request.preset)
        free = tuple(name for name in ("sharpening", "beta") if name not in request.settings)
        every = {"sharpening": chosen.sharpenings, "beta": chosen.betas}
        if any(held[name] not in every[name] for name in free):
            return False
    return all(held.get(name) == value for name, value in wanted.items() if name not in free)


def outcome(runs: Sequence[dict], depth: str) -> tuple[Figure, str]:
    """What came out, and the verdicts in words: one run's metrics, or all cells of a sweep."""
    if len(runs) == 1:
        return figures.four_metrics(runs, depth), in_short(summarise_run(runs[0]))
    if runs[0]["world"] == "mog":
        return figures.reward_by_sharpening(runs, depth), _counted(runs)
    return figures.four_metrics(runs, depth), " ".join(in_short(summarise_run(run)) for run in runs)


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


@functools.cache
def _shipped() -> list[dict]:
    return group_runs(load_records(data_folder() / "records"))


def _counted(runs: Sequence[dict]) -> str:
    """How often A-K's lead in reward is what it was claimed to be."""
    verdicts = Counter()
    for run in runs:
        held = {name for record in run["records"] for name in record["pipelines"]}
        if not {K_A, A_K} <= held:
            return in_short(summarise_run(run))
        verdicts[next(claim["verdict"] for claim in summarise_run(run)["claims"] if claim["metric"] == "reward")] += 1
    counts = ", ".join(f"{name} {verdicts[name]}" for name in SYMBOLS if verdicts[name])
    return f"{len(runs)} settings. “A-K earns more reward”: {counts}."
