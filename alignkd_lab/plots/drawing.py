"""The pieces that the figures are put together from: theme, panels, rows, lines, crosses, legend."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import ORDERS, YARDSTICKS, reading_order
from alignkd_lab.plots.style import WORLD_LABEL, metric_label, number, over_seeds, pipeline_style, shown
from alignkd_lab.records import Records
from alignkd_lab.stats import Interval

INK, QUIET, GRID, BAND = "#1F2328", "#5F6973", "#E4E7EB", "#F3F5F8"
DEPTH = {
    "record": "Recorded run",
    "live": "Live run",
    "tiny": "Tiny preset: plumbing only, says nothing about the claim",
    "beside": "A live run beside recorded ones",
}
DPI = 180
NOTE = "note"  # marks a figure's last line
_THEME = {
    **sns.axes_style("ticks"),
    "axes.edgecolor": "#B8BEC5",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.unicode_minus": True,
}


# One wording for what the marks of a figure are, so that no reader has to guess.
INTERVALS = "Bars: 95 % t-intervals over seeds; small points: seeds"

Estimate = tuple[Interval, np.ndarray]


def themed(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under the house's theme whatever the caller's own settings are."""

    @functools.wraps(draw)
    def drawn(*arguments, **options) -> Figure:
        with rc_context(_THEME):
            return draw(*arguments, **options)

    return drawn


def panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    title: str,
    note: str,
    heights: Sequence[float] | None = None,
    share: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches with its title, its last line, and axes [rows, columns]."""
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, sharex=share, sharey=share)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
    words = textwrap.fill(note, int(17 * size[0]))
    figure.supxlabel(words, x=0.012, ha="left", fontsize=8, color=QUIET, gid=NOTE)
    return figure, grid


def note_of(figure: Figure) -> str:
    """The figure's last line, which says how deep its evidence is; empty where it has none."""
    return " ".join(" ".join(text.get_text() for text in figure.texts if text.get_gid() == NOTE).split())


def depth_line(runs: Iterable[Records], depth: str, marks: str = INTERVALS) -> str:
    """How deep the evidence is: recorded, live or tiny, the preset and the seeds, and what the marks of several are."""
    about = [(run.the_run(), len(run.seeds)) for run in runs]
    kind = "tiny" if all(run["preset"] == "tiny" for run, _ in about) else depth
    if kind not in DEPTH:
        raise UnknownName("depth", depth, DEPTH)
    counts: dict[str, list[int]] = {}
    for run, seeds in about:
        counts.setdefault(f"{WORLD_LABEL[run['world']]}: {run['preset']} preset", []).append(seeds)
    worlds = [f"{where}, {_seeds(min(held), max(held))}" for where, held in counts.items()]
    alone = marks == INTERVALS and max(seeds for _, seeds in about) == 1
    return ". ".join([DEPTH[kind], *worlds, *[marks] * (not alone)]) + "."


def _seeds(fewest: int, most: int) -> str:
    if most == 1:
        return "one seed, no interval"
    return f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"


