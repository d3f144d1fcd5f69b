"""The log-probability that a model gives to responses which are already written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch

from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, autocast, collate, hidden_states
from alignkd_lab.lm.chunked import default_chunk, token_log_probs
from alignkd_lab.lm.ranks import is_sharded
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.memory import halve

TIE = 1e-3  # nats: what rounding makes of equal policies


@torch.no_grad()  # FSDP2 would train on what it gathers in inference mode
def score(model, samples: Samples, batch: int = 96, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """log π(token) at temperature 1 of every token of the samples under `model`: a tensor a response.

    `batch` responses go through the model together, in matrix products of `dtype`; where memory runs out, half of them.

    Raises:
        BadInput: the model is refused (`lm.admission`).
        CannotContinue: not even one response fits in memory.
    """
    admit(model, reach=max((len(samples.prompt_ids[at]) + len(tokens) for at, tokens in
                            zip(samples.prompt_of, samples.tokens, strict=True)), default=0))  # fmt: skip
    scored: list[torch.Tensor] = [torch.empty(0)] * len(samples.tokens)
    way_out = "one response alone does not fit in scoring; lower max_tokens, or use a smaller model"
    limit = len(scored)
    for group in _groups(samples, batch):

        def work(size: int, group: list[tuple[int, int]] = group) -> None:
            for start in range(0, len(group), size):
                _score(model, samples, group[start : start + size], dtype, scored)

        if is_sharded(model):  # where memory runs out in one process, the others wait for it already
            halve(lambda _, group=group: work(len(group), group), 1, "score_batch", way_out)
            continue
        _, size = halve(work, min(limit, len(group)), "score_batch", way_out)
        limit = size if size < len(group) else limit
    return scored


def _groups(samples: Samples, batch: int) -> Iterator[list[tuple[int, int]]]:
    """Prompt and index of responses that are read together: at least `batch` of them, a prompt's responses whole."""
    members = [(prompt, chosen) for prompt, chosen in enumerate(samples.by_prompt()) if chosen]
    group: list[tuple[int, int]] = []
    for prompt, chosen in sorted(members, key=lambda item: (len(samples.prompt_ids[item[0]]), item[1])):
        group += [(prompt, index) for index in chosen]
        if len(group) >= batch:
            yield group
            group = []
    if group:
        yield group


def _score(model, samples: Samples, group: list[tuple[int, int]], dtype: torch.dtype, scored: list) -> None:
    """Fills in `scored` for these responses; those of a prompt share its row."""
    rows = [
        Example(samples.prompt_ids[prompt], [samples.tokens[index] for _, index in several])
        for prompt, several in groupby(group, key=lambda pair: pair[0])
    ]
    with autocast(model.device, dtype):
        packed = collate(rows)
        labels = packed["shift_labels"].to(model.device)
        states, head = hidden_states(model, packed), head_of(model)
        log_probs = token_log_probs(states, head, labels, default_chunk(head)).cpu()
    pieces = log_probs.split([len(samples.tokens[index]) for _, index in group])
    for (_, index), piece in zip(group, pieces, strict=True):
        scored[index] = piece.float()


def response_log_probs(model, examples: list[Example], dtype: torch.dtype) -> list[float]:
    """log π(response | prompt) of every response of the examples, one after another, nats."""
    of = [at for at, row in enumerate(examples) for _ in row.responses]
    tokens = [list(tokens) for row in examples for tokens in row.responses]
    scored = score(model, Samples([list(row.prompt) for row in examples], of, tokens), dtype=dtype)
    return [float(tokens.double().sum()) for tokens in scored]


def pooled_mean(log_probs: list[torch.Tensor]) -> float:
    """Mean over all tokens, nats per token."""
    return float(sum(tokens.sum() for tokens in log_probs) / sum(map(len, log_probs)))
