"""The picture of RLHF's two traps: live runs on Gaussians beside the best of all policies."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.widgets.view import Picture
from alignkd_lab.mog.traps import Traps, run_traps
from alignkd_lab.plots.drawing import BAND, INK, QUIET, panels, seed_points, themed, write

# Okabe and Ito's green and pink, told apart by marker too; no pipeline's order is drawn here.
HANDED, FROM_REFERENCE = "#009E73", "#7B4FA3"


def show() -> Picture:
    """Run all of it live, and draw it."""
    traps = run_traps()
    return Picture(draw(traps), caption(traps))


def boundaries(traps: Traps) -> tuple[float, float]:
    """The shares in the reference from which on most runs find the target, and the optimum shows it most."""
    found = (traps.from_reference > 0.5).double().mean(-1) > 0.5
    return traps.masses[found].min().item(), traps.masses[traps.optimum > 0.5].min().item()


def caption(traps: Traps) -> str:
    """What the picture shows, in words."""
    drawn, paid = boundaries(traps)
    settings = traps.settings
    return (
        f"Reward {settings.reward_height:g}, KL weight {settings.beta:g}, {traps.draws:,} draws a run. "
        f"The best policy shows the target mostly down to a share of {percent(paid)} in the reference, and a run that "
        f"was handed the target ends there, too. A run from the reference finds it down to {percent(drawn)} only."
    )


@themed
def draw(traps: Traps) -> Figure:
    """Where RLHF ends on the target, from either start, against the target's share in the reference."""
    seeds = traps.handed.shape[-1]
    note = (
        f"Live run: Gaussian world, exact optimum from a grid, {seeds} seeds a share; small points: seeds, "
        f"markers: means. Reward {traps.settings.reward_height:g}, KL weight β = {traps.settings.beta:g}, "
        f"{traps.draws:,} draws a run."
    )
    figure, grid = panels(1, 1, (10, 4.8), "Two traps: not drawn, and not worth it", note)
    axis = grid[0, 0]
    masses = traps.masses.numpy()
    drawn, paid = (boundary / 10**0.25 for boundary in boundaries(traps))  # half a step below the last that succeeds
    axis.axvspan(paid, drawn, color=BAND, zorder=0)
    _region(axis, masses.min() / 1.6, paid, "learning trap\nthe penalty outweighs\nthe reward")
    _region(axis, paid, drawn, "sampling trap\nworth it,\nbut never drawn")
    _region(axis, drawn, masses.max() * 1.6, "no trap\ndrawn and learnt")
    axis.plot(masses, traps.optimum, color=INK, linewidth=1.6, label="best of all policies")
    _runs(axis, masses, traps.handed.numpy(), HANDED, "s", "RLHF, handed the target (starts at one half)")
    _runs(axis, masses, traps.from_reference.numpy(), FROM_REFERENCE, "o", "RLHF, from the reference")
    axis.set(xscale="log", xlim=(masses.min() / 1.6, masses.max() * 1.6), ylim=(-0.04, 1.3))
    axis.set_xticks(10.0 ** np.arange(-9, 0, 2), [percent(10.0**power) for power in range(-9, 0, 2)])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.minorticks_off()
    axis.set_xlabel("target's share in the reference, m₀")
    axis.set_ylabel("target's share after training")
    axis.legend(loc="center left", bbox_to_anchor=(0.0, 0.62))
    return figure


def _region(axis: Axes, low: float, high: float, text: str) -> None:
    name, _, why = text.partition("\n")
    middle = (low * high) ** 0.5
    write(axis, name, (middle, 1.27), (0, 0), INK, ha="center", va="top", fontweight="bold")
    write(axis, why, (middle, 1.27), (0, -13), QUIET, ha="center", va="top")


def _runs(axis: Axes, masses: np.ndarray, shares: np.ndarray, colour: str, marker: str, label: str) -> None:
    for seed in shares.T:
        seed_points(axis, masses, seed, colour)
    look = {"markersize": 7, "markeredgecolor": "white", "linewidth": 0, "zorder": 4}
    axis.plot(masses, shares.mean(-1), marker, color=colour, label=label, **look)
