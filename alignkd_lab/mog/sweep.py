"""Both orders over the target's share and the KL weight: who leads where, and what the closed form predicts of it.

The rule was written before the study's map was looked at; an earlier map of the same world was known. A-K is predicted
to lead where its policy can find the target and that of K-A cannot: the target's share m₀ is at or above the recall
threshold of the base, which A-K aligns, and below that of the base's sharpened copy, which K-A aligns. Elsewhere no
lead is predicted. As measured, an order leads where the paired 95 % interval of the difference in reward over the seeds
leaves out zero. With a sharpening of at most 1 the copy's threshold is no higher than the base's, and no lead is
predicted anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.records import Records
from alignkd_lab.stats import excludes_zero


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep under one algorithm and sharpening, by KL weight and target's share.

    betas, weights: the axes, rising; runs: `[beta][weight]`, ids in the records; settings: of one of them.
    """

    records: Records
    algorithm: str
    sharpening: float
    betas: np.ndarray
    weights: np.ndarray
    runs: list[list[str]]
    settings: MogSettings

    @classmethod
    def of(cls, records: Records, algorithm: str, sharpening: float) -> Grid:
        """Of a sweep's records. Raises BadInput where they lack the algorithm or the sharpening."""
        held = records.select(algorithm=algorithm, sharpening=sharpening)
        places = {}
        for run in held.runs["run"]:
            settings = MogSettings(**held.settings_of(run))
            places[settings.beta, settings.target_weight] = run
        betas, weights = (sorted({place[axis] for place in places}) for axis in (0, 1))
        runs = [[places[beta, weight] for weight in weights] for beta in betas]
        return cls(held, algorithm, sharpening, np.array(betas), np.array(weights), runs, settings)

    def values(self, pipeline: str, metric: str = "reward") -> np.ndarray:
        """A pipeline's metric, `[beta, weight, seed]`."""
        rows = self.records.metrics
        rows = rows[(rows["pipeline"] == pipeline) & (rows["metric"] == metric)]
        table = rows.pivot(index="run", columns="seed", values="value")
        return np.stack([table.loc[row].to_numpy() for row in self.runs])


def algorithms_and_sharpenings(records: Records) -> tuple[list[str], list[float]]:
    """What a sweep's records hold, in the order in which it is shown."""
    held = [records.settings_of(run)["sharpening"] for run in records.runs["run"]]
    return sorted(records.runs["algorithm"].unique(), reverse=True), sorted(set(held))


@dataclass(frozen=True)
class Lead(Grid):
    """The map of one algorithm and one sharpening.

    seeds: how many stand behind every cell.
    difference: `[beta, weight]`, mean reward of A-K minus that of K-A.
    decided: `[beta, weight]`, whether the paired 95 % interval over seeds leaves out zero.
    found: `{order: [beta, weight]}`, share of the seeds whose reward is at least half of the bump's height.
    boundary_betas, boundary, boundary_sharpened: the recall threshold, the least share at each KL weight; as it is for
        the base, and for a teacher that is sharpened first.
    """

    seeds: int
    difference: np.ndarray
    decided: np.ndarray
    found: dict[str, np.ndarray]
    boundary_betas: np.ndarray
    boundary: np.ndarray
    boundary_sharpened: np.ndarray


def lead(grid: Grid) -> Lead:
    """Which order leads, cell by cell, with the phase boundary that the closed form draws through the map."""
    rewards = {order: grid.values(order) for order in ORDERS}
    gap, closed_form = rewards[A_K] - rewards[K_A], ClosedForm(grid.settings)
    betas = np.geomspace(*cell_edges(grid.betas)[[0, -1]], 60)
    return Lead(
        **vars(grid),
        seeds=gap.shape[-1],
        difference=gap.mean(-1),
        decided=excludes_zero(gap),
        found={order: (values >= grid.settings.reward_height / 2).mean(-1) for order, values in rewards.items()},
        boundary_betas=betas,
        boundary=closed_form.least_target_weights(betas),
        boundary_sharpened=closed_form.least_target_weights(betas, grid.sharpening),
    )


def cell_edges(axis: np.ndarray) -> np.ndarray:
    """The bounds of cells whose middles are `axis`, on a logarithmic scale."""
    middles = np.log(axis)
    inner = (middles[1:] + middles[:-1]) / 2
    return np.exp(np.concatenate([[2 * middles[0] - inner[0]], inner, [2 * middles[-1] - inner[-1]]]))


class Score(NamedTuple):
    """How many cells of one algorithm and sharpening the closed form predicts rightly, and every kind of error.

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


def can_find(grid: Grid) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether m0 reaches the threshold of the policy that the order aligns."""
    closed_form, powers = ClosedForm(grid.settings), {A_K: 1.0, K_A: grid.sharpening}
    return {
        order: grid.weights >= closed_form.least_target_weights(grid.betas, power)[:, None]
        for order, power in powers.items()
    }


def shows_target(grid: Grid) -> dict[str, np.ndarray]:
    """`{order: [beta, weight]}`: whether its target rate, averaged over the seeds, is above one half."""
    return {order: grid.values(order, "target_rate").mean(-1) > 0.5 for order in ORDERS}


def score(grid: Grid) -> Score:
    """The closed form against the map; the records must have the metrics reward and target_rate."""
    able, shown = can_find(grid), shows_target(grid)
    predicted = able[A_K] & ~able[K_A]
    gap = grid.values(A_K) - grid.values(K_A)
    leader = np.where(excludes_zero(gap), np.sign(gap.mean(-1)), 0)
    count = {
        (said, measured): int(((predicted == said) & (leader == measured)).sum())
        for said in (True, False)
        for measured in (1, 0, -1)
    }
    return Score(
        algorithm=grid.algorithm,
        sharpening=grid.sharpening,
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
