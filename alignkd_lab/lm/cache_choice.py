"""What a cache keeps of each token: whole hidden states or k tokens and a tail; its size, and what it costs in error.

Hidden states give the whole distribution back through the teacher's head; top k with a tail is an approximation whose
size does not grow with the teacher. Left out: distributions as they are, V numbers a token.

Shapes: N response tokens, V vocabulary, d width of the teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.signals import Full, TopK, advantage, logits
from alignkd_lab.lm.teachers import HEAD_ROWS, LiveTeacher, log_norm, top_ids
from alignkd_lab.lm.trainer import products

KINDS = ("hidden", "topk")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROJECTED_TOKENS = 10_000 * 512  # responses × tokens that the table's gigabytes are for
ERROR_ROWS = 64  # rows compared at a time, V float64 numbers each


@dataclass(frozen=True)
class Choice:
    """What a cache keeps of each token.

    Attributes:
        kind: `hidden` (final hidden state) or `topk` (k tokens and a tail).
        dtype: of hidden states: `float32` is exact, `bfloat16` half the size (`lm.cache_table` measures the error).
        k: tokens that `topk` keeps, None for `hidden`.
    """

    kind: str = "hidden"
    dtype: str = "float32"
    k: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("kind", self.kind, KINDS)
        if self.dtype not in DTYPES:
            raise UnknownName("dtype", self.dtype, DTYPES)
        if self.kind == "hidden" and self.k is not None:
            raise BadInput(f"k: hidden states hold the whole vocabulary, not {self.k} tokens; use kind 'topk' for that")
        if self.kind == "topk" and (self.dtype != "float32" or not self.k or self.k < 1):
            raise BadInput(f"k: top k keeps 1 or more tokens in float32, not {self.k} in {self.dtype}")

    @property
    def label(self) -> str:
        return f"{self.dtype} hidden states" if self.kind == "hidden" else f"top {self.k} and tail"

    def bytes_per_token(self, width: int) -> int:
        """Bytes on disk for one response token of a teacher of this width."""
        return width * DTYPES[self.dtype].itemsize + 4 if self.kind == "hidden" else 8 * self.k + 4


def kept_rows(hidden: Tensor, head: Tensor, choice: Choice, ids: Tensor | None = None) -> dict[str, Tensor]:
    """What a cache keeps of N tokens, a row a token; `ids` [N, k] is the support, the teacher's own top k unless given.

    Hidden states come with the log_norm of what is kept of them, so that the distribution read back sums to one.
    """
    if choice.kind == "hidden":
        kept = hidden.to(DTYPES[choice.dtype])
        return {"hidden": kept, "log_norm": log_norm(kept.to(head.dtype), head)}
    ids = top_ids(hidden, head, choice.k) if ids is None else ids.to(hidden.device).long()
    parts = []
    for rows, support in zip(hidden.split(HEAD_ROWS), ids.split(HEAD_ROWS), strict=True):
        log_probs = logits(rows, head).log_softmax(-1)
        chosen = log_probs.gather(1, support)
        # Summed and not 1 - Σ p, of which nothing is left where the k tokens hold nearly all.
        parts.append((chosen, log_probs.scatter_(1, support, -torch.inf).logsumexp(-1)))
    log_probs, log_tail = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return {"ids": ids.int(), "log_probs": log_probs, "log_tail": log_tail}


def as_signal(rows: dict[str, Tensor], head: Tensor | None, device: torch.device) -> Full | TopK:
    """Kept rows as the losses read them, on `device`."""
    rows = {name: tensor.to(device) for name, tensor in rows.items()}
    if "hidden" in rows:
        return Full(rows["hidden"].to(head.dtype), head, rows["log_norm"])
    return TopK(rows["ids"].long(), rows["log_probs"], rows["log_tail"])


CHOICES = (Choice(), Choice(dtype="bfloat16"), Choice("topk", k=50), Choice("topk", k=500))


def cache_table(
    teacher: LiveTeacher,
    reference: LiveTeacher,
    examples: list[Example],
    *,
    student: LiveTeacher | None = None,
    choices: tuple[Choice, ...] = CHOICES,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Size of each choice and its measured error, against float64 values from the live hidden states.

    A is the advantage, log pi_dpo - log pi_ref of every token, and E_pi[A] what ADPA raises, pi being the student
    (the reference unless given), on whose top k a `topk` choice rests. Errors of log-probabilities and of A run over
    every token of the vocabulary alike, however unlikely; all are in nats, over all response tokens of the examples.

    Returns a row a choice, with
        bytes_per_token, gigabytes: of one teacher; of 10,000 responses of 512 tokens;
        log_prob_rms, log_prob_max: error of the teacher's log-probabilities;
        advantage_rms, advantage_max, expected_advantage_rms, expected_advantage_max: error of A and of E_pi[A];
    and in `attrs`: `tokens` compared, and the rms of `advantage` and `expected_advantage` themselves.

    Raises:
        BadInput: the examples hold no response, or a choice keeps more tokens than there are.
    """
    rows = [row for row in examples if row.responses]
    if not rows:
        raise BadInput("examples: hold no response to measure on; give some with responses")
    if too_many := [choice.k for choice in choices if (choice.k or 0) > len(teacher.head)]:
        raise BadInput(f"choices: top {too_many[0]} of a vocabulary of {len(teacher.head)}; choose fewer")
    student, found = student or reference, defaultdict(_Errors)
    heads = [teacher.head.double()]
    heads.append(heads[0] if reference.head is teacher.head else reference.head.double())
    with tqdm(total=len(rows), desc="measuring cached signals", unit="rows", disable=progress is not None) as bar:
        for row in rows:
            batch = collate([Example(row.prompt, row.responses)])
            states = []
            for who in (teacher, reference, student):
                with who.reading():
                    states.append(who.hidden(batch))
            with torch.no_grad():
                _compare(states, (teacher, reference, student), heads, choices, found)
            (progress or bar.update)(1)
    return _table(found, choices, teacher.head.shape[1])


