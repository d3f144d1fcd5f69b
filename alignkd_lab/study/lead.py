"""Which order leads, cell by cell of a sweep of both, and the boundary that the closed form draws through the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.stats import decided
from alignkd_lab.study.boundary import Boundary


@dataclass(frozen=True)
class Lead:
    """The map of one algorithm and one sharpening.

    seeds: how many stand behind every cell; weights, betas: the axes.
    difference: `[beta, weight]`, mean reward of A-K minus that of K-A.
    decided: `[beta, weight]`, whether the paired 95 % interval over seeds leaves out zero.
    found: `{order: [beta, weight]}`, whether the mean reward is at least half of the bump's height.
    boundary_betas, boundary, boundary_sharpened: the recall threshold, the least weight at each KL weight; as it is
        for the base, and for a teacher that is sharpened first.
    """

    algorithm: str
    sharpening: float
    seeds: int
    weights: np.ndarray
    betas: np.ndarray
    difference: np.ndarray
    decided: np.ndarray
    found: dict[str, np.ndarray]
    boundary_betas: np.ndarray
    boundary: np.ndarray
    boundary_sharpened: np.ndarray


def lead(held: Boundary, algorithm: str, sharpening: float) -> Lead:
    """One map of a sweep, which must hold the algorithm and the sharpening."""
    grid, place = held.grid, (held.grid.algorithms.index(algorithm), held.grid.sharpenings.index(sharpening))
    rewards = {order: held.metrics[order]["reward"][place] for order in ORDERS}
    gap, betas = rewards[A_K] - rewards[K_A], np.array(grid.betas)
    boundary_betas, closed_form = np.geomspace(*cell_edges(betas)[[0, -1]], 60), ClosedForm(held.settings)
    return Lead(
        algorithm=algorithm,
        sharpening=sharpening,
        seeds=len(grid.seeds),
        weights=np.array(grid.weights),
        betas=betas,
        difference=gap.mean(-1),
        decided=decided(gap),
        found={order: values.mean(-1) >= held.settings.reward_height / 2 for order, values in rewards.items()},
        boundary_betas=boundary_betas,
        boundary=closed_form.least_target_weights(boundary_betas),
        boundary_sharpened=closed_form.least_target_weights(boundary_betas, sharpening),
    )


def cell_edges(axis: np.ndarray) -> np.ndarray:
    """The bounds of cells whose middles are `axis`, on a logarithmic scale."""
    middles = np.log(axis)
    inner = (middles[1:] + middles[:-1]) / 2
    return np.exp(np.concatenate([[2 * middles[0] - inner[0]], inner, [2 * middles[-1] - inner[-1]]]))
