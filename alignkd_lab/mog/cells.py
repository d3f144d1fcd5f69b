"""One cell of the Gaussian world, run here and now: what a notebook does live, and what a sweep is made of.

`alignkd run` keeps its runs as records; here a run stays in memory, in the same shape, so that every
figure takes either.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import run_pipelines
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import SCHEMA, pipeline_entry, stage_of_seed
from alignkd_lab.runs import group_runs
from alignkd_lab.store import Store


def run_cell(
    settings: MogSettings,
    algorithm: str,
    seeds: Sequence[int],
    pipelines: Sequence[str] | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> dict:
    """Runs both orders, the controls and the yardsticks (or the named pipelines); a run as `group_runs` gives it.

    `on_step` is told of each stage and evaluation as it starts, as many as `pipelines.planned_steps` says; what it
    raises ends the run.

    Raises:
        BadInput: unknown algorithm or pipeline, no seeds, or a seed twice.
    """
    names = tuple(pipelines or default_pipelines("mog", algorithm))
    world = MogWorld(settings, algorithm, tuple(seeds))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes, stages = run_pipelines(world, names, Store(Path(scratch)), on_step)
    shared = {
        "schema": SCHEMA,
        "world": "mog",
        "preset": "laptop",
        "algorithm": algorithm,
        "target": settings.target_name,
        "settings": dataclasses.asdict(settings),
        "provenance": {"device": "cpu", "created": datetime.now(UTC).isoformat()},
    }
    records = [
        {
            **shared,
            "seed": seed,
            "pipelines": {name: pipeline_entry(outcome, place) for name, outcome in outcomes.items()},
            "stages": {key: stage_of_seed(stage, place) for key, stage in stages.items()},
        }
        for place, seed in enumerate(world.seeds)
    ]
    return group_runs(records)[0]


def with_target_weight(settings: MogSettings, weight: float) -> MogSettings:
    """The settings with this weight on the target's mode or modes; each group keeps its proportions.

    Raises:
        BadInput: a weight that does not lie between 0 and 1.
    """
    if not 0 < weight < 1:
        raise BadInput(f"the target's weight must lie between 0 and 1, not {weight!r}")
    now = sum(settings.truth_weights[target] for target in settings.targets)
    if now == weight:
        return settings
    scale = {True: weight / now, False: (1 - weight) / (1 - now)}
    weights = tuple(w * scale[mode in settings.targets] for mode, w in enumerate(settings.truth_weights))
    return dataclasses.replace(settings, truth_weights=weights)
