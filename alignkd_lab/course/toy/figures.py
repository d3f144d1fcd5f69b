"""The picture of ADPA's limits: what the loss sees, what it does not see, and what a regulariser does about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkd_lab.course.toy.world import STEPS
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
    """Expected advantage, true reward and recall of ADPA in the toy world against gamma, with intervals over seeds.

    Args:
        frame: from `toy.world.sweep`, without a regulariser and then with one.
        teacher: from `toy.world.measure`, the DPO teacher: the dashed line.
    """
    note = (
        f"Toy language, everything computed exactly, trained live, {STEPS} steps. Bars: {100 * LEVEL:g} % t-intervals "
        f"over {frame.seed.nunique()} seeds, each a world of its own. Dashed: the DPO teacher."
    )
    figure, (axes,) = panels(1, len(_METRICS), (11, 3.9), "ADPA pushed too far, and what holds it back", note)
    for axis, (metric, (title, label)) in zip(axes, _METRICS.items(), strict=True):
        runs = frame.groupby("regulariser", sort=False)
        for (name, held), (colour, marker, aside) in zip(runs, _REGULARISERS, strict=True):
            at, mean, low, high = np.array([(at, *t_interval(each)) for at, each in held.groupby("gamma")[metric]]).T
            look = {"marker": marker, "markeredgecolor": "white", "markersize": 7.5, "linewidth": 1.5, "zorder": 3}
            axis.vlines(at + aside, low, high, color=colour, linewidth=2, alpha=0.4, zorder=2)
            axis.plot(at + aside, mean, color=colour, label=name.replace("none", "no regulariser"), **look)
        axis.axhline(teacher[metric].mean(), color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        axis.set(xlabel="γ, weight of the advantage", ylabel=label)
        axis.set_title(title, pad=8)
        axis.set_xticks(sorted(frame.gamma.unique()))
    axes[1].set_ylim(bottom=0)
    axes[0].legend(loc="upper left")
    return figure
