"""How often the closed-form boundary predicts the map of the study: the rule, and its hits and misses.

The rule was written before this map was looked at; an earlier map of the same world was known. A-K is predicted to lead
where its policy can find the target and that of K-A cannot: the target's share m₀ is at or above the recall threshold
of the base, which A-K aligns, and below that of the base's sharpened copy, which K-A aligns. Elsewhere no lead is
predicted. As measured, an order leads where the paired 95 % interval of the difference in reward over the seeds leaves
out zero. With a sharpening of at most 1 the copy's threshold is no higher than the base's, and the rule predicts no
lead anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.stats import decided
from alignkd_lab.study.boundary import Boundary


class Predicted(NamedTuple):
    """How many cells of one algorithm and sharpening the boundary predicts rightly, and every kind of error.

    named: a lead is predicted at all. right: predicted as measured, be it a lead or none. missed: A-K leads, not
    predicted; reversed: K-A leads, which is never predicted, where no lead was; false_lead: A-K predicted and no order
    leads; wrong_lead: A-K predicted and K-A leads.
    a_k_target, k_a_target: cells where that order shows the target in more than half of its draws, on average over the
    seeds, just as the threshold says.
    """

    algorithm: str
    sharpening: float
    cells: int
    named: int
    right: int
    missed: int
    reversed: int
    false_lead: int
    wrong_lead: int
    a_k_target: int
    k_a_target: int

    @property
    def share(self) -> float:
        """Of the cells, those predicted rightly."""
        return self.right / self.cells


def predicted_rightly(held: Boundary) -> list[Predicted]:
    """One row for each algorithm and sharpening of a map; `held` must have the metrics reward and target_rate."""
    grid = held.grid
    return [
        _row(held, (a, s), algorithm, sharpening)
        for a, algorithm in enumerate(grid.algorithms)
        for s, sharpening in enumerate(grid.sharpenings)
    ]


def can_find(held: Boundary, sharpening: float) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether m0 reaches the threshold of the policy that the order aligns."""
    closed_form, weights = ClosedForm(held.settings), np.array(held.grid.weights)
    powers = {A_K: 1.0, K_A: sharpening}
    return {
        order: weights >= closed_form.least_target_weights(held.grid.betas, power)[:, None]
        for order, power in powers.items()
    }


def shows_target(held: Boundary, place: tuple[int, int]) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether its target rate, averaged over the seeds, is above one half."""
    return {order: held.metrics[order]["target_rate"][place].mean(-1) > 0.5 for order in ORDERS}


def _row(held: Boundary, place: tuple[int, int], algorithm: str, sharpening: float) -> Predicted:
    able, shown = can_find(held, sharpening), shows_target(held, place)
    predicted = able[A_K] & ~able[K_A]
    gap = held.metrics[A_K]["reward"][place] - held.metrics[K_A]["reward"][place]
    leader = np.where(decided(gap), np.sign(gap.mean(-1)), 0)
    count = {
        (said, measured): int(((predicted == said) & (leader == measured)).sum())
        for said in (True, False)
        for measured in (1, 0, -1)
    }
    return Predicted(
        algorithm=algorithm,
        sharpening=sharpening,
        cells=predicted.size,
        named=int(predicted.sum()),
        right=count[True, 1] + count[False, 0],
        missed=count[False, 1],
        reversed=count[False, -1],
        false_lead=count[True, 0],
        wrong_lead=count[True, -1],
        a_k_target=int((able[A_K] == shown[A_K]).sum()),
        k_a_target=int((able[K_A] == shown[K_A]).sum()),
    )
