"""Explorer: "a large reward suffices". A reward multiplies what the reference does, and needs to be drawn first.

Exact: closed forms of `theory`, for a reward on a target set and none elsewhere. The optimum is that of a
free policy; that a run gets there takes draws of the target, which the right panel counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab import theory
from alignkd_lab.course.widgets.controls import Number, start
from alignkd_lab.course.widgets.view import show_of
from alignkd_lab.plots.drawing import BAND, INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number, percent

_LEAST_MASS, _MOST_DRAWS = 1e-6, 1e6
# The rare mode's mass, reward, KL weight and batch of the Gaussian world's default settings.
CONTROLS = {
    "reference_mass": Number(0.04, "target's share in the reference, m₀", _LEAST_MASS, 0.5, 0.05, True),
    "reward": Number(4.0, "reward on the target, R", 0.0, 20.0, 0.1),
    "beta": Number(0.5, "KL weight, β", 0.05, 5.0, 0.05, True),
    "draws": Number(256.0, "draws in a batch, n", 1.0, _MOST_DRAWS, 0.05, True),
}
START = start(CONTROLS)
SOURCE = "Live: closed forms, exact; nothing is trained."
POINT = "#7B4FA3"  # no pipeline's colour


@dataclass(frozen=True)
class Threshold:
    """What the picture shows: the state, two curves, and the numbers at the state.

    masses, optima: the reference's mass on the target, and the optimum's, of the left curve; shares, [point].
    counts, chances: draws, and the chance that they hold the target, of the right curve; [point].
    optimum: the optimum's mass on the target, m*.
    least_mass, least_reward: the recall threshold, read as the reference's mass and as the reward.
    chance: that the state's draws hold the target at least once.
    draws_for_95: draws that hold it with a chance of 95 %.
    """

    reference_mass: float
    reward: float
    beta: float
    draws: float
    masses: np.ndarray
    optima: np.ndarray
    counts: np.ndarray
    chances: np.ndarray
    optimum: float
    least_mass: float
    least_reward: float
    chance: float
    draws_for_95: float


def compute(state: Mapping[str, float]) -> Threshold:
    """The optimum's mass against the reference's, and the chance of one sight against the number of draws.

    Raises:
        BadInput: a mass that is no probability, or a beta that is not above 0.
    """
    mass, reward, beta, draws = (state[name] for name in START)
    masses = np.logspace(np.log10(_LEAST_MASS), np.log10(0.99), 200)
    counts = np.logspace(0, np.log10(_MOST_DRAWS), 200)
    return Threshold(
        **{name: state[name] for name in START},
        masses=masses,
        optima=theory.target_mass(masses, reward, beta).numpy(),
        counts=counts,
        chances=theory.chance_of_target(mass, counts).numpy(),
        optimum=theory.target_mass(mass, reward, beta).item(),
        least_mass=theory.least_reference_mass(reward, beta).item(),
        least_reward=theory.recall_threshold(mass, beta).item(),
        chance=theory.chance_of_target(mass, draws).item(),
        draws_for_95=theory.draws_for_chance(mass, 0.95).item(),
    )


def caption(data: Threshold) -> str:
    """What the picture shows at this state, in words."""
    setting = f"reward {data.reward:g}, KL weight {data.beta:g}"
    shares = f"{percent(data.reference_mass)} in the reference and {percent(data.optimum)} in the best policy"
    if data.optimum > 0.5:
        outcome = f"the target wins, as it would from a share of {percent(data.least_mass)} on"
    else:
        outcome = f"the reference wins, and only a reward above {number(data.least_reward)} would change that"
    sight = f"The chance that a batch of {data.draws:,.0f} draws holds the target is {percent(data.chance)}"
    if data.chance < 0.95:
        sight += f", whatever the reward; for 95 % it takes {float(f'{data.draws_for_95:.3g}'):,.0f} draws"
    return f"The target's share is {shares} ({setting}): {outcome}. {sight}."


@themed
def draw(data: Threshold, note: str = SOURCE) -> Figure:
    """Left: where alignment ends. Right: whether a batch shows it the target at all."""
    figure, grid = panels(1, 2, (10, 4.2), "A reward multiplies what the reference already does", note)
    _optimum_panel(grid[0, 0], data)
    _draws_panel(grid[0, 1], data)
    return figure


show = show_of(CONTROLS, compute, draw, caption, SOURCE, "threshold.show")


def _optimum_panel(axis: Axes, data: Threshold) -> None:
    ticks = {mass: percent(mass) for mass in (1e-6, 1e-4, 1e-2)} | {1.0: "100 %"}
    _frame(axis, "Where alignment ends", ticks)
    axis.axhspan(0.5, 1.05, color=BAND, zorder=0)
    write(axis, "the target wins", (data.masses[0], 1), (6, -3), QUIET)
    axis.plot(data.masses, data.masses, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    axis.plot(data.masses, data.optima, color=INK, linewidth=2)
    room = data.least_mass < 0.005
    if room:
        write(axis, "without\nreward", (0.7, 0.7), (-6, 0), QUIET, ha="right")
    if data.least_mass > data.masses[0]:
        axis.plot([data.least_mass] * 2, [0, 0.5], color=INK, linewidth=1, linestyle=(0, (1, 2)))
        # Below the curve on its right; where there is no room, or the state stands there, above it on its left.
        crossed = 1 < data.reference_mass / data.least_mass < 50 and data.least_mass > 2e-5
        shift, side, height = (7, "left", "top") if room and not crossed else (-7, "right", "bottom")
        write(axis, "recall threshold", (data.least_mass, 0.5), (shift, 0), INK, ha=side, va=height)
    _stem(axis, data.reference_mass, data.reference_mass, data.optimum)
    axis.set_xlabel("target's share in the reference, m₀")
    axis.set_ylabel("target's share at the optimum, m*")


def _draws_panel(axis: Axes, data: Threshold) -> None:
    _frame(axis, "Whether a batch shows it at all", {10.0**power: f"{10**power:,}" for power in (0, 2, 4, 6)})
    axis.axhline(0.95, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    write(axis, "95 %", (data.counts[0], 0.95), (6, 3), QUIET)
    axis.plot(data.counts, data.chances, color=INK, linewidth=2)
    _stem(axis, data.draws, 0, data.chance)
    axis.set_xlabel("draws in a batch, n")
    axis.set_ylabel("chance of at least one target")


def _frame(axis: Axes, title: str, ticks: Mapping[float, str]) -> None:
    """Axes with title and ticks placed by hand: looking for their places takes half of the drawing's time."""
    axis.set_title(title, y=1.03)
    axis.set(xscale="log", xlim=(min(ticks), max(ticks)), ylim=(-0.03, 1.05))
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.minorticks_off()


def _stem(axis: Axes, x: float, low: float, high: float) -> None:
    """The state: from where it would be, to where it is."""
    axis.plot([x, x], [low, high], color=POINT, linewidth=2.2)
    axis.plot(x, high, "o", color=POINT, markersize=10, markeredgecolor="white", zorder=5, clip_on=False)
