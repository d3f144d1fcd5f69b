"""Still pictures of sharpening: weights, the published figures beside ours, and the sweep over the students' size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.course.explorers.sharpening import STUDENTS
from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.mog.ring import PUBLISHED, Ring, Sweep
from alignkd_lab.plots.drawing import INK, QUIET, log_scale_if_wide, panels, seed_points, themed, write
from alignkd_lab.plots.style import MINUS, number, percent
from alignkd_lab.stats import t_interval

_PERCENTS = {1.0: "100 %", 0.1: "10 %", 0.01: "1 %", 0.001: "0.1 %", 0.0001: "0.01 %"}


# Weights


def weights_by_sharpening(weights: Sequence[float], chosen: float = 2.0) -> Picture:
    """What every weight becomes under sharpening, with the numbers at one of them."""
    sharpened = np.array(weights) ** chosen / (np.array(weights) ** chosen).sum()
    shares = ", ".join(percent(share) for share in sharpened)
    return kept(_weights(np.array(weights), chosen), f"Weights at s = {chosen:g}: {shares}.")


@themed
def _weights(weights: np.ndarray, chosen: float) -> Figure:
    note = "Live: exact, weights to the power s over their sum. Left of s = 1 the teacher is flattened."
    figure, grid = panels(1, 1, (10, 3.3), "Sharpening takes from the rare", note)
    axis = grid[0, 0]
    powers = np.geomspace(0.25, 16, 121)
    curves = weights[:, None] ** powers / (weights[:, None] ** powers).sum(0)
    axis.axvline(1, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    axis.axvline(chosen, color=POINT, linewidth=1.2)
    colours = dict(zip(sorted(set(weights), reverse=True), sns.color_palette("mako", len(set(weights))), strict=True))
    for weight in colours:
        curve = curves[list(weights).index(weight)]
        times = list(weights).count(weight)
        share = np.interp(np.log(chosen), np.log(powers), curve)
        rare = weight == weights.min()
        colour = POINT if rare else colours[weight]
        words = f"{percent(weight)} of the teacher" + (f" ({times} modes)" if times > 1 else "")
        axis.plot(powers, curve, color=colour, linewidth=2.4 if rare else 1.8, label=words)
        axis.plot(chosen, share, "o", color=colour, markersize=8, markeredgecolor="white", zorder=5)
        if rare:
            write(axis, f"{percent(share)} at s = {chosen:g}", (chosen, share), (9, 4), colour, fontweight="bold")
    axis.set(xscale="log", yscale="log", xlim=(powers[0], powers[-1]), ylim=(5e-5, 1))
    axis.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"])
    axis.set_yticks(list(_PERCENTS), list(_PERCENTS.values()))
    axis.minorticks_off()
    axis.set_xlabel("sharpening, s")
    axis.set_ylabel("a mode's share")
    axis.legend(loc="lower left")
    return figure


# The published figures


def rescored(ring: Ring) -> Picture:
    """The published figures, ours under the same scoring, and ours under the truth and on fresh draws."""
    said = []
    for student, metrics in PUBLISHED.items():
        for metric, figure in metrics.items():
            ours = [_exact(ring.scores[scoring][student][metric].mean().item()) for scoring in ("published", "true")]
            said.append(f"{student} {metric}: published {_exact(figure)}, ours {ours[0]}, rescored {ours[1]}")
    return kept(_rescored(ring), "; ".join(said) + ".")


@themed
def _rescored(ring: Ring) -> Figure:
    seeds = len(ring.training_draws)
    note = (
        f"Live run: Gaussian ring of KD-MWE, {seeds} seeds; small points: seeds, bars: 95 % t-intervals of the mean. "
        "Published: one run. Their scoring: precision under the sharpened teacher, recall on the training draws. "
        "Rescored: precision under p*, recall on fresh draws."
    )
    figure, grid = panels(1, 2, (10, 4.2), "The published figures, and what the truth says", note)
    for place, metric in enumerate(("precision", "recall")):
        _scoring_rows(grid[0, place], ring, metric, labels=place == 0)
    return figure


def _scoring_rows(axis: Axes, ring: Ring, metric: str, labels: bool) -> None:
    places, words, everything = [], [], []
    for block, (student, (colour, marker)) in enumerate(STUDENTS.items()):
        top = 3.5 * block
        axis.plot(PUBLISHED[student][metric], top, "D", color="white", markeredgecolor=INK, markersize=8)
        _value(axis, PUBLISHED[student][metric], top, INK)
        for row, scoring in enumerate(("published", "true"), start=1):
            values = ring.scores[scoring][student][metric].numpy()
            mean, low, high = t_interval(values)
            seed_points(axis, values, top + row + np.linspace(-0.2, 0.2, values.size), colour)
            axis.plot([low, high], [top + row] * 2, color=colour, linewidth=3)
            axis.plot(mean, top + row, marker, color=colour, markersize=7, markeredgecolor="white", zorder=5)
            _value(axis, mean, top + row, colour)
            everything += values.tolist()
        places += [top, top + 1, top + 2]
        words += [f"{student.capitalize()}, published", "ours, their scoring", "ours, rescored"]
    axis.set_ylim(places[-1] + 0.6, -0.85)
    axis.set_yticks(places, words if labels else [""] * len(places))
    axis.margins(x=0.08)
    scale = log_scale_if_wide(axis, everything)
    axis.set_xlabel(f"{metric} (nats{scale})")
    axis.grid(axis="y", visible=False)


def _value(axis: Axes, value: float, place: float, colour: str) -> None:
    write(axis, _exact(value), (value, place), (0, 7), colour, ha="center", fontweight="bold")


def _exact(value: float) -> str:
    """Two decimals, as published."""
    return f"{value:.2f}".replace("-", MINUS)


# The sweep


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
    for k, colour, marker in zip(sweep.components, colours, "o^sDvP", strict=False):
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
