"""The log-probability that a model gives to responses which are already written."""

from __future__ import annotations

import torch

from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, autocast, collate, hidden_states
from alignkd_lab.lm.chunked import default_chunk, token_log_probs
from alignkd_lab.lm.sampling import Samples


@torch.inference_mode()
def score(model, samples: Samples, batch: int = 96, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """log π(token) at temperature 1 of every token of the samples under `model`: a tensor a response.

    `batch` responses go through the model together, in matrix products of `dtype`. Raises BadInput where the model is
    refused (`lm.admission`).
    """
    admit(model, reach=max((len(samples.prompt_ids[at]) + len(tokens) for at, tokens in
                            zip(samples.prompt_of, samples.tokens, strict=True)), default=0))  # fmt: skip
    scored: list[torch.Tensor] = [torch.empty(0)] * len(samples.tokens)
    group: list[tuple[int, list[int]]] = []

    def flush() -> None:
        rows = [Example(samples.prompt_ids[prompt], [samples.tokens[i] for i in chosen]) for prompt, chosen in group]
        with autocast(model.device, dtype):
            packed = collate(rows)
            labels = packed["shift_labels"].to(model.device)
            states, head = hidden_states(model, packed), head_of(model)
            log_probs = token_log_probs(states, head, labels, default_chunk(head)).cpu()
        indices = [i for _, chosen in group for i in chosen]
        pieces = log_probs.split([len(samples.tokens[i]) for i in indices])
        for index, piece in zip(indices, pieces, strict=True):
            scored[index] = piece.float()
        group.clear()

    members = [(prompt, chosen) for prompt, chosen in enumerate(samples.by_prompt()) if chosen]
    for prompt, chosen in sorted(members, key=lambda item: (len(samples.prompt_ids[item[0]]), item[1])):
        group.append((prompt, chosen))
        if sum(len(chosen) for _, chosen in group) >= batch:
            flush()
    if group:
        flush()
    return scored


def pooled_mean(log_probs: list[torch.Tensor]) -> float:
    """Mean over all tokens, nats per token."""
    return float(sum(tokens.sum() for tokens in log_probs) / sum(map(len, log_probs)))
