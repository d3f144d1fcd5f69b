"""The tables of the report: plain rows of text, made from runs and their summaries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from alignkd_lab.claims import CLAIMS, NOT_DECIDED
from alignkd_lab.costs import TOKENS, seeds_in_batch, stages_of, typical_cost
from alignkd_lab.pipelines import A_K, K_A, METHODS, ORDERS
from alignkd_lab.plots.style import (
    METRIC_STYLE,
    MINUS,
    interval,
    metric_label,
    number,
    pipeline_style,
    reading_order,
    shown,
)
from alignkd_lab.runs import varying_settings

SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "○", "invalid": "⊘", "unfinished": "…", "exploratory": "–",
           NOT_DECIDED: "–"}  # fmt: skip
CLAIM_WORDS = {
    ("reward", "mean_difference"): "A-K earns more reward",
    ("target_precision", "mean_difference"): "A-K is more precise on the target",
    ("overall_precision", "mean_difference"): "A-K is more precise overall",
    ("overall_recall", "mean_difference"): "A-K recalls less overall (the admitted cost)",
    ("reward", "variance_ratio"): "A-K's reward varies less over seeds",
}
CLAIM_NAMES = [
    f"{METRIC_STYLE[c.metric].label}{' variance' if c.statistic == 'variance_ratio' else ''}" for c in CLAIMS
]
CHECK_WORDS = {
    "target_learned": "The base learned the target",
    "informative_pairs": "There were pairs to learn from",
    "healing": "The student was healthy",
}
RESPONSES = 8
FEW_SEEDS = 4  # with fewer the seeds are shown in place of their interval
_RESPONSE_PIPELINES = ("base", K_A, A_K)
_METHOD_METRICS = (
    "reward",
    "target_rate",
    "target_precision",
    "overall_precision",
    "entropy",
    "kl_to_truth",
    "overall_recall",
    "reward_accuracy",
    "kl_to_base",
)
_PROVENANCE_FIRST = ("commit", "dirty", "version", "created", "device", "device_name")


def claims_table(summary: dict) -> list[dict]:
    """One row a claim: its words, the expected sign, what was measured, and the verdict."""
    rows = []
    for claim, written in zip(summary["claims"], CLAIMS, strict=True):
        ratio = claim["statistic"] == "variance_ratio"
        label = metric_label(claim["metric"], summary["world"])
        level = f"{100 * claim['level']:.4g} %"
        rows.append(
            {
                "words": CLAIM_WORDS[claim["metric"], claim["statistic"]],
                "statistic": "variance of reward, A-K over K-A" if ratio else f"{label}, A-K {MINUS} K-A",
                "expected": f"{'above' if claim['expected'] == 'up' else 'below'} {written.null:g}",
                "difference": number(claim["difference"]),
                "interval": _span(claim["low"], claim["high"]),
                "level": level if _span(claim["low"], claim["high"]) else "",
                "effect": number(claim["effect_size"]),
                "decided": summary["world"] in written.decided_in,
                **_verdict(claim),
            }
        )
    return rows


def checks_table(summary: dict) -> list[dict]:
    """One row a check, in the order in which they count."""
    return [
        {"words": CHECK_WORDS.get(name, name), "passed": check["passed"], "text": check["text"]}
        for name, check in summary["checks"].items()
    ]


def metrics_table(summary: dict) -> dict:
    """`heads`, and one row a pipeline with (mean, interval) for every metric that any pipeline has."""
    present = {metric for metrics in summary["pipelines"].values() for metric in metrics}
    known = [metric for metric in METRIC_STYLE if metric in present]
    metrics = known + sorted(present - set(known))
    rows = []
    for name in reading_order(summary["pipelines"]):
        cells = []
        for metric in metrics:
            entry = summary["pipelines"][name].get(metric)
            cells.append(_cell(entry and entry["mean"], entry, metric))
        rows.append({**_named(name), "cells": cells})
    return {"heads": [metric_label(metric, summary["world"]) for metric in metrics], "rows": rows}


def costs_table(run: dict) -> dict:
    """What each pipeline cost per seed: every stage that it needs is charged to it in full, shared or not."""
    rows = []
    for name in reading_order({name for record in run["records"] for name in record["pipelines"]}):
        held = next(stages_of(record, name) for record in run["records"] if name in record["pipelines"])
        if not held:
            continue
        cost = typical_cost(run, name)
        rows.append(
            {
                **_named(name),
                "stages": " → ".join(stage["name"] for stage in held),
                "seconds": number(cost.seconds),
                "tokens": [f"{round(count):,}" if count else "–" for count in cost.tokens.values()],
                "memory": f"{cost.memory / 2**30:.2f} GiB" if cost.memory else "–",
            }
        )
    heads = [f"{kind} ({'draws' if run['world'] == 'mog' else 'tokens'})" for kind in TOKENS]
    return {
        "heads": heads,
        "rows": rows,
        "batched": any(seeds_in_batch(stage) > 1 for stage in _all_stages(run)),
        "reused": run["world"] == "lm" and any(_is_of_0_1(record["provenance"]) for record in run["records"]),
    }


def _is_of_0_1(provenance: Mapping) -> bool:
    """Whether a stage's seconds lack those of samples that an earlier stage had drawn."""
    return str(provenance.get("version", "")).startswith("0.1.")


