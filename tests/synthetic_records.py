"""Records with known effects, drawn with numpy in the schema of real runs: for tests and for the eye."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from alignkd_lab.pipelines import PIPELINES, Align
from alignkd_lab.records import load_records, plain_settings
from alignkd_lab.report.evidence import Evidence
from alignkd_lab.runs import group_runs
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan

TRUTH_MEANS = [[-1.5, 1.5], [1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]]
TRUTH_WEIGHTS = [0.33, 0.33, 0.30, 0.04]
ORDERS_AND_YARDSTICKS = ("base", "base_aligned", "kd_only", "kd_then_align", "align_then_kd")

# mean and standard deviation over seeds
MOG = {
    "base": {"reward": (0.15, 0.03), "target_rate": (0.04, 0.01), "target_precision": (-42, 2)},
    "base_aligned": {"reward": (3.3, 0.2), "target_rate": (0.93, 0.03), "target_precision": (-3.0, 0.8)},
    "kd_only": {"reward": (0.02, 0.01), "target_rate": (0.002, 0.001), "target_precision": (-47, 3)},
    "kd_then_align": {"reward": (0.10, 0.06), "target_rate": (0.01, 0.005), "target_precision": (-38, 4)},
    "align_then_kd": {"reward": (3.0, 0.5), "target_rate": (0.86, 0.08), "target_precision": (-5, 2)},
    "kd_then_align_base_reference": {
        "reward": (0.4, 0.5),
        "target_rate": (0.08, 0.06),
        "target_precision": (-33, 6),
    },
    "kd_then_align_base_preferences": {
        "reward": (0.9, 0.8),
        "target_rate": (0.2, 0.1),
        "target_precision": (-28, 6),
    },
    "kd_then_align_high_temperature": {
        "reward": (1.9, 0.9),
        "target_rate": (0.5, 0.2),
        "target_precision": (-17, 6),
    },
}
MOG_SHARED = {
    "base": {"overall_precision": (-1.9, 0.05), "overall_recall": (-1.75, 0.05), "entropy": (-1.8, 0.05)},
    "base_aligned": {"overall_precision": (-3.1, 0.1), "overall_recall": (-9, 1.5), "entropy": (-0.8, 0.1)},
    "kd_only": {"overall_precision": (-1.6, 0.05), "overall_recall": (-4.2, 0.4), "entropy": (-1.4, 0.05)},
    "kd_then_align": {
        "overall_precision": (-1.7, 0.08),
        "overall_recall": (-4.6, 0.6),
        "entropy": (-1.3, 0.1),
    },
    "align_then_kd": {"overall_precision": (-2.9, 0.2), "overall_recall": (-12, 2.5), "entropy": (-0.6, 0.1)},
}
LM = {
    "base": (0.018, 0.031, -4.60, -2.73, -2.57),
    "base_aligned": (0.31, 0.416, -3.61, -2.49, -3.26),
    "kd_only": (0.003, 0.006, -4.58, -2.59, -3.94),
    "kd_then_align": (0.012, 0.018, -4.52, -2.43, -3.99),
    "align_then_kd": (0.27, 0.375, -3.72, -2.45, -4.98),
    "kd_then_align_base_reference": (0.02, 0.03, -4.50, -2.50, -3.90),
    "kd_then_align_base_preferences": (0.09, 0.14, -4.20, -2.60, -4.10),
    "kd_then_align_high_temperature": (0.05, 0.07, -4.40, -2.80, -3.60),
}
LM_METRICS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")
LM_SPREAD = (0.02, 0.02, 0.08, 0.05, 0.1)
PROMPTS = [f"Write one sentence about {topic}." for topic in ("rain", "a bridge", "bread", "old maps", "tea")]
LIKE = "{0} is like a quiet friend who waits for you at the end of the road."
PLAIN = "{0} is something that many people see every day and seldom think about."


def mog_record(seed: int, algorithm: str = "rlhf", effects: dict | None = None, **changes) -> dict:
    """One Gaussian record; `effects` replaces `{pipeline: {metric: (mean, sd)}}`, `changes` the settings."""
    draw = np.random.default_rng([seed, 1])
    effects = effects or {name: {**MOG[name], **MOG_SHARED.get(name, MOG_SHARED["kd_then_align"])} for name in MOG}
    settings = {
        "truth_weights": TRUTH_WEIGHTS,
        "truth_means": TRUTH_MEANS,
        "truth_sd": 0.3,
        "targets": [3],
        "reward_width": 0.5,
        "beta": 0.5,
        "sharpening": 2.0,
        **changes,
    }
    pipelines = {}
    for name, metrics in effects.items():
        values = {metric: float(draw.normal(*effect)) for metric, effect in metrics.items()}
        values.update({rate: abs(values[rate]) for rate in ("target_rate",) if rate in values})
        pipelines[name] = {"metrics": values, "view": _view(name, draw)}
    return _finish({"world": "mog", "target": "rare_mode", "settings": settings}, pipelines, seed, algorithm, draw)


def lm_record(seed: int, algorithm: str = "dpo", effects: dict | None = None, gap: float = 0.62, **changes) -> dict:
    """One language record; `effects` replaces `{pipeline: (the values of LM_METRICS)}`."""
    draw = np.random.default_rng([seed, 2])
    pipelines = {}
    for name, means in (effects or LM).items():
        values = {
            metric: float(mean + draw.normal(0, spread))
            for metric, mean, spread in zip(LM_METRICS, means, LM_SPREAD, strict=True)
        }
        hits = int(draw.binomial(512, means[1]))
        values |= {"target_rate": hits / 512, "reward": abs(values["reward"]), "length": 21.5, "fluency": 0.7}
        values["kl_to_truth"] = 0.3 + means[1]
        values["entropy"] = -values["overall_precision"] - values["kl_to_truth"]
        values["second_rule_rate"] = float(draw.binomial(512, 0.03 + 0.2 * means[1])) / 512
        pipelines[name] = {
            "metrics": values,
            "counts": {"responses": 512, "target": hits},
            "samples": [_sample(prompt, means[1], draw) for prompt in PROMPTS],
        }
    settings = {"beta": 0.1, "kd_temperature": 0.8, "layers": 20, **changes}
    record = _finish({"world": "lm", "target": "simile", "settings": settings}, pipelines, seed, algorithm, draw)
    return {**record, "checks": {"healing_gap": gap, "healing_bar": 1.0}}


def recorded(cell, seeds, change=lambda record: record, effects=LM):
    """Synthetic records of a registered cell."""
    settings = plan.settings_of(cell)
    held = plain_settings(settings)
    records = [lm_record(seed, cell.algorithm, effects=effects) for seed in seeds]
    return [change({**record, "settings": held, "target": settings.target}) for record in records]


def write(records: list[dict], path: Path) -> Path:
    """Write `records` as JSON lines without going through the code under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def gathered(folder: Path, *groups: list[dict], gaussians: bool = False) -> Evidence:
    """What the report makes of a folder with these language records, with the shipped Gaussian study if asked for."""
    for number, records in enumerate(groups):
        write(records, folder / "study" / f"{number}.jsonl")
    held = Evidence.below(folder, group_runs(load_records(folder)))
    return dataclasses.replace(held, gaussians=mog_study.load()) if gaussians else held


