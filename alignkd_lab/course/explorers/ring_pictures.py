"""The picture of the ring's sweep: what distilling gains in precision and recall, by sharpening and size."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.mog.ring import Sweep
from alignkd_lab.plots.drawing import INK, panels, themed
from alignkd_lab.plots.style import number
from alignkd_lab.stats import t_interval


def sweep_picture(sweep: Sweep) -> Picture:
    """What distilling gains in precision and recall, by sharpening and size."""
    sharpest = sweep.sharpenings[-1]
    said = [
        f"{k}: precision {number(sweep.gain('precision', k, sharpest).mean().item())}, "
        f"recall {number(sweep.gain('recall', k, sharpest).mean().item())}"
        for k in sweep.components
    ]
    return kept(_sweep(sweep), f"What distilling changes at s = {sharpest:g}, by components: {'; '.join(said)}.")


@themed
def _sweep(sweep: Sweep) -> Figure:
    seeds = sweep.gains["true"]["recall"].shape[-1]
    note = (
        f"Live run: Gaussian ring of KD-MWE, {seeds} seeds; bands: 95 % t-intervals over seeds of the difference, "
        f"distilled minus direct student. Teacher of {sweep.settings.teacher_components} components, fitted to "
        f"{sweep.settings.training_draws} draws."
    )
    figure, grid = panels(1, 3, (10, 4.3), "What distilling changes: sharper teachers, larger students", note)
    titles = {
        ("true", "precision"): "Precision, judged by p*",
        ("published", "precision"): "… by the sharpened teacher",
        ("true", "recall"): "Recall, on fresh draws",
    }
    for axis, ((scoring, metric), title) in zip(grid[0], titles.items(), strict=True):
        axis.set_title(title)
        _gains(axis, sweep, scoring, metric)
    grid[0, 0].set_ylabel("distilled minus direct (nats)")
    grid[0, 0].legend(loc="upper left", title="components of each student", title_fontsize=9, alignment="left")
    return figure


def _gains(axis: Axes, sweep: Sweep, scoring: str, metric: str) -> None:
    axis.axhline(0, color=INK, linewidth=1)
    colours = sns.color_palette("flare", len(sweep.components))
    for k, colour, marker in zip(sweep.components, colours, cycle("o^sDvP"), strict=False):
        found = [t_interval(sweep.gain(metric, k, s, scoring).numpy()) for s in sweep.sharpenings]
        mean, low, high = np.array(found).T
        axis.fill_between(sweep.sharpenings, low, high, color=colour, alpha=0.16, linewidth=0)
        look = {"markersize": 5.5, "markeredgecolor": "white", "linewidth": 1.7, "label": f"{k}"}
        axis.plot(sweep.sharpenings, mean, marker=marker, color=colour, **look)
    axis.set(xscale="log", xlim=(sweep.sharpenings[0] / 1.15, sweep.sharpenings[-1] * 1.15))
    axis.set_xticks(sweep.sharpenings, [f"{s:g}" for s in sweep.sharpenings])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("sharpening, s")
