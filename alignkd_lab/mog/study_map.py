"""How often the closed-form border foretells the map of the study: the rule, and its hits and misses.

The rule was written before this map was looked at; an earlier map of the same world was known. A-K is foretold to lead
where its policy can find the target and that of K-A cannot: the target's share m₀ is at or above the recall threshold
of the base, which A-K aligns, and below that of the base's sharpened copy, which K-A aligns. Elsewhere no lead is
foretold. As measured, an order leads where the paired 95 % interval of the difference in reward over the seeds leaves
out zero. With a sharpening of at most 1 the copy's threshold is no higher than the base's, and the rule foretells no
lead anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignkd_lab.metrics import A_K, K_A, decided
from alignkd_lab.mog.border import Border
from alignkd_lab.mog.foretold import Foretelling
from alignkd_lab.pipelines import ORDERS


class Foretold(NamedTuple):
    """How many cells of one algorithm and sharpening the border foretells rightly, and every kind of error.

    named: a lead is foretold at all. right: foretold as measured, be it a lead or none. missed: A-K leads, not
    foretold; reversed: K-A leads, which is never foretold, where no lead was; false_lead: A-K foretold and no order
    leads; wrong_lead: A-K foretold and K-A leads.
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
        """Of the cells, those foretold rightly."""
        return self.right / self.cells


def foretold_rightly(held: Border) -> list[Foretold]:
    """One row for each algorithm and sharpening of a map; `held` must have the metrics reward and target_rate."""
    grid = held.grid
    return [
        _row(held, (a, s), algorithm, sharpening)
        for a, algorithm in enumerate(grid.algorithms)
        for s, sharpening in enumerate(grid.sharpenings)
    ]


def can_find(held: Border, sharpening: float) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether m0 reaches the threshold of the policy that the order aligns."""
    foretelling, weights = Foretelling(held.settings), np.array(held.grid.weights)
    powers = {A_K: 1.0, K_A: sharpening}
    return {
        order: weights >= foretelling.least_target_weights(held.grid.betas, power)[:, None]
        for order, power in powers.items()
    }


def shows_target(held: Border, place: tuple[int, int]) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether its target rate, averaged over the seeds, is above one half."""
    return {order: held.metrics[order]["target_rate"][place].mean(-1) > 0.5 for order in ORDERS}


def _row(held: Border, place: tuple[int, int], algorithm: str, sharpening: float) -> Foretold:
    able, shown = can_find(held, sharpening), shows_target(held, place)
    predicted = able[A_K] & ~able[K_A]
    gap = held.metrics[A_K]["reward"][place] - held.metrics[K_A]["reward"][place]
    leader = np.where(decided(gap), np.sign(gap.mean(-1)), 0)
    count = {
        (foretold, measured): int(((predicted == foretold) & (leader == measured)).sum())
        for foretold in (True, False)
        for measured in (1, 0, -1)
    }
    return Foretold(
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
