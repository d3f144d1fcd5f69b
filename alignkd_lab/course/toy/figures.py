"""The picture of ADPA's limits: what the loss sees, what it does not see, and what a regulariser does about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.plots.drawing import INK, QUIET, panels, themed
from alignkd_lab.plots.style import metric_label
from alignkd_lab.stats import LEVEL, t_interval

_METRICS = {
    "expected_advantage": ("What the loss sees", "expected advantage (nats per token)"),
    "reward": ("What we want", metric_label("reward", "lm")),
    "overall_recall": ("What is forgotten", metric_label("overall_recall", "lm")),
}
# No pipeline's colours. Tol's muted palette, which colour-blind readers can tell apart.
_REGULARISERS = ((INK, "o", -0.035), ("#882255", "s", 0.035))


@themed
def advantage_limits(frame: pd.DataFrame, teacher: pd.DataFrame) -> Figure:
    """Expected advantage, true reward and recall of ADPA in the toy world, with intervals over seeds.

    Above, the unregularised runs step by step, a line a gamma; below, the last step against gamma, without and with a
    regulariser.

    Args:
        frame: from `toy.world.sweep`, without a regulariser and then with one.
        teacher: from `toy.world.measure`, the DPO teacher: the dashed line.
    """
    note = (
        f"Toy language, everything computed exactly, trained live. Bands and bars: {100 * LEVEL:g} % t-intervals over "
        f"{frame.seed.nunique()} seeds, each a world of its own. Dashed: the DPO teacher."
    )
    figure, grid = panels(2, len(_METRICS), (11, 7.2), "ADPA pushed too far, and what holds it back", note)
    gammas, regularisers = sorted(frame.gamma.unique()), list(dict.fromkeys(frame.regulariser))
    first, last = frame[frame.regulariser == regularisers[0]], frame[frame.step == frame.step.max()]
    for (metric, (title, label)), above, below in zip(_METRICS.items(), *grid, strict=True):
        for gamma, colour in zip(gammas, sns.color_palette("flare", len(gammas)), strict=True):
            steps, means, lows, highs = _over_seeds(first[first.gamma == gamma], metric, "step")
            above.fill_between(steps, lows, highs, color=colour, alpha=0.12, linewidth=0)
            above.plot(steps, means, color=colour, linewidth=1.9, label=f"γ = {gamma:g}")
        for name, (colour, marker, aside) in zip(regularisers, _REGULARISERS, strict=True):
            at, means, lows, highs = _over_seeds(last[last.regulariser == name], metric, "gamma")
            look = {"marker": marker, "markeredgecolor": "white", "markersize": 7.5, "linewidth": 1.5, "zorder": 3}
            below.vlines(at + aside, lows, highs, color=colour, linewidth=2, alpha=0.4, zorder=2)
            below.plot(at + aside, means, color=colour, label=name.replace("none", "no regulariser"), **look)
        above.set_title(title, pad=8)
        above.set_xlabel("ADPA steps")
        below.set_xlabel("γ, weight of the advantage")
        below.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas])
        for axis in (above, below):
            axis.set_ylabel(label)
            axis.axhline(teacher[metric].mean(), color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
            if metric == "reward":
                axis.set_ylim(bottom=0)
    _legend(grid[0, -1], "No regulariser")
    _legend(grid[1, -1], f"After {frame.step.max()} steps")
    return figure


def _over_seeds(frame: pd.DataFrame, metric: str, across: str) -> np.ndarray:
    """[4, point]: where, and the mean over seeds with its interval."""
    return np.array([(at, *t_interval(values)) for at, values in frame.groupby(across)[metric]]).T


def _legend(axis: Axes, title: str) -> None:
    axis.legend(title=title, loc="center left", bbox_to_anchor=(1.02, 0.5), alignment="left", title_fontsize=9.5)
