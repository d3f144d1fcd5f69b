"""The run of a setting of the Gaussian world: the record's, or one that was run live."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignkd_lab.course.recorded import recorded
from alignkd_lab.experiment import run_cell
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import PIPELINES, planned_steps
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import Records

ALGORITHMS = {"rlhf": "RLHF: rewarded for its own draws", "dpo": "DPO: learns from pairs"}
LIVE_SEEDS = 3
# A slider stops beside a recorded value; nearer than this it means it.
_NEAR = 0.01


def settings_of(state: Mapping[str, Any]) -> MogSettings:
    """The settings of the Gaussian world at this state; values beside recorded ones are taken as those."""
    near = {name: _snapped(name, state[name]) for name in ("target_weight", "beta", "sharpening")}
    settings = replace(MogSettings(), beta=near["beta"], sharpening=near["sharpening"])
    return with_target_weight(settings, near["target_weight"])


def find_run(state: Mapping[str, Any], live: Sequence[Records] = ()) -> tuple[Records | None, str]:
    """The run of this state with its depth: "record", "live", or (None, "predicted")."""
    cell, seed = (state["algorithm"], settings_of(state)), round(state["seed"])
    held = [(recorded_cells().get(cell), "record"), *((run, "live") for run in live if _cell(run) == cell)]
    return next(((run, depth) for run, depth in held if run and seed in run.seeds), (None, "predicted"))


@functools.cache
def recorded_cells() -> dict[tuple[str, MogSettings], Records]:
    """The shipped runs of the Gaussian world, by algorithm and settings."""
    return {_cell(run): run for run in recorded("gaussians-pilot").each()}


def _cell(run: Records) -> tuple[str, MogSettings]:
    return run.the_run()["algorithm"], MogSettings(**run.settings)


@functools.lru_cache(maxsize=256)
def student_at_high_temperature(settings: MogSettings, seed: int) -> tuple[dict, dict]:
    """Metrics and density of the one policy of a route that no record holds, fitted again from the same draws."""
    world = MogWorld(settings, "rlhf", (seed,))
    policies = {name: world.start(name) for name in ("base", "student")}
    student = world.run(PIPELINES["kd_then_align_high_temperature"][0], policies).policy
    judged = world.evaluate(student)
    return {name: value[0] for name, value in judged["metrics"].items()}, judged["view"][0]


def run_here(state: Mapping[str, Any], on_step: Callable[[str], None]) -> Records:
    """The run of a setting, as `compute` takes it."""
    seed = round(state["seed"])
    return run_cell(settings_of(state), state["algorithm"], range(seed, seed + LIVE_SEEDS), on_step=on_step)


def steps_of(state: Mapping[str, Any]) -> int:
    """How often that run tells of itself."""
    return planned_steps(default_pipelines("mog", state["algorithm"]))


def standing(state: Mapping[str, Any], live: Sequence[Records]) -> tuple[bool, str]:
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
    names = ("target_weight", "beta", "sharpening")
    return {name: {getattr(settings, name) for _, settings in recorded_cells()} for name in names}
