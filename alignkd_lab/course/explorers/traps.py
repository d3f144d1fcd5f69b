"""RLHF's two traps, one at a time: what is never drawn cannot be learnt, what costs more than it pays is unlearnt.

The target's share in the reference falls from common to one in ten billion. For each share RLHF runs twice:
from the reference, as usual, and *handed* the target, from a start that shows it half of the time. The first
run meets both traps, the second the learning trap alone. Beside them stands the optimum of all policies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.course.widgets.view import Picture
from alignkd_lab.mog.align import rlhf
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.noise import SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import BAND, INK, QUIET, panels, seed_points, themed, write
from alignkd_lab.plots.style import percent

# A weak penalty keeps the traps apart: it lets the optimum find targets that training never draws.
SETTINGS = replace(MogSettings(), beta=0.25)
MASSES = tuple(10.0 ** (-power / 2) for power in range(2, 21))
_HANDED = 0.5
_SCORING_DRAWS = 2000
# Okabe and Ito's green and pink, told apart by marker too; no pipeline's order is drawn here.
HANDED, FROM_REFERENCE = "#009E73", "#7B4FA3"


@dataclass(frozen=True)
class Traps:
    """How often each ends on the target, by its share in the reference.

    masses: `[mass]`, of the target in the reference.
    optimum: `[mass]`, of the best of all policies, from a grid.
    from_reference, handed: `[mass, seed]`, shares of fresh draws after training.
    draws: how many each run drew while it trained.
    settings: reward, KL weight, steps and batch.
    """

    masses: Tensor
    optimum: Tensor
    from_reference: Tensor
    handed: Tensor
    draws: int
    settings: MogSettings


def run_traps(
    masses: tuple[float, ...] = MASSES, seeds: tuple[int, ...] | range = range(3), settings: MogSettings = SETTINGS
) -> Traps:
    """Train all runs at once, every share and seed a row; about two seconds with the defaults.

    Args:
        masses: of the target in the reference, each between 0 and 1; its first target mode is the one that counts.
    """
    problem = Problem.of(settings)
    shares = torch.tensor(masses, dtype=torch.float64)
    rows = shares.repeat_interleave(len(seeds))
    reference = _with_share(problem, settings, rows)
    noise = SeedNoise(tuple(seeds) * len(masses))
    train = {
        "beta": settings.beta,
        "steps": settings.rlhf_steps,
        "batch": settings.rlhf_batch,
        "learning_rate": settings.rlhf_learning_rate,
    }

    def trained(init: GaussianMixture) -> Tensor:
        policy, _ = rlhf(init, reference, problem, noise, **train)
        points = policy.from_noise(noise.uniform("traps", _SCORING_DRAWS), noise.normal("traps", _SCORING_DRAWS, 2))
        return problem.on_target(points).double().mean(-1).view(len(masses), -1)

    handed = _with_share(problem, settings, torch.full_like(rows, _HANDED))
    draws = settings.rlhf_steps * settings.rlhf_batch
    optimum = _optimum(problem, settings, shares)
    return Traps(shares, optimum, trained(reference), trained(handed), draws, settings)


def _with_share(problem: Problem, settings: MogSettings, shares: Tensor) -> GaussianMixture:
    """The truth with its first target mode at each of `shares`, `[row]`; the others keep their proportions."""
    target = settings.targets[0]
    weights = torch.tensor(settings.truth_weights, dtype=torch.float64).repeat(len(shares), 1)
    weights[:, target] = 0
    weights *= (1 - shares).unsqueeze(-1) / weights.sum(-1, keepdim=True)
    weights[:, target] = shares
    truth = problem.truth.expand(len(shares))
    return GaussianMixture(weights.log(), truth.means, truth.log_sds)


def _optimum(problem: Problem, settings: MogSettings, shares: Tensor) -> Tensor:
    points = problem.grid()
    log_reference = torch.log_softmax(_with_share(problem, settings, shares).log_prob(points), -1)
    reward = problem.reward(points)
    optimum = theory.tilted_optimum(log_reference, reward, settings.beta)
    return theory.target_mass_of(optimum, problem.on_target(points))


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
