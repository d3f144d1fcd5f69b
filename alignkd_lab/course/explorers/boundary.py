"""Explorer: "it always holds". A map of which order earns more, with the boundary that the closed form draws.

Every cell is a recorded run of twenty seeds. Two sliders choose the one whose densities stand beside the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.widgets.state import begun
from alignkd_lab.errors import BadInput
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots.style import interval, number
from alignkd_lab.stats import Interval, paired_difference, t_interval
from alignkd_lab.study.boundary import Boundary, load
from alignkd_lab.study.lead import Lead, lead

if TYPE_CHECKING:
    from alignkd_lab.course.widgets.choice import ChoiceControl, ChoiceExplorer
    from alignkd_lab.course.widgets.view import NumberControl

# The cell of the title picture.
START = {"target_weight": 0.04, "beta": 0.5, "algorithm": "rlhf", "sharpening": "2", "seed": 0.0}
ALGORITHMS = {"rlhf": "RLHF: rewarded for its own draws", "dpo": "DPO: learns from pairs"}
SHARPENINGS = {
    "0.5": "s = 0.5: a teacher at high temperature",
    "1": "s = 1: the teacher as it is",
    "2": "s = 2: sharpened",
}
# The policies beside the map: before the second stage, and after it.
SHOWN = ("kd_only", K_A, "base_aligned", A_K)
# Three settings for a page without a kernel: the title's, the boundary's, and one where K-A is ahead.
STILLS = ({"sharpening": "2"}, {"sharpening": "1"}, {"sharpening": "0.5"})


@dataclass(frozen=True)
class Chosen:
    """The cell that the sliders choose.

    rewards: `{order: [seed]}`; intervals: of their means; difference: A-K minus K-A, paired over seeds.
    recalls: `{order: mean overall recall}`, nats.
    fields: `{policy: [y, x]}`, the densities of the shown seed on `plane.window`.
    """

    target_weight: float
    beta: float
    rewards: dict[str, np.ndarray]
    intervals: dict[str, Interval]
    difference: Interval
    recalls: dict[str, float]
    fields: dict[str, np.ndarray]


@dataclass(frozen=True)
class Map(Lead):
    """What the picture shows: the map, and `chosen`, the cell that the sliders choose.

    seed: whose densities are shown; settings: all else.
    """

    seed: int
    settings: MogSettings
    chosen: Chosen


def compute(state: Mapping[str, Any], held: Boundary | None = None) -> Map:
    """The map of an algorithm and a sharpening, and the cell nearest to `target_weight` and `beta`.

    Args:
        state: `target_weight` (m0, a share of the truth), `beta` (KL weight), `algorithm`, `sharpening`
            (as a word: "0.5", "1" or "2"), `seed` (whose densities are shown).
        held: the sweep's record; the shipped one where None.

    Raises:
        BadInput: an algorithm, sharpening or seed that the sweep does not have.
    """
    held = held or load()
    grid, sharpening, seed = held.grid, float(state["sharpening"]), round(state["seed"])
    asked = (("algorithms", state["algorithm"]), ("sharpenings", sharpening), ("shown_seeds", seed))
    for name, value in asked:
        if value not in getattr(grid, name):
            raise BadInput(f"the sweep has no {value!r}: its {name} are {', '.join(map(str, getattr(grid, name)))}")
    place = (grid.algorithms.index(state["algorithm"]), grid.sharpenings.index(sharpening))
    axes = ((grid.weights, "target_weight"), (grid.betas, "beta"))
    column, row = (_nearest(np.array(axis), state[name]) for axis, name in axes)
    return Map(
        **vars(lead(held, state["algorithm"], sharpening)),
        seed=seed,
        settings=held.settings,
        chosen=_cell(held, place, row, column, seed),
    )


def controls(**state: Any) -> dict[str, NumberControl | ChoiceControl]:
    """A control for each part of the state, at `START` where `state` does not say otherwise.

    Raises:
        UnknownName: a part that the state does not have, or a choice that there is not.
    """
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

    start = begun(START, state)
    grid = load().grid
    return {
        "target_weight": NumberControl(
            "target's share of the truth, m₀", start["target_weight"], grid.weights[0], grid.weights[-1], 0.05, True
        ),
        "beta": NumberControl("KL weight, β", start["beta"], grid.betas[0], grid.betas[-1], 0.05, True),
        "algorithm": ChoiceControl("alignment by", start["algorithm"], ALGORITHMS),
        "sharpening": ChoiceControl("teacher", start["sharpening"], SHARPENINGS),
        "seed": NumberControl("seed of the densities", start["seed"], 0.0, float(len(grid.shown_seeds) - 1), 1.0),
    }


def caption(data: Map) -> str:
    """What the picture shows at this state, in words."""
    cell = data.chosen
    here = f"{data.algorithm.upper()}, s = {data.sharpening:g}, β = {cell.beta:g}, m₀ = {percent(cell.target_weight)}"
    earned = ", ".join(f"{label} {interval(*cell.intervals[order])}" for order, label in ((A_K, "A-K"), (K_A, "K-A")))
    ahead = _ahead(cell.difference)
    paid = f"overall recall {number(cell.recalls[A_K])} nats for A-K, {number(cell.recalls[K_A])} for K-A"
    return (
        f"Chosen: {here}. Mean reward over {data.seeds} seeds: {earned}; {ahead}; {paid}. On the map, {_counted(data)}"
    )


def show(*shown: str, **state: Any) -> ChoiceExplorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`."""
    from alignkd_lab.course.explorers.boundary_view import SOURCE, draw, stills
    from alignkd_lab.course.widgets.choice import ChoiceExplorer

    made = controls(**state)

    def still(state: Mapping[str, Any]):
        maps = [compute({**state, **changes}) for changes in STILLS]
        text = " ".join(f"Sharpening {data.sharpening:g}: {_counted(data)}" for data in maps)
        return stills(maps, f"{text} {SOURCE}"), text

    return ChoiceExplorer(made, shown or made, compute, draw, caption, SOURCE, "boundary.show", still)


