"""What was measured and is shipped: the recorded runs, and how the shipped student was cut."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pandas as pd

from alignkd_lab import records
from alignkd_lab.claims import decide
from alignkd_lab.errors import UnknownName
from alignkd_lab.paths import checkout_folder, data_folder
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, YARDSTICKS
from alignkd_lab.records import Records

MAIN_TARGET = "exclamation"  # of the study on SmolLM2


@functools.cache
def recorded(study: str) -> Records:
    """A study that ships, such as `gaussians-pilot`, read once. Raises UnknownName, with all that ship."""
    files = {path.stem: path for path in sorted((data_folder() / "records").glob("*.zip"))}
    if study not in files:
        raise UnknownName("study", study, files)
    return records.load(files[study])


@functools.cache
def recorded_gaussians(algorithm: str = "rlhf", beta: float = 0.5, sharpening: float = 2.0) -> Records:
    """The pilot's run with these settings, 20 seeds. Raises BadInput where there is none."""
    return recorded("gaussians-pilot").select(algorithm=algorithm, beta=beta, sharpening=sharpening)


@functools.cache
def recorded_smollm2(target: str = MAIN_TARGET) -> Records:
    """The registered experiment on SmolLM2 with a target, ten seeds: both orders, and for the main one all that stands
    beside them. Raises BadInput where there is none."""
    arms = ["main", "controls", "methods"] if target == MAIN_TARGET else ["targets"]
    names = [*YARDSTICKS, *ORDERS, *CONTROLS, *METHODS]
    held = recorded("smollm2-study").select(preset="laptop", algorithm="dpo", target=target, arm=arms)
    return held.select(pipeline=names)


@functools.cache
def recorded_claims() -> pd.DataFrame:
    """The claims of the registered experiment, by metric and statistic."""
    return decide(recorded_smollm2()).set_index(["metric", "statistic"])


def out_folder() -> Path:
    """Where a notebook's runs go: `ALIGNKD_OUT`, else `out` of the checkout, or of the current folder."""
    return Path(os.environ.get("ALIGNKD_OUT") or (checkout_folder() or Path()) / "out")


def recipe() -> dict:
    """How the shipped student was made: layers kept, steps, tokens, cost, and recall on held-out texts."""
    return json.loads((data_folder() / "student" / "recipe.json").read_text())


def measured_influence() -> list[float]:
    """1 minus the mean cosine similarity of what enters and what leaves each of the base's layers."""
    return recipe()["block_influence"]
