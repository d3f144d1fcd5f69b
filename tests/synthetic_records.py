"""Records with known effects, drawn with numpy in the schema of real runs (`recording.validate`), and their tables."""

from __future__ import annotations

import copy
import functools

import numpy as np

from alignkd_lab import recording, records
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, PIPELINES, Align
from alignkd_lab.presets import PRESETS

METRICS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")
PROMPTS = [f"Write one sentence about {topic}." for topic in ("rain", "a bridge", "bread", "old maps", "tea")]
TRUTH_MEANS = [[-1.5, 1.5], [1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]]
# Means of METRICS; in the Gaussian world beside their standard deviations over seeds.
LM = {
    "base": (0.018, 0.031, -4.60, -2.73, -2.57),
    "base_aligned": (0.31, 0.416, -3.61, -2.49, -3.26),
    "kd_only": (0.003, 0.006, -4.58, -2.59, -3.94),
    "kd_then_align": (0.012, 0.018, -4.52, -2.43, -3.99),
    "align_then_kd": (0.27, 0.375, -3.72, -2.45, -4.98),
    CONTROLS[0]: (0.02, 0.03, -4.50, -2.50, -3.90),
    CONTROLS[1]: (0.09, 0.14, -4.20, -2.60, -4.10),
    CONTROLS[2]: (0.05, 0.07, -4.40, -2.80, -3.60),
}
LM_SPREAD = (0.02, 0.02, 0.08, 0.05, 0.1)
_MOG = {
    "base": ((0.15, 0.03), (0.04, 0.01), (-42, 2), (-1.9, 0.05), (-1.75, 0.05)),
    "base_aligned": ((3.3, 0.2), (0.93, 0.03), (-3.0, 0.8), (-3.1, 0.1), (-9, 1.5)),
    "kd_only": ((0.02, 0.01), (0.002, 0.001), (-47, 3), (-1.6, 0.05), (-4.2, 0.4)),
    "kd_then_align": ((0.10, 0.06), (0.01, 0.005), (-38, 4), (-1.7, 0.08), (-4.6, 0.6)),
    "align_then_kd": ((3.0, 0.5), (0.86, 0.08), (-5, 2), (-2.9, 0.2), (-12, 2.5)),
    CONTROLS[0]: ((0.4, 0.5), (0.08, 0.06), (-33, 6), (-1.7, 0.08), (-4.6, 0.6)),
    CONTROLS[1]: ((0.9, 0.8), (0.2, 0.1), (-28, 6), (-1.7, 0.08), (-4.6, 0.6)),
    CONTROLS[2]: ((1.9, 0.9), (0.5, 0.2), (-17, 6), (-1.7, 0.08), (-4.6, 0.6)),
}
MOG = {name: dict(zip(METRICS, effects, strict=True)) for name, effects in _MOG.items()}


def mog_record(seed: int, algorithm: str = "rlhf", effects: dict | None = None, **changes) -> dict:
    """One Gaussian record; `effects` replaces `{pipeline: {metric: (mean, sd)}}`, `changes` the settings."""
    draw, pipelines = np.random.default_rng([seed, 1]), {}
    for name, metrics in (effects or MOG).items():
        values = {metric: float(draw.normal(*effect)) for metric, effect in metrics.items()}
        means = np.array(TRUTH_MEANS) + draw.normal(0, 0.03, (4, 2))
        view = {"weights": [0.3, 0.3, 0.3, 0.1], "means": means.tolist(), "sds": [[0.3, 0.3]] * 4}
        pipelines[name] = {"metrics": {**values, "target_rate": abs(values.get("target_rate", 0))}, "view": view}
    return record("mog", seed, pipelines, algorithm, "rare_mode", {"beta": 0.5, "sharpening": 2.0, **changes})


