"""The world in which ADPA's limits show: a truth, a reward, two teachers and a small student, all of them exact.

Truth: a random chain of tokens in which later tokens are rarer. Reward: the language world's own, the rule
"holds the target token" times fluency under the truth; so a response that nobody would write earns nothing.
Reference teacher: counted from the truth's responses. DPO teacher: what DPO ends in, the tilted optimum of the
reference under the Bradley-Terry reward that fits the pairs best (Rafailov et al. 2023, theorem 1); that reward
adds up over transitions, and pairs come from the reference, so on what the reference hardly ever says the
teacher knows nothing. Student: a bilinear model, too narrow for the chain, fitted to the reference's own data.

What is arbitrary here is borrowed: the reward from the language world, its height from the Gaussian world, and
beta = 1, which puts the advantage in units of the fitted reward. One choice decides what can be seen. Under a reward
that adds up over random transitions, or under the rule alone (both tried), the true reward rises with gamma to the
end, and only precision and recall tell how far ADPA went. It can fall only where strange text earns less than plain
text, as in the language world, and where no pair has told the teacher so.

The loss is the package's own, `lm.losses.adpa`: the student's logits are its hidden states and the identity is
its head, so that what is shown here is what happens to a language model. Over-optimisation is what the loss's own
term, the expected advantage, does not see: it keeps rising while the true reward falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.course.toy import language
from alignkd_lab.lm.losses import adpa
from alignkd_lab.lm.rewards import fluency
from alignkd_lab.lm.teachers import Full
from alignkd_lab.mog.mixture import SeedNoise

VOCABULARY, LENGTH = 8, 5  # tokens, and tokens a response
SLOPE, ROUGHNESS = 1.5, 0.7  # log p*(token | previous) is -SLOPE * log(the token's rank) + ROUGHNESS * normal noise
TARGET = 5  # the token that the reward wants, counted from 0, the commonest
REWARD_HEIGHT = 4.0  # in the Bradley-Terry labels of the pairs
REFERENCE_RESPONSES, SMOOTHING = 400, 0.5  # what the reference is counted from, and what is added to every count
PAIRS = 400  # of two responses of the reference
PRIOR_SD = 1.0  # of each transition's fitted reward
BETA = 1.0  # KL weight of DPO
WIDTH = 3  # of the student's hidden states: the chain does not fit in
RESPONSES = 200  # what the initial student writes once, for ADPA's states
FIT_STEPS, STEPS, LEARNING_RATE = 300, 100, 0.03  # of the student's first fit and of ADPA: Adam, on all data
_NEWTON_STEPS = 12


@dataclass(frozen=True)
class ToyWorld:
    """One world a seed. Tables `[seed, time, previous, token]`, tokens `[seed, response, time]`.

    truth, reference, dpo: log-probabilities, float64.
    reward: of every response, `[seed, R]`, R in `language.every_response`'s order.
    student: parameters of the initial student, see `student_logits`.
    chosen: the winner of every pair, for the NLL term. responses: what the initial student wrote.
    """

    seeds: tuple[int, ...]
    truth: Tensor
    reference: Tensor
    dpo: Tensor
    reward: Tensor
    student: tuple[Tensor, ...]
    chosen: Tensor
    responses: Tensor


def build(seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> ToyWorld:
    """The worlds of these seeds; a seed's world does not depend on the others."""
    noise = SeedNoise(tuple(seeds))
    rarity = SLOPE * torch.arange(1, VOCABULARY + 1, dtype=torch.float64).log()
    rough = ROUGHNESS * noise.normal("truth", VOCABULARY + 1, VOCABULARY)
    truth = _at_each_position(torch.log_softmax(rough - rarity, -1))
    on_target = (language.every_response(VOCABULARY, LENGTH) == TARGET).any(-1).double()
    reward = on_target * _fluency(truth)

    seen = language.sample(truth, noise.uniform("reference", REFERENCE_RESPONSES, LENGTH))
    counts = language.transition_counts(seen, VOCABULARY).sum((1, 2)) + SMOOTHING
    reference = _at_each_position(torch.log(counts / counts.sum(-1, keepdim=True)))
    winners, losers = _pairs(noise, reference, reward)
    dpo = language.tilted(reference, _at_each_position(fitted_reward(winners, losers)), BETA)

    student = _fit_student(noise, seen)
    responses = language.sample(log_policy(student), noise.uniform("responses", RESPONSES, LENGTH))
    return ToyWorld(tuple(seeds), truth, reference, dpo, reward, student, winners, responses)