def methods_table(run: dict, summary: dict) -> dict | None:
    """Metrics and costs of both orders and every other method side by side; None where no other method was run."""
    if not set(METHODS) & set(summary["pipelines"]):
        return None
    names = [name for name in reading_order(summary["pipelines"]) if name in (*ORDERS, *METHODS)]
    costs = {row["label"]: row for row in costs_table(run)["rows"]}
    rows = []
    for name in names:
        named, metrics = _named(name), summary["pipelines"][name]
        cost = costs[named["label"]]
        rows.append(
            {
                **named,
                "cells": [
                    _cell(metrics[metric]["mean"], metrics[metric], metric) if metric in metrics else ("–", "")
                    for metric in _METHOD_METRICS
                ],
                "costs": [cost["tokens"][0], cost["tokens"][1], cost["seconds"], cost["memory"]],
                "seeds": max(len(entry["seeds"]) for entry in metrics.values()),
            }
        )
    heads = [metric_label(metric, summary["world"]) for metric in _METHOD_METRICS]
    return {"heads": heads, "costs": ["tokens sampled", "tokens trained", "seconds", "peak memory"], "rows": rows}


def responses_table(run: dict) -> dict | None:
    """The first prompts of the test set in the first seed, each with one response of base, K-A and A-K.

    The rule is fixed beforehand: the first response that each model gave to each prompt, whatever it says.
    """
    record = run["records"][0]
    samples = {
        name: record["pipelines"][name]["samples"]
        for name in _RESPONSE_PIPELINES
        if record["pipelines"].get(name, {}).get("samples")
    }
    if not any(order in samples for order in ORDERS):
        return None
    first = {name: {s["prompt"]: s for s in reversed(given)} for name, given in samples.items()}
    prompts = list(dict.fromkeys(s["prompt"] for s in samples[next(o for o in ORDERS if o in samples)]))
    rows = [
        {"prompt": prompt, "cells": [_response(first[name].get(prompt)) for name in samples]}
        for prompt in prompts[:RESPONSES]
    ]
    return {"heads": [_named(name) for name in samples], "rows": rows, "seed": record["seed"]}


def cells_table(summaries: Sequence[dict]) -> dict:
    """One row a cell of a sweep: what varies, the reward of both orders, and the verdict on every claim."""
    varying = varying_settings(summaries)
    rows = []
    for summary in summaries:
        rewards = [summary["pipelines"].get(order, {}).get("reward") for order in ORDERS]
        claim = summary["claims"][0]
        rows.append(
            {
                "algorithm": summary["algorithm"].upper(),
                "settings": [_text(summary["settings"].get(name)) for name in varying],
                "numbers": [
                    *(_cell(entry and entry["mean"], entry) for entry in rewards),
                    _cell(claim["difference"], claim),
                ],
                "verdicts": [_verdict(claim) for claim in summary["claims"]],
                "seeds": max((len(entry["seeds"]) for entry in rewards if entry), default=0),
            }
        )
    return {"settings": [name.replace("_", " ") for name in varying], "claims": CLAIM_NAMES, "rows": rows}