def _table(found: dict[tuple, _Errors], choices: tuple[Choice, ...], width: int) -> pd.DataFrame:
    rows = []
    for choice in choices:
        size = choice.bytes_per_token(width)
        row = {"choice": choice.label, "bytes_per_token": size, "gigabytes": size * PROJECTED_TOKENS / 1e9}
        for what in ("log_prob", "advantage", "expected_advantage"):
            errors = found[choice, what]
            row |= {f"{what}_rms": errors.rms, f"{what}_max": errors.max}
        rows.append(row)
    made = pd.DataFrame(rows)
    sizes = {what: found["exact", what].rms for what in ("advantage", "expected_advantage")}
    made.attrs = {"tokens": found["exact", "expected_advantage"].count, **sizes}
    return made


class _Errors:
    """Root mean square and maximum of what was added."""

    def __init__(self) -> None:
        self._squares, self.count, self.max = 0.0, 0, 0.0

    def add(self, difference: Tensor) -> None:
        self._squares += float(difference.square().sum())
        self.count += difference.numel()
        self.max = max(self.max, float(difference.abs().max()))

    @property
    def rms(self) -> float:
        return (self._squares / self.count) ** 0.5


def _compare(states, teachers, heads, choices, found) -> None:
    own, other, pupil = teachers
    ids = {choice.k: top_ids(states[2], pupil.head, choice.k) for choice in choices if choice.kind == "topk"}
    for start in range(0, len(states[0]), ERROR_ROWS):
        part = slice(start, start + ERROR_ROWS)
        with products(own.head.device):  # the products that training uses are part of its error
            student = logits(states[2][part], pupil.head).log_softmax(-1)
        weights = student.double().exp()
        exact, anchor = (
            logits(hidden[part].double(), head).log_softmax(-1) for hidden, head in zip(states[:2], heads, strict=True)
        )
        gain = exact - anchor
        expected = torch.linalg.vecdot(weights, gain)
        found["exact", "advantage"].add(gain)
        found["exact", "expected_advantage"].add(expected)
        for choice in choices:
            support = ids[choice.k][part] if choice.kind == "topk" else None
            with products(own.head.device):
                said, anchored = (
                    as_signal(kept_rows(hidden[part], who.head, choice, support), who.head, who.head.device)
                    for hidden, who in zip(states[:2], (own, other), strict=True)
                )
                every = slice(0, len(student))
                log_probs = said.over_vocabulary(every, student)
                cached = advantage(said, anchored, every, student).double()
            found[choice, "log_prob"].add(log_probs.double() - exact)
            found[choice, "advantage"].add(cached - gain)
            found[choice, "expected_advantage"].add(torch.linalg.vecdot(weights, cached) - expected)
