"""`alignkd plan`: what `alignkd run` and `alignkd train` would cost here, before they start.

Tokens are counted from stages and settings, or from the very texts; seconds are tokens times what this machine takes
for one at the run's width, vocabulary, lengths and losses. For a card that is not here they are an estimate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignkd_lab.arguments import parse_count, run_options, run_request
from alignkd_lab.clock import CARDS, Clock, Rates, age, rates_of
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.experiment import Cell, cells_of
from alignkd_lab.lm import weights
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.rewards import model_of
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.lm.shapes import adapter_size, config_of, is_here, parameters
from alignkd_lab.lm.trials import shipped
from alignkd_lab.lm.world import Terms
from alignkd_lab.options import read_options
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, Align
from alignkd_lab.plan_training import plan_train
from alignkd_lab.presets import planned_work
from alignkd_lab.progress import beside, duration
from alignkd_lab.rates import How, Shape
from alignkd_lab.records import load
from alignkd_lab.results import KINDS
from alignkd_lab.work import TARGET_RATE


def main(argv: Sequence[str]) -> str:
    """The plan that `alignkd plan run ...` or `alignkd plan train METHOD ...` asks for, as a table or as JSON.

    Raises:
        BadInput, CannotContinue: what the run or the training would refuse without weights, or a size not known here.
    """
    own = argparse.ArgumentParser(
        prog="alignkd plan", usage="alignkd plan run|train [that command's options] [option ...]", allow_abbrev=False
    )
    own.add_argument("what", choices=("run", "train"), help="what is to be planned; its own options follow")
    own.add_argument("--json", action="store_true", help="print the plan as JSON")
    own.add_argument("--card", metavar="NAME", help=f"estimate for {', '.join(CARDS)}, or times an H100's speed: 0.5")
    words = "share of responses that meet a run's target (default: %(default)s)"
    own.add_argument("--target-rate", metavar="SHARE", type=float, default=TARGET_RATE, help=words)
    words = "that a model writes (default: as many as it may, or, beside pairs, as chosen responses have)"
    own.add_argument("--response-tokens", metavar="N", type=parse_count, help=words)
    given, rest = own.parse_known_args(argv)
    if not 0 < given.target_rate < 1:
        raise BadInput(f"target_rate: {given.target_rate} must lie between 0 and 1")
    rates = rates_of(given.card) if given.card else None
    if given.what == "train":
        made = plan_train(*read_options(rest), rates, given.response_tokens)
    else:
        parser = argparse.ArgumentParser(prog="alignkd plan run", allow_abbrev=False)
        run_options(parser.add_argument, {"choices": ("cpu", "cuda")})
        arguments = parser.parse_args(rest)
        if arguments.from_record or arguments.engine != "local":
            raise BadInput("plan: a run on this machine is planned; leave --from and --engine out")
        made = plan_run(run_request(arguments), rates, given.target_rate, given.response_tokens)
    return json.dumps(made, indent=1) if given.json else render(made)


def plan_run(
    request: dict[str, Any], rates: Rates | None = None, target_rate: float = TARGET_RATE, written: int | None = None
) -> dict[str, Any]:
    """Of arguments of `experiment.run_experiment`: stages with tokens and seconds; time, memory and disk in sum.

    Seconds are measured for the run's own sizes, or estimated by `rates`. Nothing that is kept in `out` already is
    subtracted.
    """
    cells = cells_of({**request, "device": None})
    if request["world"] == "mog":
        return _plan_mog(cells)
    ((*_, algorithm, settings, names, seeds),) = cells
    student = settings.student
    clock = Clock(request.get("device"), settings.dtype, rates)
    sources = {settings.base, settings.truth, *filter(None, [model_of(settings.reward)])}
    configs = {source: config_of(source) for source in sources}
    configs[student] = config_of(settings.student_source)
    sizes = {source: parameters(config) for source, config in configs.items()}
    counted = replace(settings, max_tokens=min(written or settings.max_tokens, settings.max_tokens))
    roles = _trials(settings, algorithm, names)
    work = planned_work("", counted, names, algorithm, target_rate=target_rate, trials=roles)
    prompt = _prompt_tokens(settings)
    for entry in work:
        _add(clock, entry, configs[entry["model"]], counted, prompt)
    once = sum(row["seconds"] for name, row in clock.rows.items() if name.startswith("trials"))
    each = sum(row["seconds"] for row in clock.rows.values()) - once
    clock.handle("start", sum(sizes.values()))
    once += clock.spend("start", clock.start)["seconds"]
    stages = sum(bool(entry["trained"]) for entry in work)
    # A student that was trained twice holds two adapters.
    kept = len(seeds) * 2 * stages * 4 * adapter_size(configs[student], settings.lora_rank)
    return clock.sum_up(
        "run", once + len(seeds) * each, _memory(counted, configs, clock, prompt), kept, kept, configs,
        seeds=len(seeds), response_tokens=counted.max_tokens, target_rate=target_rate,
    )  # fmt: skip


def _add(clock: Clock, entry: dict, config, settings: LmSettings, prompt: int) -> None:
    stage, length, responses = entry["stage"], settings.max_tokens, entry.get("responses", 1)
    at_once = min(entry.get("at_once", entry["sampled"] // length), settings.sample_batch)
    clock.spend(stage, 0.0)["sampled"] += entry["kept"]
    clock.add(stage, "sampled", config, entry["sampled"], Shape(prompt, length, responses, at_once))
    clock.add(stage, "scored", config, entry["scored"], Shape(prompt, length, settings.test_responses))
    if entry["trained"]:
        shape, how = Shape(prompt, length, responses), How(entry["loss"], settings.lora_rank)
        clock.add(stage, "trained", config, entry["trained"], shape, how)
        clock.handle(stage, entry["parameters"])


def _prompt_tokens(settings: LmSettings) -> int:
    """Of a training prompt on average; where the tokenizer is not here, a template's and one for four characters."""
    texts = prompts("training", source=settings.prompts)
    if not is_here(settings.base):
        return round(sum(map(len, texts)) / len(texts) / 4) + 12
    return round(sum(map(len, encode(weights.load_tokenizer(settings.base), texts))) / len(texts))


