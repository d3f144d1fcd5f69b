"""From prompts with responses to tensors: all responses to a prompt in one row, the prompt read once.

A row holds the prompt and then every response; a response's tokens see the prompt and their own past,
never one another, and positions start again after the prompt, so each response is scored as if it stood
alone. With eight short responses to a prompt that is about a third fewer tokens than eight rows. Long responses get
rows of their own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.architecture import backbone, masks, plain, to_head
from alignkd_lab.lm.vocabulary import same_vocabulary

ROLES = ("chosen", "rejected", "sampled")
# What a token costs a block of SmolLM2-135M, in pairs of positions that attend: 2 weights / 4 width.
TOKEN_COST = 3000


@dataclass(slots=True)
class Example:
    """A prompt, its responses (with their end tokens), and what a loss wants to know of each.

    Attributes:
        prompt: token ids, a list or an `array`.
        responses: token ids of each response, none empty.
        roles: what each response is, one of `ROLES`; all are "sampled" unless given.
        signals: what teachers say of each token, by the teacher's name: for each response a dict of tensors with a row
            a token (see `lm.teachers`), empty where that teacher has not read the response.
        reference_log_probs: log-probability of each response under the reference, a number a response.
        advantages: how much more each response earned than the others to its prompt.

    Raises:
        BadInput: an empty prompt or response, or roles that are not one of `ROLES` for each response.
    """

    prompt: list[int]
    responses: list[list[int]]
    roles: list[str] = field(default_factory=list)
    signals: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict)
    reference_log_probs: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roles = self.roles or ["sampled"] * len(self.responses)
        if not len(self.prompt):
            raise BadInput(
                "prompt: holds no token, so nothing predicts a response's first; start it with a begin token"
            )
        if not all(map(len, self.responses)):
            empty = [len(tokens) for tokens in self.responses].index(0)
            raise BadInput(f"responses: response {empty + 1} is empty; leave it out, or give it its end token")
        if len(self.roles) != len(self.responses) or not set(self.roles) <= set(ROLES):
            raise BadInput(f"roles: {self.roles} must be one of {', '.join(ROLES)} for each of {len(self.responses)}")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Its token ids up to where the answer starts, and what a reward reads of it: a text, or messages."""

    prompt: list[int]
    said: str | list[dict[str, str]]


def token_counts(examples: list[Example]) -> dict[str, int]:
    """Response tokens of each role, `pairs` of a chosen and a rejected response, and `tokens` in all.

    `chosen_responses` and `sampled_responses` count responses.
    """
    counts = dict.fromkeys(ROLES, 0)
    for example in examples:
        for role, tokens in zip(example.roles, example.responses, strict=True):
            counts[role] += len(tokens)
    chosen, pairs, sampled = (sum(example.roles.count(role) for example in examples) for role in ROLES)
    responses = {"chosen_responses": chosen, "sampled_responses": sampled}
    return {**counts, **responses, "pairs": pairs, "tokens": sum(counts.values())}


def collate(examples: list[Example]) -> dict:
    """Tensors of a batch.

    Returns a dict with
        input_ids, position_ids: [rows, time]; attention_mask: bool [rows, 1, time, time];
        predict_at: flat index (row × time + position) of the hidden state that predicts each response token, [N];
        shift_labels: the response tokens, [N];
        response: index of the response that each token belongs to, counted over the batch, [N];
        role: index in `ROLES` of that response, [N];
        signals: by teacher, what it says of each token of the responses that it has read, in their order;
        reference_log_probs, advantages [responses]: where the examples carry them.
    """
    # The last token of a response predicts nothing, so it is a label and never an input.
    rows = [part for example in examples for part in _rows(example)]
    width = max(len(prompt) + sum(len(tokens) - 1 for tokens, _ in responses) for prompt, responses in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # 0 the prompt, 1... the responses, -1 padding
    predict_at, labels, response, role, count = [], [], [], [], 0
    for row, (prompt_ids, responses) in enumerate(rows):
        prompt = len(prompt_ids)
        ids[row, :prompt] = torch.tensor(prompt_ids)
        positions[row, :prompt] = torch.arange(prompt)
        segment[row, :prompt] = 0
        start = prompt
        for number, (tokens, kind) in enumerate(responses, 1):
            read = len(tokens) - 1
            ids[row, start : start + read] = torch.tensor(tokens[:-1], dtype=torch.long)
            positions[row, start : start + read] = prompt + torch.arange(read)
            segment[row, start : start + read] = number
            predict_at += [row * width + prompt - 1, *range(row * width + start, row * width + start + read)]
            labels += tokens
            response += [count] * len(tokens)
            role += [ROLES.index(kind)] * len(tokens)
            start, count = start + read, count + 1
    same = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    real = (segment >= 0)[:, None, :]
    # A padded position looks at itself, since a row of nothing but False would make NaN.
    mask = (same & causal & real) | torch.eye(width, dtype=torch.bool)
    batch = {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": mask[:, None],
        "predict_at": torch.tensor(predict_at),
        "shift_labels": torch.tensor(labels),
        "response": torch.tensor(response),
        "role": torch.tensor(role),
        "signals": _join(examples),
    }
    for name in ("reference_log_probs", "advantages"):
        if values := [value for example in examples for value in getattr(example, name)]:
            batch[name] = torch.tensor(values)
    return batch


def _rows(example: Example) -> list[tuple[list[int], list[tuple[list[int], str]]]]:
    """One row for all responses; a row for each where their attention would cost more than reading the prompt again."""
    responses = list(zip(example.responses, example.roles, strict=True))
    prompt, lengths = len(example.prompt), [len(tokens) for tokens in example.responses]
    attention = (prompt + sum(lengths)) ** 2 - sum((prompt + length) ** 2 for length in lengths)
    if len(lengths) < 2 or attention <= TOKEN_COST * prompt * (len(lengths) - 1):
        return [(example.prompt, responses)]
    return [(example.prompt, [response]) for response in responses]


def _join(examples: list[Example]) -> dict[str, dict[str, Tensor]]:
    """What each teacher says, over all responses that it has read."""
    joined = {}
    for name in examples[0].signals:
        read = [rows for example in examples for rows in example.signals[name] if rows]
        joined[name] = {key: torch.cat([rows[key] for rows in read]) for key in read[0]} if read else {}
    return joined


def has_role(batch: dict, roles: tuple[str, ...] | None) -> Tensor:
    """Which tokens of a collated batch belong to responses of these roles, bool [N]; None is every role."""
    wanted = [ROLES.index(role) for role in check_roles(roles or ROLES)]
    return torch.isin(batch["role"], torch.tensor(wanted, device=batch["role"].device))


def check_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """The roles; raises UnknownName where one is none."""
    for role in roles:
        if role not in ROLES:
            raise UnknownName("role", role, ROLES)
    return roles


def is_chosen(batch: dict) -> Tensor:
    return has_role(batch, ("chosen",))


def autocast(device: torch.device | str, dtype: torch.dtype):
    """The context in which forward passes multiply in `dtype`, over float32 weights."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype) if dtype == torch.bfloat16 else contextlib.nullcontext()


def hidden_states(model, batch: dict) -> Tensor:
    """Final hidden states that predict the response tokens, [N, width]; the head (`head_of`) has not run yet."""
    same_vocabulary(model, batch)
    device = plain(model).device
    mask, positions = batch["attention_mask"].to(device), batch["position_ids"].to(device)
    states = backbone(model)(
        input_ids=batch["input_ids"].to(device),
        attention_mask=masks(model, mask, positions),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    return to_head(model, states.flatten(0, 1)[batch["predict_at"].to(device)])
