"""The registered study on Gaussians (`data/records/PLAN.md`): one setting moved at a time, with a hundred new seeds.

`python -m alignkd_lab.study.gaussians FOLDER` makes both its records in FOLDER, the arms and the map (`arms` or `map`
after FOLDER: that one alone); stages are kept there, so that a study that was cut off goes on. As with the boundary
map, records hold arrays: a line for each cell and seed would be 60 MB.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alignkd_lab.errors import UnknownName
from alignkd_lab.mog.cells import with_target_weight
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import ALGORITHMS, MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import Outcome, run_pipelines
from alignkd_lab.presets import default_pipelines
from alignkd_lab.provenance import provenance
from alignkd_lab.records import SCHEMA
from alignkd_lab.store import Store
from alignkd_lab.study import boundary as boundary
from alignkd_lab.study.boundary import DIGITS, Grid, read, run_of, shortened

FILE = Path("records") / "study" / "mog-study.json"
MAP_FILE = FILE.with_name("mog-map.json")
SEEDS = tuple(range(1000, 1100))
METRICS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")

# Every second value of the earlier map's axes; densities of these seeds are not kept.
MAP = Grid(
    betas=(0.12, 0.25, 0.5, 1.0, 2.0, 4.0), weights=(0.005, 0.01, 0.02, 0.04, 0.09, 0.2), seeds=SEEDS, shown_seeds=()
)
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


@dataclass(frozen=True)
class Cell:
    """What one setting under one algorithm left: `metrics[pipeline][metric]` is `[seed]`.

    pairs: informative pairs that a pipeline's alignment had, `[seed]`; under DPO alone, which learns from pairs.
    """

    arm: str
    value: float
    algorithm: str
    settings: MogSettings
    metrics: dict[str, dict[str, np.ndarray]]
    pairs: dict[str, list[int]]


@dataclass(frozen=True)
class Study:
    """The whole record."""

    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    provenance: dict

    def runs(self, arm: str, algorithm: str) -> dict[float, dict]:
        """By value of the arm's setting, the run as `runs.group_runs` gives one, for figures and verdicts."""
        return {cell.value: self._run(cell) for cell in self.cells if (cell.arm, cell.algorithm) == (arm, algorithm)}

    def distinct(self, arms: Sequence[str] | None = None) -> list[dict]:
        """Every run of some arms (or all) once, whatever the number of arms that it belongs to."""
        cells = {(cell.algorithm, cell.settings): cell for cell in self.cells if arms is None or cell.arm in arms}
        return [self._run(cell) for cell in cells.values()]

    def _run(self, cell: Cell) -> dict:
        return run_of(cell.algorithm, cell.settings, self.seeds, cell.metrics, self.provenance, cell.pairs)


def wanted(arms: Mapping[str, Arm] = ARMS) -> Iterator[tuple[str, float, str, MogSettings]]:
    """Every cell: arm, value, algorithm, settings. The main setting belongs to several arms, and runs once."""
    for name, arm in arms.items():
        for algorithm in arm.algorithms:
            for value, settings in arm.cells.items():
                yield name, value, algorithm, settings


def sweep(folder: Path, arms: Mapping[str, Arm] = ARMS, seeds: tuple[int, ...] = SEEDS) -> Path:
    """Runs every cell with all its pipelines, writes the record below `folder` and returns its path."""
    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    store, cells, run = Store(folder / "stages"), list(wanted(arms)), {}
    for count, (name, value, algorithm, settings) in enumerate(cells, 1):
        print(f"\rcell {count} of {len(cells)}: {name} {value:g}, {algorithm:<6}", end="", file=sys.stderr, flush=True)
        if (algorithm, settings) not in run:
            world = MogWorld(settings, algorithm, seeds)
            outcomes, stages = run_pipelines(world, default_pipelines("mog", algorithm), store)
            metrics = {
                pipeline: {
                    metric: shortened(np.array(outcome.evaluation["metrics"][metric]), DIGITS) for metric in METRICS
                }
                for pipeline, outcome in outcomes.items()
            }
            run[algorithm, settings] = {"metrics": metrics, "pairs": _pairs(outcomes, stages)}
    print(file=sys.stderr)
    held = {
        "schema": SCHEMA,
        "world": "mog",
        "seeds": list(seeds),
        "cells": [
            {"arm": name, "value": value, "algorithm": algorithm, "settings": dataclasses.asdict(settings),
             **run[algorithm, settings]}
            for name, value, algorithm, settings in cells
        ],
        "provenance": provenance("cpu"),
    }  # fmt: skip
    path = folder / FILE.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, separators=(",", ":")) + "\n", encoding="utf-8")
    return path


def _pairs(outcomes: Mapping[str, Outcome], stages: Mapping[str, dict]) -> dict[str, list[int]]:
    """Informative pairs of each pipeline that had any, `{pipeline: [seed]}`."""
    return {
        name: counts
        for name, outcome in outcomes.items()
        for counts in [stages[key]["info"].get("per_seed", {}).get("informative_pairs") for key in outcome.stages]
        if counts is not None
    }


def sweep_map(folder: Path) -> Path:
    """Both orders at every target weight, KL weight and sharpening, with the study's seeds; as `boundary.sweep`."""
    return boundary.sweep(folder, MAP, _MAIN, METRICS, MAP_FILE.name)


def load_map(path: Path | None = None) -> boundary.Boundary:
    """The shipped map (or another one of the same kind), read once. Raises BadInput as `load` does."""
    return boundary.load(path or data_folder() / MAP_FILE, "alignkd_lab.study.gaussians")


_PARTS = {"arms": sweep, "map": sweep_map}


def main(arguments: Sequence[str]) -> None:
    """The command at the head of this file. Raises UnknownName for a part that there is not."""
    folder, *parts = arguments or ["out/study"]
    for part in parts:
        if part not in _PARTS:
            raise UnknownName("part", part, _PARTS)
    for part in parts or _PARTS:
        print(_PARTS[part](Path(folder)))


@functools.cache
def load(path: Path | None = None) -> Study:
    """The shipped record (or another one of the same kind), read once.

    Raises:
        BadInput: no such file, or one of another version.
    """
    held = read(path or data_folder() / FILE, "alignkd_lab.study.gaussians")
    cells = []
    for entry in held["cells"]:
        metrics = {
            pipeline: {metric: np.array(values) for metric, values in found.items()}
            for pipeline, found in entry["metrics"].items()
        }
        settings = MogSettings(**entry["settings"])
        cells.append(Cell(entry["arm"], entry["value"], entry["algorithm"], settings, metrics, entry["pairs"]))
    return Study(tuple(held["seeds"]), tuple(cells), held["provenance"])


if __name__ == "__main__":
    main(sys.argv[1:])