def lm_record(seed: int, algorithm: str = "dpo", effects: dict | None = None, gap: float = 0.62, **changes) -> dict:
    """One language record; `effects` replaces `{pipeline: (the values of METRICS)}`; `gap` is that of healing."""
    draw, pipelines = np.random.default_rng([seed, 2]), {}
    for name, means in (effects or LM).items():
        values = dict(zip(METRICS, map(float, draw.normal(means, LM_SPREAD)), strict=True))
        hits = int(draw.binomial(512, means[1]))
        values |= {"target_rate": hits / 512, "reward": abs(values["reward"]), "length": 21.5}
        shows = [bool(draw.random() < means[1]) for _ in PROMPTS]
        told = [f"It is like a friend, said {name}." if shown else f"It is old, said {name}." for shown in shows]
        samples = [dict(zip(("prompt", "response", "reward", "target"), (p, text, float(hit), hit), strict=True))
                   for p, text, hit in zip(PROMPTS, told, shows, strict=True)]  # fmt: skip
        pipelines[name] = {"metrics": values, "counts": {"responses": 512, "target": hits}, "samples": samples}
    checks = {"checks": {"healing_gap": gap, "healing_bar": 1.0}}
    return record("lm", seed, pipelines, algorithm, "simile", changes) | checks


def record(world: str, seed: int, pipelines: dict, algorithm: str, target: str, settings: dict) -> dict:
    """A valid record of these pipelines, with a stage wherever one of them has one."""
    stages = {}
    for name, entry in pipelines.items():
        steps = {s.name if s.name != "kd_aligned" else f"kd_aligned-{name}": s for s in PIPELINES[name]}
        stages |= {key: _stage(s, entry["metrics"].get("reward") or 0.0, seed, algorithm) for key, s in steps.items()}
        entry["stages"] = list(steps)
    head = {"schema": recording.SCHEMA, "world": world, "preset": "laptop", "algorithm": algorithm, "target": target}
    made = {"created": f"2026-01-02T03:04:{seed % 60:02d}+00:00", "device_name": "a processor", "commit": "0123456789"}
    usual = recording.plain_settings(getattr(PRESETS["laptop"], world))
    made = {"device": "cpu", "settings": {**usual, **settings}, "seed": seed, "provenance": {**made, "seconds": 61.5}}
    return recording.validate({**head, **made, "pipelines": pipelines, "stages": stages})


def _stage(stage, reward: float, seed: int, algorithm: str) -> dict:
    info = {"seeds_in_batch": 1, "learning_rate": 3e-4}
    if isinstance(stage, Align):
        rise = 1 - np.exp(-np.arange(0, 41, 4) / 12)
        points = zip(0.02 + (max(reward, 0.02) - 0.02) * rise, 0.02 + 0.5 * rise, (0.5 + reward) * rise**2, strict=True)
        rows = [dict(zip(("reward", "target_rate", "kl"), map(float, point), strict=True)) for point in points]
        info["curve"] = [{"step": 4 * place, **row} for place, row in enumerate(rows)]
        if algorithm == "dpo":
            counts = (36 + seed, 14) if stage.sampler == "base" else (4 + seed, 2)
            info |= {"informative_pairs": counts[0], "responses": 512, "target_responses": counts[1]}
    tokens = {"sampled": 14_000, "trained": 29_000, "scored": 14_000}
    cost = {"seconds": 40.0 + seed, "tokens": tokens, "peak_memory_bytes": 1_900_000_000}
    return {"name": stage.name, "kind": stage.kind, **cost, "info": info}


def tabulated(*made: dict) -> records.Records:
    """Tables of records."""
    return records.tabulate(made)


def replaced(record: dict, value: object, *path: str) -> dict:
    """A copy with another value at `path`."""
    changed = copy.deepcopy(record)
    functools.reduce(dict.__getitem__, path[:-1], changed)[path[-1]] = value
    return changed


def without(record: dict, *path: str) -> dict:
    """A copy without the field at `path`."""
    changed = copy.deepcopy(record)
    del functools.reduce(dict.__getitem__, path[:-1], changed)[path[-1]]
    return changed


def swap_orders(record: dict) -> dict:
    """The same record with the two orders' results exchanged."""
    held = record["pipelines"]
    return {**record, "pipelines": {**held, K_A: held[A_K], A_K: held[K_A]}}