def settings_rows(run: dict) -> list[tuple[str, str]]:
    """Every setting under the name that the code gives it."""
    return [(name, _text(value)) for name, value in run["settings"].items()]


def provenance_rows(run: dict) -> list[tuple[str, str]]:
    """What the records say about their making, every distinct value once."""
    held = [made for record in run["records"] for made in (*record.get("earlier", []), record["provenance"])]
    names = list(dict.fromkeys([*_PROVENANCE_FIRST, *(name for entry in held for name in entry)]))
    rows = [("seeds", ", ".join(str(record["seed"]) for record in run["records"]))]
    for name in names:
        texts = list(dict.fromkeys(_text(entry[name]) for entry in held if entry.get(name) is not None))
        if name == "seconds" and len(texts) > 1:
            texts = [f"{number(mean(entry.get(name) or 0 for entry in held))} (mean over seeds)"]
        if name == "created" and len(texts) > 1:
            texts = [f"{min(texts)} to {max(texts)}"]
        if texts:
            rows.append((name, "; ".join(texts)))
    return rows


def in_short(summary: dict) -> str:
    """The run in one or two sentences: the reward of both orders, and what became of the claims."""
    rewards = [summary["pipelines"].get(order, {}).get("reward") for order in ORDERS]
    if None in rewards:
        return "This run does not hold both orders, so there is nothing to compare."
    k_a, a_k = (interval(entry["mean"], entry["low"], entry["high"]) for entry in rewards)
    told = f"Reward is {k_a} for K-A and {a_k} for A-K."
    verdicts = [claim["verdict"] for claim in summary["claims"]]
    if "invalid" in verdicts:
        words = CHECK_WORDS.get(summary["claims"][0]["failed_check"], summary["claims"][0]["failed_check"])
        return f"{told} No verdict is valid: the check “{words}” failed."
    if summary["label"]:
        return f"{told} {summary['label'].capitalize()}."
    decided = [verdict for verdict in verdicts if verdict != NOT_DECIDED]
    counts = [f"{verdict} {decided.count(verdict)}" for verdict in SYMBOLS if verdict in decided]
    return f"{told} Of {len(decided)} claims: {', '.join(counts)}."


def _verdict(claim: dict) -> dict:
    return {
        "verdict": claim["verdict"],
        "symbol": SYMBOLS[claim["verdict"]],
        "failed": claim.get("failed_check"),
    }


def _named(name: str) -> dict:
    style = pipeline_style(name)
    return {"label": style.label, "colour": style.colour, "order": name in ORDERS}


def _cell(estimate: float | None, entry: dict | None, metric: str = "") -> tuple[str, str]:
    """An estimate, and on a line below its interval, or the seeds themselves where they are too few for one."""
    if entry is None or estimate is None:
        return "–", ""
    if 1 < len(entry.get("seeds", ())) < FEW_SEEDS:
        seeds = ", ".join(number(shown(metric, seed["value"])) for seed in entry["seeds"])
        return number(shown(metric, estimate)), seeds
    return mean_and_span(shown(metric, part) for part in (estimate, entry["low"], entry["high"]))


def mean_and_span(found: Iterable[float | None]) -> tuple[str, str]:
    """(estimate, low, high) -> the estimate and its interval, as a cell shows them one above the other."""
    estimate, low, high = found
    return number(estimate), _span(low, high)


def _span(low: float | None, high: float | None) -> str:
    texts = number(low), number(high)
    return "" if "–" in texts else f"{texts[0]} to {texts[1]}"


def _all_stages(run: dict) -> list[dict]:
    return [stage for record in run["records"] for stage in record["stages"].values()]


def _response(sample: dict | None) -> dict | None:
    if sample is None:
        return None
    return {
        "text": sample["response"],
        "reward": number(sample.get("reward")),
        "target": bool(sample.get("target")),
    }


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