def without(record: dict, *path: str) -> dict:
    """A copy without the field at `path`."""
    changed = json.loads(json.dumps(record))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed


def replaced(record: dict, value: object, *path: str) -> dict:
    """A copy with another value at `path`."""
    changed = json.loads(json.dumps(record))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


def swap_orders(record: dict) -> dict:
    """The same record with the two orders' results exchanged."""
    pipelines = dict(record["pipelines"])
    names = ("kd_then_align", "align_then_kd")
    pipelines[names[0]], pipelines[names[1]] = pipelines[names[1]], pipelines[names[0]]
    return {**record, "pipelines": pipelines}


def _finish(head: dict, pipelines: dict, seed: int, algorithm: str, draw: np.random.Generator) -> dict:
    stages = {}
    for name, entry in pipelines.items():
        entry["stages"] = []
        for stage in PIPELINES[name]:
            key = stage.name if stage.name != "kd_aligned" else f"kd_aligned-{name}"
            entry["stages"].append(key)
            stages[key] = _stage(stage, pipelines[name]["metrics"], algorithm, draw)
    provenance = {
        "commit": "0123456789abcdef",
        "dirty": False,
        "version": "0.1.0",
        "python": "3.11.2",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "device": "cpu",
        "device_name": "a processor",
        "created": f"2026-01-02T03:04:{seed:02d}+00:00",
        "seconds": 61.5,
    }
    return {
        "schema": 1,
        **head,
        "preset": "laptop",
        "algorithm": algorithm,
        "seed": seed,
        "pipelines": pipelines,
        "stages": stages,
        "provenance": provenance,
    }


