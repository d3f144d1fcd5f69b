"""A language small enough to be computed exactly: a few tokens, short responses, one table per model.

A model is a table of next-token log-probabilities `[..., time, previous, token]`: what it says at position
`time` depends on the token just before and on nothing else. The last row of `previous` (`START`) stands for the
start of the response and is met at time 0 only. Expectations of anything that adds up over tokens are then one
pass over the positions; anything else is a sum over the list of all responses.

Left out, compared with text: prompts, an end token (every response is equally long), contexts of several tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

START = -1


def occupancy(log_policy: Tensor) -> Tensor:
    """P(previous token at each position): `[..., time, previous, token]` -> `[..., time, previous]`."""
    now = torch.zeros_like(log_policy[..., 0, :, 0])
    now[..., START] = 1.0
    visits = []
    for step in range(log_policy.shape[-3]):
        visits.append(now)
        reached = (now.unsqueeze(-1) * log_policy[..., step, :, :].exp()).sum(-2)
        now = torch.cat([reached, torch.zeros_like(reached[..., :1])], -1)
    return torch.stack(visits, -2)


def expected_sum(log_policy: Tensor, value: Tensor, visits: Tensor) -> Tensor:
    """The sum over a response's tokens of value(time, previous, token), its expectation, exact.

    Both `[..., time, previous, token]` -> `[...]`. The next tokens are the policy's, after what the owner of `visits`
    `[..., time, previous]` (`occupancy`) has said.
    """
    return (visits.unsqueeze(-1) * log_policy.exp() * value).sum((-3, -2, -1))


def tilted(log_reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """reference * exp(R / beta) / Z as next-token log-probabilities.

    R is the sum of reward(time, previous, token) over the response; both `[..., time, previous, token]`. Backwards
    from the last position, with the soft value v = log sum_a reference(a) exp(reward(a) / beta + v_next(a)): log
    policy = log reference + reward / beta + v_next - v. ADPA's advantage, log policy - log reference, is therefore
    the soft advantage of R / beta (PAPERS: ADPA, advantage).
    """
    value = torch.zeros_like(log_reference[..., 0, 0, :])
    tables = []
    for step in reversed(range(log_reference.shape[-3])):
        joint = log_reference[..., step, :, :] + reward[..., step, :, :] / beta + value.unsqueeze(-2)
        norm = joint.logsumexp(-1)
        tables.append(joint - norm.unsqueeze(-1))
        value = norm[..., :START]
    return torch.stack(tables[::-1], -3)


def every_response(vocabulary: int, length: int) -> Tensor:
    """All responses `[vocabulary ** length, length]`, the last position running fastest."""
    return torch.cartesian_prod(*[torch.arange(vocabulary)] * length).view(-1, length)


def every_log_prob(log_policy: Tensor) -> Tensor:
    """log-probability of every response, in `every_response`'s order: `[..., time, previous, token]` -> `[..., R]`."""
    total = log_policy[..., 0, START, :]
    for step in range(1, log_policy.shape[-3]):
        table = log_policy[..., step, :START, :].unsqueeze(-3)
        total = (total.unflatten(-1, (-1, table.shape[-2], 1)) + table).flatten(-3)
    return total


def sample(log_policy: Tensor, uniforms: Tensor) -> Tensor:
    """Responses by inversion: `[seed, time, previous, token]`, uniforms `[seed, response, time]` -> tokens alike."""
    edges = log_policy.exp().cumsum(-1)
    seed = torch.arange(len(edges)).unsqueeze(-1)
    previous = torch.full(uniforms.shape[:2], edges.shape[-1])
    tokens = []
    for step in range(uniforms.shape[-1]):
        here = edges[seed, step, previous]
        # Rounding may leave the last edge a hair below 1.
        previous = (uniforms[..., step, None] * here[..., -1:] >= here).sum(-1).clamp_max(edges.shape[-1] - 1)
        tokens.append(previous)
    return torch.stack(tokens, -1)


def previous_tokens(tokens: Tensor, vocabulary: int) -> Tensor:
    """The row of `previous` at each token, the start's first: `[..., time]` -> `[..., time]`."""
    return torch.cat([torch.full_like(tokens[..., :1], vocabulary), tokens[..., :-1]], -1)


def rows(table: Tensor, tokens: Tensor) -> Tensor:
    """The table's row at every token of every response, as the losses take them.

    table `[seed, time, previous, token]`, tokens `[seed, response, time]` -> `[seed * response * time, token]`.
    """
    seeds, length, contexts, vocabulary = table.shape
    where = torch.arange(seeds).view(-1, 1, 1) * length + torch.arange(length)
    index = where * contexts + previous_tokens(tokens, vocabulary)
    return table.reshape(-1, vocabulary).index_select(0, index.flatten())


def transition_counts(tokens: Tensor, vocabulary: int) -> Tensor:
    """How often each token follows each in a response, by position.

    tokens `[seed, response, time]` -> float64 `[seed, response, time, previous, token]`, 0 or 1.
    """
    pair = previous_tokens(tokens, vocabulary) * vocabulary + tokens
    counts = torch.zeros(*tokens.shape, (vocabulary + 1) * vocabulary, dtype=torch.float64)
    return counts.scatter_(-1, pair.unsqueeze(-1), 1.0).unflatten(-1, (vocabulary + 1, vocabulary))