def student_logits(parameters: Sequence[Tensor]) -> Tensor:
    """Logits `[seed, time, previous, token]` = (previous token's embedding + position's) · token's head + bias.

    parameters: embeddings `[seed, previous, width]`, positions `[seed, time, width]`, head `[seed, token, width]`,
    bias `[seed, token]`.
    """
    embeddings, positions, head, bias = parameters
    hidden = embeddings[:, None] + positions[:, :, None]
    return hidden @ head[:, None].mT + bias[:, None, None]


def log_policy(parameters: Sequence[Tensor]) -> Tensor:
    """The student's table of log-probabilities."""
    return torch.log_softmax(student_logits([each.detach() for each in parameters]), -1)


def _at_each_position(table: Tensor) -> Tensor:
    """`[seed, previous, token]` -> `[seed, time, previous, token]`."""
    return table.unsqueeze(-3).expand(-1, LENGTH, -1, -1)


def _fluency(truth: Tensor) -> Tensor:
    """The language world's fluency of every response, its quantiles taken exactly."""
    log_prob = language.every_log_prob(truth)
    per_token = log_prob / LENGTH
    ordered, order = per_token.sort(-1)
    reached = log_prob.gather(-1, order).exp().cumsum(-1)
    q05, q50 = (ordered.gather(-1, (reached < q).sum(-1, keepdim=True)).squeeze(-1).tolist() for q in (0.05, 0.5))
    judged = [fluency(each, low, middle) for each, low, middle in zip(per_token, q05, q50, strict=True)]
    return torch.stack([torch.as_tensor(each) for each in judged])


