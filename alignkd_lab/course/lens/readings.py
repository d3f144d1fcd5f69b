"""Three models read one response: what the reference teacher, the DPO teacher and the student say of each token.

Every number per token is what the package's own losses found. Shapes: N response tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alignkd_lab.lm import losses
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.teachers import Full, LiveTeacher

MODELS = ("reference", "dpo", "student")


@dataclass(frozen=True)
class Reading:
    """A response to a prompt, and what each model says at each of its tokens.

    prompt: token ids. labels: int64 [N], the response's tokens.
    reference, dpo, student: hidden states that predict those tokens, and heads.
    """

    prompt: list[int]
    labels: Tensor
    reference: Full
    dpo: Full
    student: Full

    @cached_property
    def log_probs(self) -> dict[str, Tensor]:
        """By model, log-probabilities of every token of the vocabulary at every position, float32 [N, V]."""
        return {name: getattr(self, name).over_vocabulary(slice(None)) for name in MODELS}

    @cached_property
    def advantages(self) -> Tensor:
        """A = log pi_dpo - log pi_ref of every token at every position, nats, [N, V]."""
        return self.log_probs["dpo"] - self.log_probs["reference"]

    @cached_property
    def log_ratio(self) -> Tensor:
        """A of the token that stands there, [N]; their sum is DPO's implicit reward of the response over beta."""
        return self.advantages.gather(1, self.labels[:, None]).squeeze(1)

    @cached_property
    def adpa(self) -> losses.AdpaInfo:
        """What ADPA's loss sees if the student wrote this response: expected and largest advantage of each token."""
        written, (hidden, head, _) = torch.zeros_like(self.labels, dtype=torch.bool), self.student
        with torch.no_grad():
            return losses.adpa(hidden, head, self.labels, self.dpo, self.reference, written)[1]

    @cached_property
    def dckd(self) -> losses.DckdInfo:
        """What DCKD's loss sees of this response: KL(pi_dpo || pi) of each token, and the entropies."""
        chosen, (hidden, head, _) = torch.ones_like(self.labels, dtype=torch.bool), self.student
        with torch.no_grad():
            return losses.dckd(hidden, head, self.labels, self.dpo, chosen)[1]


def read(prompt: list[int], response: list[int], teacher, student) -> Reading:
    """All three models on one response, given as token ids.

    Args:
        teacher: a PEFT model, the DPO teacher; without its adapter it is the reference (`course.lens.quick_dpo`).
        student: a model with the teacher's vocabulary.
    """
    batch = collate([Example(prompt, [response])])
    reference, dpo = (LiveTeacher(teacher, without_adapter=bare).signal(batch) for bare in (True, False))
    return Reading(prompt, batch["shift_labels"], reference, dpo, LiveTeacher(student).signal(batch))


def in_words(tokenizer, token: int) -> str:
    """A token as a page can show it: line ends and tabs as signs, what a font may lack by its number."""
    text = tokenizer.decode([token]).replace("\n", "↵").replace("\t", "⇥")
    return "".join(sign if _drawn(sign) else ascii(sign)[1:-1] for sign in text)


def with_space(words: str) -> str:
    """A token in words with its space as a sign, so that `red` and ` red` differ."""
    return words.replace(" ", "␣")


def _drawn(sign: str) -> bool:
    """Whether the pictures' font is sure to have the sign: Latin, Greek, Cyrillic, and some others."""
    return sign in "↵⇥…–—‘’“”" or (sign.isprintable() and ord(sign) < 0x530)