def _nearest(axis: np.ndarray, value: float) -> int:
    return int(np.abs(np.log(axis) - np.log(value)).argmin())


def _cell(held: Boundary, place: tuple[int, int], row: int, column: int, seed: int) -> Chosen:
    here, shown = (*place, row, column), held.grid.shown_seeds.index(seed)
    rewards = {order: held.metrics[order]["reward"][here] for order in ORDERS}
    tables = {name: held.views[name][(*here, shown)] for name in SHOWN}
    return Chosen(
        target_weight=held.grid.weights[column],
        beta=held.grid.betas[row],
        rewards=rewards,
        intervals={order: t_interval(values) for order, values in rewards.items()},
        difference=paired_difference(rewards[A_K], rewards[K_A]),
        recalls={order: float(held.metrics[order]["overall_recall"][here].mean()) for order in ORDERS},
        fields={name: plane.field(_view(table), held.settings) for name, table in tables.items()},
    )


def _view(table: np.ndarray) -> dict[str, np.ndarray]:
    return {"weights": table[:, 0].copy(), "means": table[:, 1:3].copy(), "sds": table[:, 3:].copy()}


def _ahead(difference: Interval) -> str:
    said = interval(*difference)
    if difference.low > 0:
        return f"A-K is ahead by {said}"
    if difference.high < 0:
        return f"K-A is ahead, A-K minus K-A being {said}"
    return f"no order is surely ahead, A-K minus K-A being {said}"


def _counted(data: Map) -> str:
    """In how many cells of the map which order finds the target."""
    a_k, k_a = data.found[A_K], data.found[K_A]
    counts = {"A-K alone": a_k & ~k_a, "K-A alone": k_a & ~a_k, "both": a_k & k_a, "neither": ~a_k & ~k_a}
    said = ", ".join(f"{name} in {int(cells.sum())}" for name, cells in counts.items())
    return f"of {a_k.size} cells the target is found by {said}."
