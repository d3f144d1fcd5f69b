"""Answers as files: JSON Lines of our own, and what the judges of MT-Bench and AlpacaEval read.

MT-Bench: a line a question, as `fastchat/llm_judge/gen_model_answer.py` of lm-sys/FastChat writes it. AlpacaEval: one
list, as the README of tatsu-lab/alpaca_eval describes `model_outputs`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import NamedTuple

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.own_prompts import Prompt

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
        if len(prompt.messages) > 1:
            raise BadInput(f"prompts: row {prompt.row} holds messages; MT-Bench's questions are the user's turns alone")
        seen[number] = prompt.row


def _check_instructions(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        if prompt.later or len(prompt.messages) > 1:
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
