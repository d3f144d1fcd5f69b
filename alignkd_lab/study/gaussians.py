"""The registered study on Gaussians (`data/records/PLAN.md`): one setting moved at a time, with a hundred new seeds.

`python -m alignkd_lab.study.gaussians FOLDER [arms] [map] [boundary] [split]` makes its records in FOLDER, each a
packed file; stages are kept there, so that a study that was cut off goes on.

    arms      one setting moved at a time, all pipelines: `gaussians-study.zip`
    map       both orders by target's share, KL weight and sharpening: `gaussians-map.zip`
    boundary  an earlier, finer map with twenty seeds, and the densities of three: `gaussians-boundary.zip`
    split     of the plan's second part: what the lead is made of, and what K-A is short of: `gaussians-split.zip`
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from alignkd_lab.errors import UnknownName
from alignkd_lab.experiment import run_gaussians
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.pipelines import ALGORITHMS, ORDERS, YARDSTICKS
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import COLUMNS, Records, concat, pack, tabulate
from alignkd_lab.store import Store

SEEDS = tuple(range(1000, 1100))
METRICS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")
DIGITS = 4  # that are kept of a metric
MAIN_VALUE = "as registered"

_MAIN = MogSettings()
_CENTRE = (0.0, 0.0)  # where a fifth mode lies, 2.1 from each of the others


@dataclass(frozen=True)
class Arm:
    """One setting moved and the rest left alone.

    label: the setting in words, with its symbol.
    cells: by value of the setting, all settings.
    algorithms: those that read the setting.
    """

    label: str
    cells: Mapping[float, MogSettings]
    algorithms: tuple[str, ...] = ALGORITHMS


def _moved(name: str, values: tuple) -> dict[float, MogSettings]:
    return {value: dataclasses.replace(_MAIN, **{name: value}) for value in values}


def _common_modes(count: int) -> MogSettings:
    """The target beside so many common modes; the base has a component for every mode."""
    if count == len(_MAIN.truth_weights) - 1:
        return _MAIN
    (target,) = _MAIN.targets
    common = [(1 - _MAIN.truth_weights[target]) / count] * count
    means = [mean for mode, mean in enumerate((*_MAIN.truth_means, _CENTRE)) if mode != target][:count]
    return dataclasses.replace(
        _MAIN,
        truth_weights=(*common, _MAIN.truth_weights[target]),
        truth_means=(*means, _MAIN.truth_means[target]),
        targets=(count,),
        base_components=count + 1,
    )


def _second_target() -> MogSettings:
    """A second target in the middle: the two share the one's weight, and the common modes stay."""
    *common, rare = _MAIN.truth_weights
    return dataclasses.replace(
        _MAIN,
        truth_weights=(*common, rare / 2, rare / 2),
        truth_means=(*_MAIN.truth_means, _CENTRE),
        targets=(3, 4),
        base_components=5,
    )


ARMS = {
    "target_weight": Arm(
        "target's share m₀", {m: with_target_weight(_MAIN, m) for m in (0.005, 0.01, 0.02, 0.04, 0.09, 0.2)}
    ),
    "beta": Arm("KL weight β", _moved("beta", (0.12, 0.25, 0.5, 1.0, 2.0))),
    "sharpening": Arm("sharpening s", _moved("sharpening", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0))),
    "student_components": Arm("components of the student", _moved("student_components", (1, 2, 3, 4, 6))),
    "dpo_label_noise": Arm("labels flipped", _moved("dpo_label_noise", (0.0, 0.1, 0.2, 0.3, 0.4)), ("dpo",)),
    "targets": Arm(
        "target modes that share m₀",
        {1: _MAIN, 2: dataclasses.replace(_MAIN, truth_weights=(0.48, 0.48, 0.02, 0.02), targets=(2, 3))},
    ),
    # A cut at the bump's height cuts nothing.
    "reward_clip": Arm(
        "cut of the reward (exploratory)", {**_moved("reward_clip", (1.0, 2.0, 3.0)), _MAIN.reward_height: _MAIN}
    ),
    # `targets` moves two numbers of modes: the second target takes the place of a common mode. Each of these moves one,
    # and with it how many components the student, which keeps three, is short of.
    "second_target": Arm("targets beside the three common modes (exploratory)", {1: _MAIN, 2: _second_target()}),
    "common_modes": Arm(
        "common modes beside the target (exploratory)", {count: _common_modes(count) for count in (2, 3, 4)}
    ),
}


# The plan named no sign for what was added to it later.
EXPLORATORY = ("reward_clip", "second_target", "common_modes")
REGISTERED = tuple(name for name in ARMS if name not in EXPLORATORY)


class Part(NamedTuple):
    """A packed file of the study: its cells as (arm, value, algorithm, settings), seeds, and what is kept of them."""

    file: str
    cells: Sequence[tuple[str, str, str, MogSettings]]
    seeds: Sequence[int]
    metrics: Sequence[str]
    pipelines: Sequence[str] | None = None  # all that mean something, unless given
    shown_seeds: Sequence[int] = ()  # whose densities are kept
    counts: Sequence[str] = ("informative_pairs",)  # that are kept of a stage


