"""Rescue K-A, notebook 03's open challenge: a student that earns the reward and does not forget, at a fixed budget.

An entry is a pipeline, as data; it runs live in the default world on ten seeds, in about a second. Entries stay on the
learner's own disk.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from alignkd_lab.course.exercises.store import keep_answer, kept_answers
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import ALGORITHMS, MogWorld
from alignkd_lab.pipelines import A_K, K_A, PIPELINES, ROLES, Align, Distil
from alignkd_lab.plots.style import pipeline_style

BUDGET = 120_000  # draws that a seed's stages train on, of which K-A takes 52,200
OURS = (K_A, A_K, "kd_then_align_high_temperature")
SEEDS = tuple(range(10))
SETTINGS = MogSettings()
_KEPT = "rescue_k_a"

Pipeline = Sequence[Distil | Align]


def rescue(pipeline: Pipeline | None = None, name: str = "me", algorithm: str = "rlhf") -> pd.DataFrame:
    """Run an entry, keep it under `name` in place of an earlier one, and print a line to share; None shows the table.

    The table, best first: `score` = `reward` + beta · `recall` (overall recall, nats), means over ten seeds, and the
    `draws` that a seed's stages trained on.

    Raises:
        BadInput: not a pipeline, a policy that no stage before made, a result that is no small student, or more draws
            than `BUDGET`; nothing is run then.
    """
    ours = {pipeline_style(own).label: score(PIPELINES[own], "rlhf") for own in OURS}
    kept = kept_answers().get(_KEPT, {}).get("answer") or {}
    if pipeline is not None:
        if name in ours:
            raise BadInput(f"name: {name!r} is one of ours; choose another")
        found = score(check(pipeline, algorithm), algorithm)
        kept = {**kept, name: {**found, "pipeline": repr(tuple(pipeline)), "algorithm": algorithm}}
        keep_answer(_KEPT, kept)
        print(f"{found['score']:.2f}  course.rescue({kept[name]['pipeline']}, {name!r}, {algorithm!r})")
    table = pd.DataFrame.from_dict({**ours, **kept}, orient="index").sort_values("score", ascending=False)
    return table[["score", "reward", "recall", "draws"]].round(2)


def draws(pipeline: Pipeline, algorithm: str) -> int:
    """How many draws a seed's stages train on."""
    pairs, steps = 2 * SETTINGS.dpo_steps * SETTINGS.dpo_batch, SETTINGS.rlhf_steps * SETTINGS.rlhf_batch
    align = steps if algorithm == "rlhf" else pairs
    return sum(SETTINGS.teacher_samples if isinstance(stage, Distil) else align for stage in pipeline)


def check(pipeline: Any, algorithm: str) -> tuple:
    """The pipeline as a tuple. Raises BadInput for an entry that cannot take part, as `rescue` says."""
    if algorithm not in ALGORITHMS:
        raise UnknownName("algorithm", algorithm, ALGORITHMS)
    if not isinstance(pipeline, tuple | list) or not all(isinstance(stage, Distil | Align) for stage in pipeline):
        raise BadInput(f"pipeline: write a tuple of Distil and Align stages, not {pipeline!r}")
    world = MogWorld(SETTINGS, algorithm, SEEDS)
    sizes = {"base": SETTINGS.base_components, "student": SETTINGS.student_components}
    for stage in pipeline:
        if stage.name in sizes:
            raise BadInput(f"pipeline: {stage.name!r} is made twice; give each stage a name of its own")
        for role in ROLES:
            if getattr(stage, role, "base") not in sizes:
                raise UnknownName(f"pipeline: {role} of {stage.name!r}", getattr(stage, role), sizes)
        world.stage_settings(stage)  # refuses an unknown temperature
        sizes[stage.name] = sizes[stage.init]
    if not pipeline or sizes[pipeline[-1].name] != SETTINGS.student_components:
        raise BadInput("pipeline: the last policy must be a small one, made from the student or a distilled one (init)")
    if (taken := draws(pipeline, algorithm)) > BUDGET:
        raise BadInput(f"pipeline: it trains on {taken:,} draws, more than the budget of {BUDGET:,}; leave a stage out")
    return tuple(pipeline)


@functools.cache
def score(pipeline: tuple, algorithm: str) -> dict[str, float]:
    """`score`, `reward`, `recall`, `draws` of a pipeline that has passed `check`."""
    world = MogWorld(SETTINGS, algorithm, SEEDS)
    policies = {name: world.start(name) for name in ("base", "student")}
    for stage in pipeline:
        policies[stage.name] = world.run(stage, policies).policy
    metrics = world.evaluate(policies[pipeline[-1].name])["metrics"]
    reward, recall = (float(np.mean(metrics[name])) for name in ("reward", "overall_recall"))
    value = reward + SETTINGS.beta * recall
    return {"score": value, "reward": reward, "recall": recall, "draws": draws(pipeline, algorithm)}
