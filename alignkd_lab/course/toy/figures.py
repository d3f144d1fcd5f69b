"""The picture of ADPA's limits: what the loss sees, what it does not see, and what each regulariser does about it."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.plots.drawing import INK, QUIET, panels, themed
from alignkd_lab.plots.style import metric_label
from alignkd_lab.stats import LEVEL, t_interval

_METRICS = ("expected_advantage", "reward", "overall_recall")
_LABELS = {"expected_advantage": "expected advantage (nats per token)"}
_TITLES = ("What the loss sees", "What we want", "What is forgotten")
# Not a pipeline's colours: a regulariser is no pipeline. Tol's muted palette, which colour-blind readers can tell
# apart.
_REGULARISER_COLOURS = (INK, "#882255", "#44AA99", "#332288", "#999933", "#88CCEE", "#AA4499", "#117733", "#DDCC77")
_DODGE = 0.07
_REGULARISER_MARKERS = "osD^vPXh*"


@themed
def advantage_limits(frame: pd.DataFrame, yardsticks: pd.DataFrame | None = None) -> Figure:
    """Expected advantage, true reward and recall of ADPA in the toy world, with intervals over seeds.

    Above, the unregularised runs step by step, a line a gamma; below, the last step against gamma, a line a
    regulariser.

    Args:
        frame: from `toy.sweep.sweep`, of one regulariser or of several put together; its first regulariser is the one
        shown above. yardsticks: from `toy.sweep.yardsticks`: the DPO teacher is drawn as a dashed line.
    """
    regularisers, seeds = list(dict.fromkeys(frame.regulariser)), frame.seed.nunique()
    bands = (
        f"Bands and bars: {100 * LEVEL:g} % t-intervals over {seeds} seeds, each a world of its own"
        if seeds > 1
        else "One seed"
    )
    teacher = "" if yardsticks is None else " Dashed: the DPO teacher."
    note = f"Toy language, everything computed exactly, trained live. {bands}.{teacher}"
    figure, grid = panels(2, len(_METRICS), (11, 7.2), "ADPA pushed too far, and what holds it back", note)
    gammas, look = sorted(frame.gamma.unique()), {"markeredgecolor": "white", "markersize": 7.5, "linewidth": 1.5}
    colours = zip(gammas, sns.color_palette("flare", len(gammas)), strict=True)
    shades = {gamma: {"color": shade, "linewidth": 1.9} for gamma, shade in colours}
    marked = zip(regularisers, _REGULARISER_COLOURS, _REGULARISER_MARKERS, strict=False)
    looks = {name: {"color": colour, "marker": marker, **look} for name, colour, marker in marked}
    first, last = frame[frame.regulariser == regularisers[0]], frame[frame.step == frame.step.max()]
    for metric, title, above, below in zip(_METRICS, _TITLES, *grid, strict=True):
        above.set_title(title, pad=8)
        _lines(above, first, metric, "step", "gamma", shades)
        _lines(below, last, metric, "gamma", "regulariser", looks)
        above.set_xlabel("ADPA steps")
        below.set_xlabel("γ, weight of the advantage")
        below.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas])
        for axis in (above, below):
            axis.set_ylabel(_LABELS.get(metric) or metric_label(metric, "lm"))
            if yardsticks is not None:
                level = yardsticks[yardsticks.model == "dpo"][metric].mean()
                axis.axhline(level, color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    _legend(grid[0, -1], "No regulariser" if regularisers[0] == "none" else f"Regulariser: {regularisers[0]}")
    _legend(grid[1, -1], f"After {frame.step.max()} steps")
    return figure


def _lines(axis: Axes, frame: pd.DataFrame, metric: str, across: str, by: str, looks: dict) -> None:
    """A line of means over seeds for each value of `by`, with its interval: a band over steps, bars over gammas."""
    for number, (value, look) in enumerate(looks.items()):
        groups = frame[frame[by] == value].groupby(across)[metric]
        found = groups.apply(lambda values: pd.Series(t_interval(values)._asdict())).unstack()
        x = found.index.to_numpy(dtype=float)
        if by == "gamma":
            axis.fill_between(x, found.low, found.high, color=look["color"], alpha=0.12, linewidth=0)
        else:
            x = x + _DODGE * (number - (len(looks) - 1) / 2)
            axis.vlines(x, found.low, found.high, color=look["color"], linewidth=2, alpha=0.4, zorder=2)
        axis.plot(
            x,
            found.estimate,
            label=f"γ = {value:g}" if by == "gamma" else value.replace("none", "no regulariser"),
            zorder=3,
            **look,
        )
    if metric == "reward":
        axis.set_ylim(bottom=0)


def _legend(axis: Axes, title: str) -> None:
    axis.legend(title=title, loc="center left", bbox_to_anchor=(1.02, 0.5), alignment="left", title_fontsize=9.5)
