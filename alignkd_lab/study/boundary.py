"""The sweep behind the boundary map: both orders at every target weight and KL weight, and its record.

`python -m alignkd_lab.study.boundary FOLDER` makes the record again in FOLDER, a quarter of an hour of two
cores; stages are kept there, so that a sweep that was cut off goes on. One record of `alignkd run` for
each of its thousands of cells and seeds would be 50 MB, so this one holds arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alignkd_lab.errors import BadInput
from alignkd_lab.mog.cells import with_target_weight
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import ALGORITHMS, MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import ORDERS, PIPELINES, YARDSTICKS, run_pipelines
from alignkd_lab.provenance import provenance
from alignkd_lab.records import SCHEMA
from alignkd_lab.store import Store

FILE = Path("records") / "boundary" / "mog-boundary-rare_mode.json"
METRICS = ("reward", "target_rate", "overall_recall")
DIGITS = 4  # that a record of arrays keeps of a metric


@dataclass(frozen=True)
class Grid:
    """The cells of the sweep, and its seeds; densities are kept for `shown_seeds` alone."""

    algorithms: tuple[str, ...] = ALGORITHMS
    sharpenings: tuple[float, ...] = (0.5, 1.0, 2.0)
    betas: tuple[float, ...] = (0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
    weights: tuple[float, ...] = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.09, 0.14, 0.2)
    seeds: tuple[int, ...] = tuple(range(20))
    shown_seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self):
        """Every (algorithm, sharpening, beta, weight), numbered as in the arrays."""
        axes = (self.algorithms, self.sharpenings, self.betas, self.weights)
        return itertools.product(*(enumerate(axis) for axis in axes))


@dataclass(frozen=True)
class Boundary:
    """What the sweep left.

    metrics: `{order: {metric: [algorithm, sharpening, beta, weight, seed]}}`.
    views: `{pipeline: [algorithm, sharpening, beta, weight, shown seed, component, 5]}`, the five being weight,
        mean (2) and standard deviation (2).
    settings: all but what the grid varies.
    """

    grid: Grid
    settings: MogSettings
    metrics: dict[str, dict[str, np.ndarray]]
    views: dict[str, np.ndarray]
    provenance: dict


@functools.cache
def load(path: Path | None = None, module: str = "alignkd_lab.study.boundary") -> Boundary:
    """The shipped record (or another one of the same kind, made by `module`), read once.

    Raises:
        BadInput: no such file, or one of another version.
    """
    held = read(path or data_folder() / FILE, module)
    grid = Grid(**{name: tuple(values) for name, values in held["grid"].items()})
    metrics = {
        order: {metric: np.array(values) for metric, values in entry.items()}
        for order, entry in held["metrics"].items()
    }
    views = {name: _spread(grid, name, np.array(values)) for name, values in held["views"].items()}
    return Boundary(grid, MogSettings(**held["settings"]), metrics, views, held["provenance"])


def read(path: Path, module: str) -> dict:
    """A record of arrays as JSON gives it; `module` makes such records.

    Raises:
        BadInput: no such file, or one of another version.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist: make it with `python -m {module} FOLDER`")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}): make it again with `python -m {module} FOLDER`") from error
    if held.get("schema") != SCHEMA:
        raise BadInput(f"{path}: schema must be {SCHEMA}, not {held.get('schema')!r}: make it again")
    return held


def runs(boundary: Boundary) -> Iterator[dict]:
    """Every cell of the sweep as a run, in the shape of `runs.group_runs`."""
    for (a, algorithm), (s, sharpening), (b, beta), (w, weight) in boundary.grid.cells():
        settings = _settings(boundary.settings, sharpening, beta, weight)
        metrics = {
            order: {name: values[a, s, b, w] for name, values in held.items()}
            for order, held in boundary.metrics.items()
        }
        yield run_of(algorithm, settings, boundary.grid.seeds, metrics, boundary.provenance)


def run_of(
    algorithm: str,
    settings: MogSettings,
    seeds: Sequence[int],
    metrics: Mapping[str, Mapping[str, np.ndarray]],
    provenance: Mapping,
    pairs: Mapping[str, Sequence[int]] | None = None,
) -> dict:
    """One cell of a record of arrays as a run of one record a seed.

    `metrics[pipeline][metric]` is `[seed]`, and so is `pairs[pipeline]`: the informative pairs of those that had any.
    """
    pairs = pairs or {}
    shared = {
        "world": "mog",
        "preset": "laptop",
        "algorithm": algorithm,
        "target": settings.target_name,
        "settings": {
            name: json.loads(json.dumps(value)) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(settings).items()
        },
    }
    records = [
        {
            **shared,
            "schema": SCHEMA,
            "seed": seed,
            "pipelines": {
                name: {
                    "metrics": {metric: float(values[place]) for metric, values in held.items()},
                    "stages": [name] if name in pairs else [],
                }
                for name, held in metrics.items()
            },
            "stages": {
                name: {"kind": "align", "info": {"informative_pairs": counts[place]}} for name, counts in pairs.items()
            },
            "provenance": provenance,
        }
        for place, seed in enumerate(seeds)
    ]
    return {**shared, "device": provenance["device"], "records": records}