def _pairs(noise: SeedNoise, reference: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Winners and losers among the reference's responses, labelled by Bradley-Terry on the true reward."""
    tokens = language.sample(reference, noise.uniform("pairs", 2 * PAIRS, LENGTH))
    number = (tokens * VOCABULARY ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)  # in `every_response`
    (first, second), (left, right) = tokens.chunk(2, 1), (REWARD_HEIGHT * reward.gather(-1, number)).chunk(2, 1)
    prefers_first = (noise.uniform("labels", PAIRS) < theory.bradley_terry(left, right)).unsqueeze(-1)
    return torch.where(prefers_first, first, second), torch.where(prefers_first, second, first)


def fitted_reward(winners: Tensor, losers: Tensor) -> Tensor:
    """The transition reward `[seed, previous, token]` of greatest posterior under Bradley-Terry, by Newton's method."""
    counts = [language.transition_counts(tokens, VOCABULARY).sum(2).flatten(-2) for tokens in (winners, losers)]
    difference = counts[0] - counts[1]
    prior = torch.eye(difference.shape[-1], dtype=torch.float64) / PRIOR_SD**2
    reward = torch.zeros_like(difference[:, 0]).unsqueeze(-1)
    for _ in range(_NEWTON_STEPS):
        surprise = torch.sigmoid(-(difference @ reward))
        slope = difference.mT @ surprise - prior @ reward
        curvature = difference.mT @ (surprise * (1 - surprise) * difference) + prior
        reward = reward + torch.linalg.solve(curvature, slope)
    return reward.squeeze(-1).unflatten(-1, (VOCABULARY + 1, VOCABULARY))


def _fit_student(noise: SeedNoise, tokens: Tensor) -> tuple[Tensor, ...]:
    """Maximum likelihood on `tokens` from a small random start; every step sees all of them, as counts."""
    counts = language.transition_counts(tokens, VOCABULARY).sum(1)
    shares = counts / counts.sum((-3, -2, -1), keepdim=True)
    shapes = {"embeddings": VOCABULARY + 1, "positions": LENGTH, "head": VOCABULARY}
    start = [0.3 * noise.normal(f"student/{name}", count, WIDTH) for name, count in shapes.items()]
    parameters = tuple(p.requires_grad_() for p in (*start, torch.zeros_like(start[-1][..., 0])))
    adam = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
    for _ in range(FIT_STEPS):
        adam.zero_grad()
        # Summed over seeds, a mean for each, so that no seed's steps depend on how many others there are.
        (-(shares * torch.log_softmax(student_logits(parameters), -1)).sum()).backward()
        adam.step()
    return tuple(p.detach() for p in parameters)


def sweep(world: ToyWorld, gammas: Sequence[float], kl_weight: float = 0.0) -> pd.DataFrame:
    """Train the same initial student by ADPA at every gamma, held back by the KL to the reference teacher or not.

    gamma counts in units of A, whose size DPO's beta sets: halve beta, and the best gamma about halves. Where it lies
    here says nothing of where it lies in the paper.

    Returns:
        A row a gamma and seed after the last step: columns regulariser (`none`, or `KL` and its weight), gamma, seed,
        and those of `measure`.
    """
    name, frames = f"KL {kl_weight:g}" if kl_weight else "none", []
    for gamma in gammas:
        *_, parameters = train(world, gamma, kl_weight)
        frames.append(measure(world, log_policy(parameters)).assign(regulariser=name, gamma=float(gamma)))
    return pd.concat(frames, ignore_index=True)


def train(world: ToyWorld, gamma: float, kl_weight: float = 0.0):
    """Adam on the package's loss from the initial student, all seeds at once; yields the parameters after each step.

    The states are the initial student's responses, drawn once; y_w are winners of the DPO teacher's pairs.
    """
    parameters = [p.clone().requires_grad_() for p in world.student]
    adam = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
    tokens = torch.cat([world.chosen, world.responses], 1)
    is_chosen = torch.zeros(tokens.shape, dtype=torch.bool)
    is_chosen[:, : world.chosen.shape[1]] = True
    head = torch.eye(VOCABULARY, dtype=torch.float64)
    teacher, reference = (Full(language.rows(table, world.responses), head) for table in (world.dpo, world.reference))
    regulariser = {"regulariser": "kl", "regulariser_weight": kl_weight} if kl_weight else {}
    # Counted for one seed, so that no seed's steps depend on how many others there are.
    items = world.chosen[0].numel(), world.responses[0].numel()
    for _ in range(STEPS):
        yield parameters
        adam.zero_grad()
        logits, labels = language.rows(student_logits(parameters), tokens), tokens.flatten()
        chosen = is_chosen.flatten()
        adpa(logits, head, labels, teacher, reference, chosen, gamma=gamma, items=items, **regulariser)[0].backward()
        adam.step()
    yield parameters


def measure(world: ToyWorld, policy: Tensor) -> pd.DataFrame:
    """One row a seed, every number exact; `policy` is a table `[seed, time, previous, token]`.

    expected_advantage: the loss's own term, E_policy[A] on the initial student's states, nats per token.
    reward: of the policy's responses, as in the language world. overall_recall: nats per token.
    """
    states, own = (language.occupancy(each) for each in (log_policy(world.student), world.truth))
    found = {
        "expected_advantage": language.expected_sum(policy, world.dpo - world.reference, states) / LENGTH,
        "reward": (language.every_log_prob(policy).exp() * world.reward).sum(-1),
        "overall_recall": language.expected_sum(world.truth, policy, own) / LENGTH,
    }
    return pd.DataFrame({"seed": world.seeds} | {name: value.tolist() for name, value in found.items()})
