"""The texts of the token lens, and the three models that read them.

The reference teacher is SmolLM2 itself, the DPO teacher the same weights with an adapter trained here and now on a few
written pairs, the student the shipped healed one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignkd_lab.course.lens.quick_dpo import dpo_teacher, response
from alignkd_lab.course.lens.readings import Reading, read
from alignkd_lab.lm import weights
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.student import healed_student
from alignkd_lab.lm.templates import encode

# A topic of the test prompts, so that no pair of `course.lens.quick_dpo` speaks of it.
PROMPT = "Write one sentence about a balloon."
WRITTEN = {
    "chosen": "A red balloon drifts over the quiet town.",
    "rejected": "A small balloon drifts over the quiet town.",
}
TEXTS = {
    "chosen": "a chosen response, as in preference data",
    "rejected": "a rejected response",
    "student": "what the student wrote",
}
_STUDENT_TOKENS = 24
_GREEDY = 0.02  # a temperature at which the likeliest token is drawn, as ADPA's published recipe does


@dataclass(frozen=True)
class Lens:
    """Three models, and the texts that they have read, by the names of `TEXTS`."""

    tokenizer: Any
    teacher: Any
    student: Any
    readings: Mapping[str, Reading]


@functools.cache
def load() -> Lens:
    """The real models and texts, made once: about ten seconds, most of them for the DPO teacher.

    Raises:
        CannotContinue: the weights cannot be fetched.
    """
    base, tokenizer = weights.load(weights.BUILT_IN)
    return look(tokenizer, dpo_teacher(base, tokenizer), healed_student())


def look(tokenizer, teacher, student, prompt: str = PROMPT, written: Mapping[str, str] = WRITTEN) -> Lens:
    """Let three models read a pair of responses, and one that the student writes.

    Args:
        teacher: a PEFT model, the DPO teacher; without its adapter it is the reference.
        written: the chosen and the rejected response.
    """
    ids = encode(tokenizer, [prompt])
    (own,) = sample(student, ids, 1, _STUDENT_TOKENS, tokenizer.eos_token_id, seed=0, temperature=_GREEDY).tokens
    tokens = {name: response(tokenizer, written[name]) for name in WRITTEN} | {"student": own}
    readings = {name: read(ids[0], tokens[name], teacher, student) for name in TEXTS}
    return Lens(tokenizer, teacher, student, readings)
