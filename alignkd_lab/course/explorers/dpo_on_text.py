"""The picture of DPO on real text: what becomes of both responses' likelihoods, and of each pair's weight."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab import theory
from alignkd_lab.course.explorers.loss_bench import LOSER_COLOUR, WINNER_COLOUR
from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.plots.drawing import DEPTH, INK, QUIET, panels, themed
from alignkd_lab.plots.style import number

TITLE = "DPO on real text: the margin grows, but who moves?"


def show(chosen: np.ndarray, rejected: np.ndarray, beta: float, model: str) -> Picture:
    """The picture of a training run.

    Args:
        chosen, rejected: log pi - log pi_ref of each pair's responses after every step, nats, [step, pair].
        beta: KL weight; model: its name, for the last line.
    """
    return kept(draw(chosen, rejected, beta, model), caption(chosen, rejected, beta))


def caption(chosen: np.ndarray, rejected: np.ndarray, beta: float) -> str:
    """What the picture shows, in words."""
    up, down = chosen[-1].mean(), rejected[-1].mean()
    fell, pairs = int((chosen[-1] < 0).sum()) or "none", chosen.shape[1]
    weight = theory.dpo_weight(chosen[-1], rejected[-1], beta).mean().item()
    return (
        f"After {len(chosen) - 1} steps the chosen responses have gained {number(up)} nats on average, the rejected "
        f"{number(down)}: the margin grew by {number(up - down)}, and the mean weight is {number(weight, 2)}. The "
        f"chosen response itself became less likely in {fell} of {pairs} pairs."
    )


@themed
def draw(chosen: np.ndarray, rejected: np.ndarray, beta: float, model: str) -> Figure:
    """Left: both log-probabilities. Right: the weight of each pair."""
    pairs = chosen.shape[1]
    marks = f"Thick: mean over {pairs} pairs; thin: each pair" if pairs > 1 else "One pair"
    note = f"{DEPTH['live']}: {model}, real weights, β = {beta:g}. {marks}. {caption(chosen, rejected, beta)}"
    figure, (axes,) = panels(1, 2, (10, 4.3), TITLE, note)
    left, right = axes
    left.axhline(0, color=QUIET, linewidth=1)
    _lines(left, chosen, WINNER_COLOUR, "^", "chosen")
    _lines(left, rejected, LOSER_COLOUR, "v", "rejected")
    left.legend(loc="lower left")
    left.set_ylabel("log π − log π_ref (nats per response)")
    left.set_title("Log-probability since the start")
    weights = theory.dpo_weight(chosen, rejected, beta).numpy()
    _lines(right, weights, INK, "o")
    right.set_ylim(0, max(0.6, 1.05 * weights.max()))  # a pair that goes the wrong way weighs more than ½
    right.set_ylabel("weight of the pair")
    right.set_title("How hard each pair still pushes")
    for axis in axes:
        axis.set_xlabel("training steps")
    return figure


def _lines(axis: Axes, values: np.ndarray, colour: str, marker: str, label: str | None = None) -> None:
    steps, look = np.arange(len(values)), {"linewidth": 2.2, "markersize": 6, "markeredgecolor": "white"}
    axis.plot(steps, values, color=colour, linewidth=0.9, alpha=0.35)
    axis.plot(steps, values.mean(1), marker=marker, color=colour, label=label, **look)
