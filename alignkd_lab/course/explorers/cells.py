"""The run of a setting of the Gaussian world: the record's, or one that was run live."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignkd_lab.mog.cells import run_cell, with_target_weight
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, planned_steps
from alignkd_lab.plots import plane
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import load_records, record_files
from alignkd_lab.runs import group_runs

ALGORITHMS = {"rlhf": "RLHF: rewarded for its own draws", "dpo": "DPO: learns from pairs"}
LIVE_SEEDS = 3
# A slider stops beside a recorded value; nearer than this it means it.
_NEAR = 0.01


def settings_of(state: Mapping[str, Any]) -> MogSettings:
    """The settings of the Gaussian world at this state; values beside recorded ones are taken as those."""
    near = {name: _snapped(name, state[name]) for name in ("target_weight", "beta", "sharpening")}
    settings = replace(MogSettings(), beta=near["beta"], sharpening=near["sharpening"])
    return with_target_weight(settings, near["target_weight"])


def find_run(state: Mapping[str, Any], live: Sequence[dict] = ()) -> tuple[dict | None, str]:
    """The run of this state with its depth: "record", "live", or (None, "predicted")."""
    settings, seed = settings_of(state), round(state["seed"])
    for runs, depth in ((recorded(), "record"), (live, "live")):
        for run in runs:
            seeds = [record["seed"] for record in run["records"]]
            if run["algorithm"] == state["algorithm"] and seed in seeds and MogSettings(**run["settings"]) == settings:
                return run, depth
    return None, "predicted"


@functools.cache
def recorded() -> tuple[dict, ...]:
    """The shipped runs of the Gaussian world, read once."""
    files = [path for path in record_files(data_folder() / "records") if path.name.startswith("mog-")]
    return tuple(run for path in files for run in group_runs(load_records(path)))


@functools.lru_cache(maxsize=256)
def student_at_high_temperature(settings: MogSettings, seed: int) -> dict:
    """The one policy of a route that no record holds, fitted again from the same draws."""
    world = MogWorld(settings, "rlhf", (seed,))
    policies = {name: world.start(name) for name in ("base", "student")}
    student = world.run(PIPELINES["kd_then_align_high_temperature"][0], policies).policy
    judged = world.evaluate(student)
    return {"metrics": {name: value[0] for name, value in judged["metrics"].items()}, "view": judged["view"][0]}


def run_here(state: Mapping[str, Any], on_step: Callable[[str], None]) -> dict:
    """The run of a setting, as `compute` takes it."""
    seed = round(state["seed"])
    return run_cell(settings_of(state), state["algorithm"], range(seed, seed + LIVE_SEEDS), on_step=on_step)


def steps_of(state: Mapping[str, Any]) -> int:
    """How often that run tells of itself."""
    return planned_steps(default_pipelines("mog", state["algorithm"]))


def standing(state: Mapping[str, Any], live: Sequence[dict]) -> tuple[bool, str]:
    """Whether a setting still has to be run, and what to say of that."""
    depth = find_run(state, live)[1]
    return depth == "predicted", {
        "record": "This setting is in the record.",
        "live": "This setting was run just now.",
        "predicted": "Predicted only. A run of three seeds takes a few seconds.",
    }[depth]


def _snapped(name: str, value: float) -> float:
    return next((known for known in _recorded_values()[name] if abs(value - known) < _NEAR * known), value)


@functools.cache
def _recorded_values() -> dict[str, set[float]]:
    held = [MogSettings(**run["settings"]) for run in recorded()]
    return {
        "target_weight": {plane.target_weight(settings) for settings in held},
        "beta": {settings.beta for settings in held},
        "sharpening": {settings.sharpening for settings in held},
    }
