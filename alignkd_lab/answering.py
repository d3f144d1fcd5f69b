"""`alignkd sample`: a model's answers to the prompts of a file, in the format that a judge reads.

JSON Lines of our own; MT-Bench, a line a question, as `fastchat/llm_judge/gen_model_answer.py` of lm-sys/FastChat has
it; AlpacaEval, one list, as the README of tatsu-lab/alpaca_eval describes `model_outputs`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from alignkd_lab.errors import BadInput, check_choice, check_number
from alignkd_lab.lm.engines import Vllm, check_engine
from alignkd_lab.lm.preference_data import Prompt, read_prompts
from alignkd_lab.lm.request import check_policy
from alignkd_lab.paths import make_folder


def sample_to(
    model: str, *, prompts: str | Path, out: str | Path, format: str = "jsonl", temperature: float = 1.0,
    max_tokens: int = 512, seed: int = 0, device: str | None = None, dtype: str = "default", engine: str = "own",
) -> int:  # fmt: skip
    """Writes one answer of `model` to each prompt of a file, and returns how many there are.

    Args:
        model: a source as `alignkd train --student` takes.
        format: `jsonl` (`prompt`, `response`, `ended`), `mt-bench` (all turns are asked) or `alpaca-eval` (one JSON
            list); the last two name the model as its folder is called.
        engine: what writes, `own` or `vllm` (`lm.engines`), whose draws are others.

    Raises:
        BadInput: an option, the file or the model cannot be used.
        CannotContinue: network, disk or memory.
    """
    check_policy("model", model)
    check_engine(engine, model)
    check_choice("format", format, tuple(FORMATS))
    check_number("temperature", temperature, above=0)
    check_number("max_tokens", max_tokens, least=1, whole=True)
    check_number("seed", seed, least=0, whole=True)
    out, name = Path(out), Path(model).resolve().name if Path(model).is_dir() else model
    if out.exists():
        raise BadInput(f"out: {out} is there already; name another file")
    rows = read_prompts(prompts, strict=True).rows
    FORMATS[format].check(rows)
    make_folder(out.parent)
    import torch

    from alignkd_lab.lm import models, weights
    from alignkd_lab.lm.answers import converse, encode_rows
    from alignkd_lab.provenance import best_device, resolve_dtype

    device = best_device(device)
    dtype = getattr(torch, resolve_dtype(dtype, device))
    tokenizer = weights.load_tokenizer(model)
    encode_rows(tokenizer, rows)  # what the chat template refuses is refused before weights are read
    policy = Vllm(weights.resolve(model), dtype) if engine == "vllm" else models.read(model, device)
    answers: list[Turns] = []
    try:
        converse(policy, tokenizer, model, rows, answers, max_tokens=max_tokens, seed=seed, temperature=temperature,
                 dtype=dtype)  # fmt: skip
    except BaseException:  # of several turns those that were answered are kept
        if any(answers):
            out.with_name(f"{out.name}.part").write_text(_jsonl(chain(*answers)), encoding="utf-8")
        raise
    out.write_text(FORMATS[format].write(rows, answers, name), encoding="utf-8")
    return len(rows)


Turns = list[dict]  # of one prompt: `prompt`, `response` and `ended` of each turn (`lm.answers.converse`)


class Format(NamedTuple):
    check: Callable[[list[Prompt]], None]  # raises BadInput for a prompt that it cannot hold
    write: Callable[[list[Prompt], list[Turns], str], str]  # the file's text; the name is the model's


def _check_questions(prompts: list[Prompt]) -> None:
    seen: dict[object, int] = {}
    for prompt in prompts:
        number = prompt.fields.get("question_id")
        if not isinstance(number, int | str) or number == "":
            raise BadInput(f"prompts: row {prompt.row} has no question_id, by which MT-Bench finds an answer; add it")
        if number in seen:
            raise BadInput(f"prompts: rows {seen[number]} and {prompt.row} share question_id {number!r}; change one")
        if len(prompt.prompt) > 1:
            raise BadInput(f"prompts: row {prompt.row} holds messages; MT-Bench's questions are the user's turns alone")
        seen[number] = prompt.row


def _check_instructions(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        if prompt.later or len(prompt.prompt) > 1:
            raise BadInput(f"prompts: row {prompt.row} has several turns; AlpacaEval's instructions have one")


def _lines(prompts: list[Prompt], answers: list[Turns], name: str) -> str:
    return _jsonl(turns[-1] for turns in answers)


def _mt_bench(prompts: list[Prompt], answers: list[Turns], name: str) -> str:
    def line(prompt: Prompt, turns: Turns) -> dict:
        number, said = prompt.fields["question_id"], [turn["response"] for turn in turns]
        digest = hashlib.sha256(json.dumps([name, number, said]).encode()).hexdigest()
        return {"question_id": number, "answer_id": digest[:22], "model_id": name,
                "choices": [{"index": 0, "turns": said}], "tstamp": time.time()}  # fmt: skip

    return _jsonl(map(line, prompts, answers))


def _alpaca_eval(prompts: list[Prompt], answers: list[Turns], name: str) -> str:
    rows = [{"dataset": prompt.fields["dataset"]} if prompt.fields.get("dataset") else {} for prompt in prompts]
    for row, prompt, turns in zip(rows, prompts, answers, strict=True):
        row |= {"instruction": prompt.said, "output": turns[0]["response"], "generator": name}
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _jsonl(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMATS = {
    "jsonl": Format(lambda prompts: None, _lines),
    "mt-bench": Format(_check_questions, _mt_bench),
    "alpaca-eval": Format(_check_instructions, _alpaca_eval),
}
