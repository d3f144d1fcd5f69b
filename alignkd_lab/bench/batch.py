"""The one batch that every row of the bench trains on: two pairs of random tokens, and what cached teachers say."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.lm.teachers import log_norm

PAIRS = 2
PROMPT = 32  # tokens of each prompt
ALPHA, GAMMA, BETA = 0.2, 1.5, 0.1


class Batch(NamedTuple):
    """Two prompts with two responses each, `length` tokens long, read beforehand by the teachers and the reference."""

    pairs: list[Example]  # chosen and rejected; the teacher has read both
    written: list[Example]  # the same tokens as chosen and sampled; both teachers have read the sampled ones, for ADPA
    head: Tensor  # [V, d], frozen: the head that both teachers share

    def examples(self, method: str) -> list[Example]:
        return self.written if method == "adpa" else self.pairs


@torch.no_grad()
def make_batch(model, length: int, seed: int = 0) -> Batch:
    """Random tokens, hidden states of teachers and reference log-probabilities: no cost depends on which."""
    draw, config = torch.Generator().manual_seed(seed), plain(model).config
    head = plain(model).lm_head.weight.detach().clone()

    def tokens(count: int) -> list[int]:
        return torch.randint(config.vocab_size, (count,), generator=draw).tolist()

    def read() -> dict[str, Tensor]:
        hidden = torch.randn(length, config.hidden_size, generator=draw)
        return {"hidden": hidden, "log_norm": log_norm(hidden.to(head), head).cpu()}

    pairs, written = [], []
    for _ in range(PAIRS):
        prompt, responses = tokens(PROMPT), [tokens(length), tokens(length)]
        reference = (5 * torch.randn(2, generator=draw) - length * math.log(config.vocab_size)).tolist()
        pairs.append(Example(prompt, responses, ["chosen", "rejected"], {"teacher": [read(), read()]}, reference))
        # ADPA's teachers read only what the student wrote.
        signals = {name: [{}, read()] for name in ("teacher", "reference")}
        written.append(Example(prompt, responses, ["chosen", "sampled"], signals))
    return Batch(pairs, written, head)


def one_response_a_row(examples: list[Example]) -> list[Example]:
    """The same responses as examples of their own, each with its prompt: the usual form, not packed."""
    return [
        Example(
            example.prompt,
            [response],
            [example.roles[index]],
            {name: [kept[index]] for name, kept in example.signals.items()},
            example.reference_log_probs[index : index + 1],
        )
        for example in examples
        for index, response in enumerate(example.responses)
    ]