def spans(seeds: list[int]) -> str:
    """`[0, 1, 2, 5]` as `0–2, 5`."""
    runs = [list(run) for _, run in groupby(enumerate(seeds), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0][1]}–{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def run_title(run: Records) -> str:
    """A panel's heading, e.g. `Gaussian world: rare mode, RLHF`."""
    about = run.the_run()
    return f"{WORLD_LABEL[about['world']]}: {about['target'].replace('_', ' ')}, {about['algorithm'].upper()}"


def whole(run: Records, names: Collection[str]) -> Records:
    """The run with those of the pipelines that every seed of it holds."""
    counts = run.metrics.groupby("pipeline")["seed"].nunique()
    return run.select(pipeline=[name for name in names if counts.get(name) == len(run.seeds)])


def estimates(run: Records, metric: str) -> dict[str, Estimate]:
    """Per pipeline the interval over seeds and the seeds' values, as shown; none where a value is undefined."""
    rows = run.metrics[run.metrics["metric"] == metric].sort_values("seed")
    held = {name: values.to_numpy(dtype=float) for name, values in rows.groupby("pipeline")["value"]}
    return {
        name: (Interval(*(shown(metric, value) for value in over_seeds(metric, held[name]))), shown(metric, held[name]))
        for name in reading_order(held)
        if np.isfinite(held[name]).all()
    }


def seed_points(axis: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """The seeds, small and faint."""
    axis.plot(x, y, ".", color=colour, alpha=0.35, markersize=4.5, markeredgewidth=0, zorder=2)


def mark(axis: Axes, x: float, y: float, name: str, size: float = 8) -> None:
    """A pipeline's marker, the two orders on top; open shapes look smaller and are drawn larger."""
    style = pipeline_style(name)
    top = 5 if name in ORDERS else 4
    size *= 1.25 if style.marker in "PX" else 1.15 if style.marker in "^v*" else 1
    axis.plot(x, y, style.marker, color=style.colour, markersize=size, markeredgecolor="white", zorder=top)


def rows_of_intervals(axis: Axes, run: Records, metric: str, labels: bool) -> None:
    """One row a pipeline: the mean with its interval, and every seed as a small point."""
    names, found = run.pipelines, estimates(run, metric)
    places = row_places(names)
    for name in [name for name in names if name in found]:
        (mean, low, high), values = found[name]
        colour, order, place = pipeline_style(name).colour, name in ORDERS, places[name]
        if values.size > 1:
            seed_points(axis, values, place + np.linspace(-0.2, 0.2, values.size), colour)
            axis.plot([low, high], [place, place], color=colour, linewidth=3 if order else 2, zorder=3)
        mark(axis, mean, place, name, 9 if order else 6.5)
        if order:
            write(axis, number(mean, 2), (mean, place), (0, 8), colour, ha="center", fontweight="bold")
    orders = [places[name] for name in names if name in ORDERS]
    if orders:
        axis.axhspan(min(orders) - 0.62, max(orders) + 0.45, color=BAND, zorder=0)
    axis.set_ylim(max(places.values()) + 0.6, -0.7)
    axis.set_xlabel(metric_label(metric, run.the_run()["world"]))
    axis.set_yticks(list(places.values()), [pipeline_style(name).label if labels else "" for name in names])
    for tick, name in zip(axis.get_yticklabels(), names, strict=True):
        if name in ORDERS:
            tick.set(color=pipeline_style(name).colour, fontweight="bold")
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)


def row_places(names: Sequence[str]) -> dict[str, float]:
    """A row for each pipeline, with some room between yardsticks, orders and controls."""
    groups = [YARDSTICKS.__contains__, ORDERS.__contains__]
    places, place = {}, 0.0
    for before, name in zip([None, *names], names, strict=False):
        if before is not None:
            place += 1.0 if all(group(before) == group(name) for group in groups) else 1.45
        places[name] = place
    return places


def log_scale_if_wide(axis: Axes, values: Sequence[float]) -> str:
    """Logarithmic x for log-likelihoods more than a factor of 20 apart; what the axis says of it."""
    nearest, farthest = max(values, default=0.0), min(values, default=0.0)
    if nearest >= 0 or farthest / nearest <= 20:
        return ""
    axis.set_xscale("symlog", linthresh=abs(nearest) / 2)
    axis.set_xlim(1.5 * farthest, nearest / 1.5)
    steps = [-(scale * 10.0**power) for power in range(-3, 7) for scale in (1, 3)]
    axis.set_xticks([step for step in steps if 1.5 * farthest < step < nearest / 1.5])
    axis.xaxis.set_major_formatter(lambda value, _: number(value, 1))
    axis.minorticks_off()
    return ", logarithmic"


def line(axis: Axes, name: str, places: Sequence[tuple[float, Estimate]], width: float, faint: bool = False) -> None:
    """A line of means over `places` (x, estimate) with intervals, and, unless `faint`, seeds spread over `width`."""
    colour, size = pipeline_style(name).colour, 4.5 if faint else 7
    look = {"color": colour, "alpha": 0.55 if faint else 1.0, "zorder": 2 if faint else 3}
    axis.plot([x for x, _ in places], [span.estimate for _, (span, _) in places], lw=1.1 if faint else 1.6, **look)
    for x, ((mean, low, high), values) in places:
        if values.size > 1:
            axis.plot([x, x], [low, high], linewidth=1.6 if faint else 2.6, **look)
        if values.size > 1 and not faint:  # a mean may lie where no seed does
            seed_points(axis, x + np.linspace(-width / 2, width / 2, values.size), values, colour)
        mark(axis, x, mean, name, size)


def write(axis: Axes, text: str, place: tuple[float, float], shift: tuple[float, float], colour: str, **font) -> None:
    """A short text beside a point, `shift` in points of print."""
    axis.annotate(text, place, shift, textcoords="offset points", color=colour, fontsize=8.5, zorder=5, **font)


def legend(figure: Figure, names: Iterable[str]) -> None:
    """The pipelines' labels under the title."""
    handles = []
    for style in map(pipeline_style, reading_order(set(names))):
        look = {"color": style.colour, "marker": style.marker, "markeredgecolor": "white", "markersize": 9}
        handles.append(Line2D([], [], label=style.label, **look))
    columns, height = int(figure.get_figwidth() // 2.5), figure.get_figheight()
    rows = -(-len(handles) // columns)
    # The layout engine would lay an outside legend over the title, so its room is set aside by hand.
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (0.2 * rows + 0.2) / height))
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1 - 0.38 / height)}
    figure.legend(handles=handles, ncols=columns, columnspacing=1.4, **place).set_in_layout(False)
