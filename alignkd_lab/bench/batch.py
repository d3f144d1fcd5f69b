"""The one batch that every row of the bench trains on: two pairs of random tokens, and what cached teachers say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alignkd_lab.lm.batch import Example, autocast, collate, hidden_states, plain
from alignkd_lab.lm.chunked import default_chunk, token_log_probs
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
def make_batch(model, length: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    """Random tokens of the model's vocabulary; time and memory do not depend on which. Read in products of `dtype`.

    The model itself serves as the reference teacher, and with noise on its hidden states as the aligned one, so that no
    other weights are needed. Reference log-probabilities are moved at random too, or every DPO margin would be zero.
    """
    draw = torch.Generator().manual_seed(seed)
    vocabulary = plain(model).config.vocab_size

    def tokens(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=draw).tolist()

    texts = [(tokens(PROMPT), [tokens(length), tokens(length)]) for _ in range(PAIRS)]
    plain_batch = collate([Example(prompt, responses) for prompt, responses in texts])
    head = plain(model).lm_head.weight.detach().clone()
    was_training = model.training
    model.eval()
    with autocast(head.device, dtype):
        hidden = hidden_states(model, plain_batch).float()
        labels = plain_batch["shift_labels"].to(head.device)
        log_probs = token_log_probs(hidden, head, labels, default_chunk(head))
        noise = torch.randn(hidden.shape, generator=draw).to(hidden)
        read = {"reference": hidden, "teacher": hidden + 0.3 * hidden.std() * noise}
        rows = {
            name: {"hidden": states.cpu(), "log_norm": log_norm(states, head).cpu()} for name, states in read.items()
        }
    model.train(was_training)
    sums = log_probs.view(-1, length).sum(1).cpu() + 5 * torch.randn(2 * PAIRS, generator=draw)
    parts = _parts(rows, length)
    pairs, written = [], []
    for index, (prompt, responses) in enumerate(texts):
        first, second = next(parts), next(parts)
        pairs.append(
            Example(prompt, responses, ["chosen", "rejected"], {"teacher": [first["teacher"], second["teacher"]]},
                    sums[2 * index : 2 * index + 2].tolist())
        )  # fmt: skip
        # ADPA's teachers read only what the student wrote.
        written.append(Example(prompt, responses, ["chosen", "sampled"], {name: [{}, second[name]] for name in second}))
    return Batch(pairs, written, head)


def _parts(rows: dict[str, dict[str, Tensor]], length: int) -> Iterator[dict[str, dict[str, Tensor]]]:
    """What each teacher says of one response after another."""
    for start in range(0, 2 * PAIRS * length, length):
        part = slice(start, start + length)
        yield {name: {key: tensor[part] for key, tensor in kept.items()} for name, kept in rows.items()}


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