def sweep(
    folder: Path,
    grid: Grid | None = None,
    settings: MogSettings | None = None,
    metrics: tuple[str, ...] = METRICS,
    file: str = FILE.name,
) -> Path:
    """Runs every cell, writes the record below `folder` and returns its path; picks up where it was cut off."""
    grid, settings = grid or Grid(), settings or MogSettings()
    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    store, shape = (
        Store(folder / "stages"),
        tuple(map(len, (grid.algorithms, grid.sharpenings, grid.betas, grid.weights))),
    )
    found = {order: {name: np.zeros((*shape, len(grid.seeds))) for name in metrics} for order in ORDERS}
    views: dict[str, np.ndarray] = {}
    shown = [grid.seeds.index(seed) for seed in grid.shown_seeds]
    pipelines = (*YARDSTICKS, *ORDERS) if shown else ORDERS
    cells = list(grid.cells())
    for count, ((a, algorithm), (s, sharpening), (b, beta), (w, weight)) in enumerate(cells, 1):
        print(f"\rcell {count} of {len(cells)}", end="", file=sys.stderr, flush=True)
        world = MogWorld(_settings(settings, sharpening, beta, weight), algorithm, grid.seeds)
        outcomes, _ = run_pipelines(world, pipelines, store)
        for name, outcome in outcomes.items():
            if shown:
                held = _table([outcome.evaluation["view"][place] for place in shown])
                views.setdefault(name, np.zeros((*shape, *held.shape)))[a, s, b, w] = held
            for metric in metrics if name in ORDERS else ():
                found[name][metric][a, s, b, w] = outcome.evaluation["metrics"][metric]
    print(file=sys.stderr)
    return _write(folder / file, grid, settings, found, views)


def _settings(settings: MogSettings, sharpening: float, beta: float, weight: float) -> MogSettings:
    return with_target_weight(dataclasses.replace(settings, sharpening=sharpening, beta=beta), weight)


def _table(views: list[dict]) -> np.ndarray:
    """Views of several seeds as `[seed, component, 5]`."""
    return np.array([np.column_stack([view["weights"], view["means"], view["sds"]]) for view in views])


def _write(path: Path, grid: Grid, settings: MogSettings, metrics: dict, views: dict) -> Path:
    held = {
        "schema": SCHEMA,
        "world": "mog",
        "grid": dataclasses.asdict(grid),
        "settings": dataclasses.asdict(settings),
        "metrics": {
            order: {name: shortened(v, DIGITS) for name, v in entry.items()} for order, entry in metrics.items()
        },
        "views": {name: shortened(_gathered(name, values), 3) for name, values in views.items()},
        "provenance": provenance("cpu"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, separators=(",", ":")) + "\n", encoding="utf-8")
    return path


def shortened(values: np.ndarray, digits: int) -> list:
    """Nested lists of numbers with so many significant digits."""
    if values.ndim:
        return [shortened(part, digits) for part in values]
    short = float(f"{values:.{digits}g}")
    return int(short) if short == int(short) else short


def _depends_on(name: str) -> tuple[bool, bool, bool]:
    """Whether a pipeline's result depends on algorithm, sharpening and beta."""
    kinds = {type(stage).__name__ for stage in PIPELINES[name]}
    return "Align" in kinds, "Distil" in kinds, "Align" in kinds


def _gathered(name: str, values: np.ndarray) -> np.ndarray:
    """Without the copies along the axes that a pipeline does not depend on."""
    return values[tuple(slice(None) if varies else slice(1) for varies in _depends_on(name))]


def _spread(grid: Grid, name: str, values: np.ndarray) -> np.ndarray:
    axes = (len(grid.algorithms), len(grid.sharpenings), len(grid.betas))
    return np.broadcast_to(values, (*axes, *values.shape[3:]))


if __name__ == "__main__":
    print(sweep(Path(sys.argv[1] if len(sys.argv) > 1 else "out/boundary")))