def _trials(settings: LmSettings, algorithm: str, names: Sequence[str]) -> list[str]:
    """The roles whose learning rate must be found first, since none ships for these settings."""
    roles = {"base" if stage.init == "base" else "student"
             for name in names for stage in PIPELINES[name] if isinstance(stage, Align)}  # fmt: skip
    terms, found = Terms(settings, algorithm), []
    for role in sorted(roles) if len(settings.rates_to_try(algorithm)) > 1 else []:
        try:
            held = shipped(terms.rate_depends(role))
        except CannotContinue:  # a healed student that is not made yet
            held = None
        found += [] if held else [role]
    return found


def _memory(settings: LmSettings, configs: dict, clock: Clock, prompt: int) -> float:
    """Weights that are held at once, and the larger of what a step keeps and what sampling holds.

    Held are the starts, the truth again, and of a stage a teacher or reference and who learns.
    """
    size = {source: 4 * parameters(config) for source, config in configs.items()}
    held = sum(size.values()) + size[settings.truth] + 2 * size[settings.base]
    base, length = configs[settings.base], settings.max_tokens
    taught = settings.distil_batch * settings.distil_responses
    responses = {"dpo": 2 * settings.align_batch, "rloo": settings.rlhf_prompts * settings.rlhf_generations}
    step = max((responses.get(loss, taught) * length * kept for loss, kept in clock.kept_bytes.items()), default=0.0)
    rows = min(settings.sample_batch, settings.preference_prompts * settings.preference_responses)
    half = 0 if clock.dtype == "float32" else size[settings.base] // 2
    writing = clock.sampling_bytes(base, rows, prompt + length) + half
    return clock.resident + held + max(step + clock.logits_bytes, writing)


def _plan_mog(cells: Sequence[Cell]) -> dict[str, Any]:
    """Cells of one batch cost alike, so the seconds that were recorded, on another machine, serve for all of them."""
    seeds = len(cells[0].seeds)
    recorded = load(data_folder() / "records" / "gaussians-pilot.zip").provenance["seconds"].mean()
    row = {"stage": f"{len(cells)} cells", **dict.fromkeys(KINDS, 0), "seconds": len(cells) * seeds * recorded}
    return {"what": "run", "device": "cpu", "estimate": "as long as the recorded runs took", "stages": [row],
            "seconds": row["seconds"] + age(), "seeds": seeds}  # fmt: skip


def render(plan: dict[str, Any]) -> str:
    """A table of the stages, and what they come to."""
    lines = [f"{'':<32}{'sampled':>12}{'trained':>12}{'scored':>12}{'time':>14}"]
    for row in plan["stages"]:
        tokens = "".join(f"{row[kind]:>12,}" for kind in KINDS)
        lines.append(f"{row['stage']:<32}{tokens}{duration(row['seconds']):>14}")
    seeds = f" for {plan['seeds']} seeds" if plan.get("seeds", 1) > 1 else ""
    how = (
        f"an estimate, {plan['estimate']}"
        if plan["estimate"]
        else f"{plan['dtype']}, measured here{beside(plan['busy_cores'])}"
    )
    lines += ["", f"time      {duration(plan['seconds'])}{seeds} on {plan['device']} ({how})"]
    if "memory_bytes" in plan:
        disk, wanted = plan["disk_bytes"], sum(plan["download_bytes"].values())
        assumed = {name: plan[name] for name in ("response_tokens", "target_rate") if name in plan}
        lines += [
            f"memory    about {plan['memory_bytes'] / 1e9:.1f} GB",
            f"disk      {disk['at_most'] / 1e9:.2f} GB while it runs, {disk['left'] / 1e9:.2f} GB at the end",
            ", ".join([f"download  {wanted / 1e6:,.0f} MB", *plan["download_bytes"]]),
            "assumed   " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in assumed.items()),
        ]
    return "\n".join(lines)
