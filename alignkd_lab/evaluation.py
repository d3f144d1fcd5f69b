"""`alignkd evaluate`: reward, win rate, reward accuracy, KL and benchmarks of a model, or of two on the same prompts.

Nothing here loads torch before all is refused that no model is needed to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput, check_choice, check_number
from alignkd_lab.lm import judge
from alignkd_lab.lm.harness import check_tasks, run_tasks
from alignkd_lab.lm.preference_data import Rows, count_reasons, load_preferences, read_prompts, to_examples
from alignkd_lab.lm.request import check_policy, check_reward
from alignkd_lab.paths import alone, make_folder
from alignkd_lab.provenance import DTYPES

RECORD = "evaluation.json"
# What each metric is called in a table and a picture, in their order.
METRICS = {
    "reward": "reward",
    "reward_accuracy": "reward accuracy on the pairs",
    "kl_per_response": "KL to the reference, nats a response",
    "kl_per_token": "KL to the reference, nats a token",
    "entropy": "entropy, nats a token",
    "length": "length, tokens",
    "ended": "share that ended by itself",
    "distinct_1": "distinct 1-grams",
    "distinct_2": "distinct 2-grams",
}


@dataclass(frozen=True)
class Request:
    """What is measured, of which model.

    Attributes:
        model, against, reference: sources as `alignkd train --student` takes; KL and reward accuracy compare `model`
            with `reference`.
        prompts: a source as `--data` takes; to each, once, each model writes `responses` at temperature 1.
        reward: a target's rule by its name, `model:SOURCE`, or a function of one's own, `module:function`.
        pairs: held-out preference pairs as `load_preferences` takes them, cut to `max_length` tokens, of which the
            prompt may have half; what is cut or left out is counted.
        judge: what says which of two answers is better, as `lm.judge.compare` takes it; needs `against`.
        tasks: of lm-evaluation-harness, by name or as configurations; `limit` and `chat_template` go with them.
        out: a new folder for `evaluation.json` and, where there are prompts, `responses.jsonl`.
        dtype: of matrix products.
    """

    model: str | Path
    prompts: str | Path | None = None
    reward: str | None = None
    against: str | Path | None = None
    judge: str | None = None
    pairs: Any = None
    reference: str | Path | None = None
    tasks: Sequence[str | dict] = ()
    out: str | Path | None = None
    responses: int = 1
    max_tokens: int = 256
    max_length: int = 1024
    seed: int = 0
    limit: int | None = None
    chat_template: bool = False
    device: str | None = None
    dtype: str = "default"

    @property
    def sources(self) -> dict[str, str]:
        named = {name: getattr(self, name) for name in ("model", "against", "reference")}
        return {name: str(source) for name, source in named.items() if source is not None}


def evaluate(model: str | Path, **options: Any) -> dict:
    """Measures a model on what the options name, the fields of `evaluation.Request`; returns the record.

    `metrics` and `against` (the other model's) hold `METRICS`, each an `estimate` with the bounds `low` and `high` of
    its interval (95 %, over prompts), defined in `lm.evaluate`; `win_rate` is of the model against the other one,
    paired by prompt; `judge` is what `lm.judge.compare` returns, `tasks` what `lm.harness.run_tasks` does. Null is what
    was not asked for, and a bound that does not exist. The two models draw random numbers of their own.

    Raises:
        BadInput: an option, a file or a model cannot be used; before weights are read, where that can be told.
        CannotContinue: network, disk or memory.
    """
    asked = _check(Request(model, **options))
    found = read_prompts(asked.prompts, strict=True) if asked.prompts is not None else None
    for row in found.rows if found else ():
        if row.later:
            raise BadInput(f"prompts: row {row.row} has several turns, which only `alignkd sample` asks; leave one")
    held = load_preferences(asked.pairs) if asked.pairs is not None else None
    if asked.tasks:
        check_tasks(asked.tasks)
    out = Path(asked.out) if asked.out is not None else None
    if not out:
        return _evaluate(asked, found, held, None)
    make_folder(out)
    with alone(out):
        return _evaluate(asked, found, held, out)


def _evaluate(asked: Request, found: Rows | None, held: Rows | None, out: Path | None) -> dict:
    """The record, and beside it in the folder what led to it."""
    if asked.judge and judge.is_remote(asked.judge):  # a server that does not answer is no reason to sample first
        judge.try_remote(asked.judge)
    answers: list[dict] = []
    try:
        record = _measure(asked, found, held, answers)
    finally:  # what was written is kept, whatever its reward or a later model meets with
        if out and answers:
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
            (out / "responses.jsonl").write_text(lines, encoding="utf-8")
    if asked.judge:
        half, kept = len(answers) // 2, out / "verdicts.jsonl" if out else None
        device = record["provenance"]["device"]
        try:
            record["judge"] = judge.compare(asked.judge, answers[:half], answers[half:], device, kept)
        except BaseException:
            if out:
                (out / f"{RECORD}.part").write_text(json.dumps(record, indent=1), encoding="utf-8")
            raise
    if out:
        (out / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
    return record


def _check(asked: Request) -> Request:
    """Refuses all that can be before a file is read; a function as the reward is pinned."""
    prompts, pairs = asked.prompts is not None, asked.pairs is not None
    needs = {
        "model": (prompts or pairs or asked.tasks, "nothing to measure; name --prompts, --pairs or --tasks"),
        "reward": (asked.reward is None or prompts, "it pays answers; name what is asked with --prompts"),
        "against": (asked.against is None or (prompts and (asked.reward or asked.judge)),
                    "a win rate needs --prompts and --reward or --judge"),
        "judge": (asked.judge is None or asked.against, "it compares two models; name the other with --against"),
        "pairs": (not pairs or asked.reference, "reward accuracy is of log pi - log pi_ref; name pi_ref with "
                  "--reference, such as the model that training started from"),
        "reference": (asked.reference is None or prompts or pairs, "nothing to compare; name --prompts or --pairs"),
        "tasks": (not isinstance(asked.tasks, str), "give a list of names"),
        "limit": (asked.limit is None or asked.tasks, "it goes with --tasks"),
        "chat_template": (not asked.chat_template or asked.tasks, "it goes with --tasks"),
    }  # fmt: skip
    for name, (holds, words) in needs.items():
        if not holds:
            raise BadInput(f"{name}: {words}")
    for name, source in asked.sources.items():
        check_policy(name, source)
    if asked.judge is not None and not judge.is_remote(asked.judge):
        check_policy("judge", asked.judge)
    for name, least in (("responses", 1), ("max_tokens", 1), ("max_length", 2), ("seed", 0)):
        check_number(name, getattr(asked, name), least=least, whole=True)
    if asked.limit is not None:
        check_number("limit", asked.limit, least=1, whole=True)
    check_choice("dtype", asked.dtype, ("default", *DTYPES))
    if asked.out is not None and (Path(asked.out) / RECORD).exists():
        raise BadInput(f"out: {asked.out} holds an evaluation already; name another folder")
    return asked if asked.reward is None else replace(asked, reward=check_reward(asked.reward))


def _measure(asked: Request, read: Rows | None, held: Rows | None, lines: list[dict]) -> dict:
    """The record; a line for each response goes to `lines` before it is paid. One policy is in memory at a time."""
    import torch

    from alignkd_lab.lm import evaluate as metrics
    from alignkd_lab.lm import models, weights
    from alignkd_lab.lm.admission import check_reach
    from alignkd_lab.lm.answers import answer, encode_rows
    from alignkd_lab.lm.sampling import in_dtype
    from alignkd_lab.lm.scoring import response_log_probs, score
    from alignkd_lab.lm.shapes import config_of
    from alignkd_lab.lm.vocabulary import check_vocabularies
    from alignkd_lab.provenance import best_device, provenance, resolve_dtype

    device, sources = best_device(asked.device), asked.sources
    rows = list({json.dumps(row.prompt): row for row in read.rows}.values()) if read else []  # each prompt once
    dtype = getattr(torch, resolve_dtype(asked.dtype, device))
    tokenizers = {name: weights.load_tokenizer(source) for name, source in sources.items()}
    if asked.reference:
        check_vocabularies(tokenizers["model"], reference=tokenizers["reference"])
    writers = {name: encode_rows(tokenizers[name], rows) for name in ("model", "against") if name in sources}
    encoded = _examples(held, tokenizers["model"], asked.max_length) if held else None
    reach = {name: max(map(len, ids)) + asked.max_tokens for name, ids in writers.items() if rows}
    pairs = [len(row.prompt) + max(map(len, row.responses)) for row in encoded.examples] if encoded else []
    for name, source in sources.items():  # what a later one cannot read is refused before the first one writes
        longest = [reach.get(name, reach.get("model", 0)), *(pairs if name != "against" else [])]
        check_reach(config_of(source), source, max(longest))
    pays = metrics.read_reward(asked.reward, device) if asked.reward else None
    found = {name: dict.fromkeys(METRICS) for name in writers}
    drawn, rewards, of_pairs, tasks = {}, {}, {}, None

    def tell(name: str, measured: dict) -> None:
        found[name] |= {metric: metrics.as_json(value) for metric, value in measured.items()}

    for name, source in sources.items():
        policy = models.read(source, device)
        if name == "model" and asked.tasks:  # first, since the harness may find that it lacks data
            tasks = run_tasks(in_dtype(policy, dtype), tokenizers[name], asked.tasks, limit=asked.limit,
                              chat_template=asked.chat_template)  # fmt: skip
        if rows and name == "reference":
            samples, log_probs = drawn["model"]
            tell("model", metrics.kl_to_reference(samples, log_probs, score(policy, samples, dtype=dtype)))
        elif rows:
            seed = asked.seed + (name == "against")
            samples = answer(policy, tokenizers[name], source, writers[name], responses=asked.responses,
                             max_tokens=asked.max_tokens, seed=seed, dtype=dtype)  # fmt: skip
            log_probs, texts = score(policy, samples, dtype=dtype), samples.texts(tokenizers[name])
            tell(name, metrics.of_samples(samples, log_probs, tokenizers[name]))
            drawn[name], of = (samples, log_probs), [rows[prompt] for prompt in samples.prompt_of]
            own = [{"row": row.row, "prompt": row.said, "model": source, "response": text, "reward": None}
                   for row, text in zip(of, texts, strict=True)]  # fmt: skip
            lines += own
            if pays:
                earned = pays(of, texts)
                for line, reward in zip(own, earned.tolist(), strict=True):
                    line["reward"] = reward
                rewards[name] = earned.reshape(len(rows), asked.responses)
                tell(name, {"reward": metrics.over_prompts(rewards[name])})
        if encoded and name != "against":
            of_pairs[name] = response_log_probs(policy, encoded.examples, dtype)
        del policy
    if encoded:
        tell("model", {"reward_accuracy": metrics.reward_accuracy(encoded.examples, *of_pairs.values())})
    win = metrics.as_json(metrics.win_rate(*rewards.values())) if len(rewards) == 2 else None
    options = {name: getattr(asked, name) for name in
               ("reward", "responses", "max_tokens", "max_length", "seed", "limit", "chat_template")}  # fmt: skip
    record = {
        "metrics": found["model"], "against": found.get("against"), "win_rate": win, "judge": None,
        "tasks": tasks,
        "weights": {name: {"source": source, "checksum": models.identity(source)} for name, source in sources.items()},
        "prompts": {**read.provenance, "count": len(rows), "repeated": len(read.rows) - len(rows)} if read else None,
        "pairs": _about(held, encoded) if held else None,
        "options": {**options, "temperature": 1.0, "dtype": str(dtype)},
        "provenance": provenance(device) | ({"lm_eval": version("lm_eval")} if tasks else {}),
    }  # fmt: skip
    return record


def _examples(held: Rows, tokenizer, max_length: int):
    most = max_length // 2
    encoded = to_examples(held, tokenizer, max_prompt_tokens=most, max_response_tokens=max_length - most)
    if not encoded.examples:
        reasons = "; ".join(count_reasons(encoded.skipped))
        raise BadInput(f"pairs: none can be read within max_length {max_length} ({reasons}); raise it")
    return encoded


def _about(held: Rows, encoded) -> dict:
    parts = {"skipped": [*held.skipped, *encoded.skipped], "cut": encoded.cut, "noted": held.noted}
    counts = {name: count_reasons(part) for name, part in parts.items()}
    return {**held.provenance, "count": len(encoded.examples), **counts}


# Reading it -----------------------------------------------------------------------------------------------


def render(record: dict) -> str:
    """The record as a table: a line a metric, `–` for what was not asked; the estimate and its interval."""
    columns = [record["metrics"], *([record["against"]] if record["against"] else [])]
    names = [part["source"] for name, part in record["weights"].items() if name != "reference"]
    lines = [["", *names]] if len(names) > 1 else []
    lines += [[words, *(_shown(column[name]) for column in columns)] for name, words in METRICS.items()]
    if record["win_rate"]:
        lines.append([f"win rate against {names[1]}", _shown(record["win_rate"])])
    if judged := record["judge"]:
        lines.append([f"win rate by {judged['source']}", _shown(judged["win_rate"])])
        lines += [[f"  {share}", _number(judged[share])] for share in ("ties", "swayed", "unread")]
    for task, held in (record["tasks"] or {}).items():
        for metric, value in held["metrics"].items():
            lines.append([f"{task}, {metric}", f"{_number(value['estimate'])} ± {_number(value['stderr'])}"])
    width = max(len(line[0]) for line in lines)
    about = "\n".join(f"{name}: {record['weights'][name]['source']}" for name in record["weights"])
    return about + "\n\n" + "\n".join("  ".join([line[0].ljust(width), *(cell.ljust(24) for cell in line[1:])]).rstrip()
                                      for line in lines)  # fmt: skip


def _shown(value: dict | None) -> str:
    if value is None:
        return "–"
    bounds = "" if value["low"] is None else f" [{_number(value['low'])}, {_number(value['high'])}]"
    return _number(value["estimate"]) + bounds


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