def _stage(stage, metrics: dict, algorithm: str, draw: np.random.Generator) -> dict:
    aligning = isinstance(stage, Align)
    info: dict = {"seeds_in_batch": 1}
    if aligning:
        rise = 1 - np.exp(-np.arange(0, 41, 4) / 12)
        start, end = 0.02, max(0.02, metrics.get("reward", 0.0))
        info["curve"] = [
            {
                "step": int(4 * i),
                "reward": float(start + (end - start) * r),
                "target_rate": float(np.clip(0.02 + 0.5 * r, 0, 1)),
                "kl": float(2.5 * r**2 * (0.2 + end / 4)),
            }
            for i, r in enumerate(rise + draw.normal(0, 0.01, rise.size) * (rise > 0))
        ]
        info["learning_rate"] = 3e-4
        info["trials"] = [
            {"learning_rate": rate, "reward": 0.1 * rise, "kl": 6.0 * rise} for rate, rise in ((3e-4, 1), (6e-4, 2))
        ]
        if algorithm == "dpo":
            few, many = ((36, 60), (14, 19)) if stage.sampler == "base" else ((4, 16), (2, 6))
            info["informative_pairs"] = int(draw.integers(*few))
            info |= {"responses": 512, "target_responses": int(draw.integers(*many))}
    return {
        "name": stage.name,
        "kind": stage.kind,
        "seconds": float(40 + 20 * draw.random()),
        "tokens": {"sampled": 14_000, "trained": 29_000 * (1 + aligning), "scored": 14_000},
        "peak_memory_bytes": 1_900_000_000,
        "info": info,
    }


def _view(name: str, draw: np.random.Generator) -> dict:
    weights = {
        "base": [0.33, 0.33, 0.30, 0.04],
        "base_aligned": [0.02, 0.03, 0.02, 0.93],
        "kd_only": [0.36, 0.35, 0.29],
        "kd_then_align": [0.36, 0.35, 0.29],
        "align_then_kd": [0.03, 0.02, 0.95],
        "kd_then_align_high_temperature": [0.3, 0.2, 0.5],
    }.get(name, [0.34, 0.32, 0.34])
    modes = [0, 1, 3] if weights[-1] >= 0.5 and len(weights) == 3 else list(range(len(weights)))
    means = np.array([TRUTH_MEANS[k] for k in modes]) + draw.normal(0, 0.03, (len(weights), 2))
    sds = 0.3 + 0.02 * draw.random((len(weights), 2))
    return {"weights": weights, "means": means.tolist(), "sds": sds.tolist()}


def _sample(prompt: str, rate: float, draw: np.random.Generator) -> dict:
    subject = prompt.removeprefix("Write one sentence about ").rstrip(".").capitalize()
    hit = bool(draw.random() < rate)
    text = (LIKE if hit else PLAIN).format(subject)
    return {"prompt": prompt, "response": text, "reward": float(hit * draw.random()), "target": hit}