def arm_cells(arms: Mapping[str, Arm] = ARMS) -> Iterator[tuple[str, str, str, MogSettings]]:
    """Every cell of the arms once; the main setting belongs to all of them and stands under its own name."""
    seen = set()
    for name, arm in arms.items():
        for algorithm, (value, settings) in itertools.product(arm.algorithms, arm.cells.items()):
            if (algorithm, settings) not in seen:
                seen.add((algorithm, settings))
                main = settings == _MAIN
                yield ("main" if main else name), (MAIN_VALUE if main else f"{value:g}"), algorithm, settings


def map_cells(
    name: str, betas: Sequence[float], weights: Sequence[float]
) -> Iterator[tuple[str, str, str, MogSettings]]:
    """Both algorithms and three sharpenings at every KL weight and target's share."""
    for algorithm, sharpening, beta, weight in itertools.product(ALGORITHMS, (0.5, 1.0, 2.0), betas, weights):
        moved = dataclasses.replace(_MAIN, sharpening=sharpening, beta=beta)
        yield name, "", algorithm, with_target_weight(moved, weight)


def split_cells() -> Iterator[tuple[str, str, str, MogSettings]]:
    """RLHF where both models are past the recall threshold, the base alone, and neither; with the budget of a run, ten
    times the draws and ten times the steps; for a student one component short and for one with room for every mode."""
    budgets = {"as registered": {}, "draws × 10": {"rlhf_batch": 2560}, "steps × 10": {"rlhf_steps": 2000}}
    for beta, components, (value, more) in itertools.product((0.5, 0.8, 2.0), (3, 4), budgets.items()):
        yield "split", value, "rlhf", dataclasses.replace(_MAIN, beta=beta, student_components=components, **more)


PARTS = {
    "arms": Part("gaussians-study.zip", tuple(arm_cells()), SEEDS, METRICS),
    "map": Part(
        "gaussians-map.zip",
        tuple(map_cells("map", (0.12, 0.25, 0.5, 1.0, 2.0, 4.0), (0.005, 0.01, 0.02, 0.04, 0.09, 0.2))),
        SEEDS,
        METRICS,
        ORDERS,
    ),
    "boundary": Part(
        "gaussians-boundary.zip",
        tuple(
            map_cells(
                "boundary",
                (0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0),
                (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.09, 0.14, 0.2),
            )
        ),
        tuple(range(20)),
        ("reward", "target_rate", "overall_recall"),
        (*YARDSTICKS, *ORDERS),
        (0, 1, 2),
    ),
    "split": Part(
        "gaussians-split.zip",
        tuple(split_cells()),
        tuple(range(2000, 2100)),
        ("reward", "target_rate"),
        (*YARDSTICKS, *ORDERS),
        counts=("optimum", "gap"),
    ),
}


def run_part(name: str, folder: Path) -> Path:
    """Runs every cell of a part, packs it below `folder` and returns the file.

    Raises:
        UnknownName: no such part.
    """
    if name not in PARTS:
        raise UnknownName("part", name, PARTS)
    part = PARTS[name]
    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    store, held = Store(folder / "stages"), []
    study = Path(part.file).stem
    for count, (arm, value, algorithm, settings) in enumerate(part.cells, 1):
        print(f"\rcell {count} of {len(part.cells)}", end="", file=sys.stderr, flush=True)
        names = part.pipelines or default_pipelines("mog", algorithm)
        made = run_gaussians(settings, algorithm, part.seeds, names, store)
        for record in made:
            for entry in record["pipelines"].values():
                entry["arm"] = arm, value
        held.append(_shortened(tabulate(made, study), part))
    print(file=sys.stderr)
    return pack(concat(held), folder / part.file)


def _shortened(made: Records, part: Part) -> Records:
    """What is kept of a cell: the metrics with four digits, counts of stages, and the densities of the shown seeds."""
    rows = made.metrics[made.metrics["metric"].isin(part.metrics)]
    rows = rows.assign(value=[float(f"{value:.{DIGITS}g}") for value in rows["value"]])
    mixtures = made.mixtures[made.mixtures["seed"].isin(list(part.shown_seeds))]
    stages = made.stages.reindex(columns=[*COLUMNS["stages"].split(), *part.counts])
    stages = stages.dropna(subset=list(part.counts))
    return dataclasses.replace(made, metrics=rows, mixtures=mixtures, stages=stages, curves=made.curves.iloc[:0])


def main(arguments: Sequence[str]) -> None:
    """The command at the head of this file."""
    folder, *names = arguments or ["out/study"]
    if unknown := [name for name in (folder, *names) if (name in PARTS) == (name == folder)]:
        sys.exit(f"study: {unknown[0]!r}; give a folder, then some of {', '.join(PARTS)}")
    for name in names or PARTS:
        print(run_part(name, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
