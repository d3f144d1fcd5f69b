"""The world in which ADPA's limits show: a truth, a reward, two teachers and a small student, all of them exact.

Truth: a random chain of tokens in which later tokens are rarer. Reward: the language world's own, the rule
"holds the target token" times fluency under the truth; so a response that nobody would write earns nothing.
Reference teacher: counted from the truth's responses. DPO teacher: what DPO ends in, the tilted optimum of the
reference under the Bradley-Terry reward that fits the pairs best (Rafailov et al. 2023, theorem 1); that reward
adds up over transitions, and pairs come from the reference, so on what the reference hardly ever says the
teacher knows nothing. Student: a bilinear model, too narrow for the chain, fitted to the reference's own data.

What is arbitrary here is borrowed: the reward from the language world, its height from the Gaussian world, and
beta = 1, which puts the advantage in units of the fitted reward. One choice decides what can be seen. Under a reward
that adds up over random transitions (tried first), or under the rule alone (`reward="rule"`), the true reward rises
with gamma to the end, and only precision and recall tell how far ADPA went. It can fall only where strange text
earns less than plain text, as in the language world, and where no pair has told the teacher so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.course.toy import language
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.rewards import fluency
from alignkd_lab.mog.mixture import SeedNoise

REWARDS = ("likelihood", "rule")
_MOST_RESPONSES = 300_000
_NEWTON_STEPS = 12


@dataclass(frozen=True)
class ToySettings:
    """Everything that the toy world depends on besides its seeds.

    vocabulary, length: tokens, and tokens a response; all `vocabulary ** length` responses are listed.
    slope, roughness: log p*(token | previous) is -slope * log(rank of the token) + roughness * normal noise.
    target: the token that the reward wants, counted from 0, the commonest.
    reward: `likelihood` (the rule times fluency under the truth) or `rule`, as in the language world.
    reward_height: of the reward in the judge's Bradley-Terry labels.
    reference_responses, smoothing: what the reference is counted from, and what is added to every count.
    pairs: the judge's comparisons of two responses of the reference.
    prior_sd: standard deviation of the prior on each transition's fitted reward.
    beta: KL weight of DPO.
    width: of the student's hidden states; below `vocabulary - 1` the chain does not fit in.
    responses: what the initial student writes once, for ADPA's states.
    fit_steps, steps, learning_rate: of the student's first fit and of ADPA (Adam, every step on all data).

    Raises:
        BadInput: a value that cannot be used; the message names the field.
    """

    vocabulary: int = 8
    length: int = 5
    slope: float = 1.5
    roughness: float = 0.7
    target: int = 5
    reward: str = "likelihood"
    reward_height: float = 4.0
    reference_responses: int = 400
    smoothing: float = 0.5
    pairs: int = 400
    prior_sd: float = 1.0
    beta: float = 1.0
    width: int = 3
    responses: int = 200
    fit_steps: int = 300
    steps: int = 150
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("target", "reward", "roughness") and not value > 0:
                raise BadInput(f"{name} must be above 0, not {value!r}")
        if self.reward not in REWARDS:
            raise UnknownName("reward", self.reward, REWARDS)
        if not 0 <= self.target < self.vocabulary:
            raise BadInput(f"target must lie between 0 and {self.vocabulary - 1}, not {self.target!r}")
        if self.vocabulary**self.length > _MOST_RESPONSES:
            raise BadInput(
                f"vocabulary ** length is {self.vocabulary**self.length:,}; above {_MOST_RESPONSES:,} responses the "
                "list of all of them no longer fits: use fewer tokens or shorter responses"
            )


@dataclass(frozen=True)
class ToyWorld:
    """One world a seed. Tables `[seed, time, previous, token]`, tokens `[seed, response, time]`.

    truth, reference, dpo: log-probabilities, float64. fitted_reward: what the DPO teacher maximises.
    reward, fluency, on_target: of every response, `[seed, R]`, R in `language.every_response`'s order.
    student: parameters of the initial student, see `student_logits`.
    chosen: the winner of every pair, for the NLL term. responses: what the initial student wrote.
    """

    settings: ToySettings
    seeds: tuple[int, ...]
    truth: Tensor
    reference: Tensor
    dpo: Tensor
    fitted_reward: Tensor
    reward: Tensor
    fluency: Tensor
    on_target: Tensor
    student: tuple[Tensor, ...]
    chosen: Tensor
    responses: Tensor

    @property
    def advantage(self) -> Tensor:
        """A = log pi_dpo - log pi_ref of every token at every state."""
        return self.dpo - self.reference

    @property
    def initial_student(self) -> Tensor:
        """The initial student's table of log-probabilities."""
        return log_policy(self.student)


def build(settings: ToySettings | None = None, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> ToyWorld:
    """The worlds of these seeds; a seed's world does not depend on the others."""
    settings, noise = settings or ToySettings(), SeedNoise(tuple(seeds))
    vocabulary, length = settings.vocabulary, settings.length
    truth = _truth(settings, noise)
    on_target = (language.every_response(vocabulary, length) == settings.target).any(-1).double()
    fluent = _fluency(truth)
    reward = on_target * (fluent if settings.reward == "likelihood" else torch.ones_like(fluent))

    seen = language.sample(truth, noise.uniform("reference", settings.reference_responses, length))
    counts = language.transition_counts(seen, vocabulary).sum((1, 2)) + settings.smoothing
    reference = language.by_position(torch.log(counts / counts.sum(-1, keepdim=True)), length)
    winners, losers = _pairs(settings, noise, reference, reward)
    fitted = language.by_position(_fitted_reward(winners, losers, vocabulary, settings.prior_sd), length)
    dpo, _ = language.tilted(reference, fitted, settings.beta)

    student = _fit_student(settings, noise, seen)
    responses = language.sample(log_policy(student), noise.uniform("responses", settings.responses, length))
    tables = (truth, reference, dpo, fitted, reward, fluent, on_target)
    return ToyWorld(settings, tuple(seeds), *tables, student, winners, responses)


def student_logits(parameters: tuple[Tensor, ...]) -> Tensor:
    """Logits `[seed, time, previous, token]` = (previous token's embedding + position's) · token's head + bias.

    parameters: embeddings `[seed, previous, width]`, positions `[seed, time, width]`, head `[seed, token, width]`,
    bias `[seed, token]`.
    """
    embeddings, positions, head, bias = parameters
    hidden = embeddings[:, None] + positions[:, :, None]
    return hidden @ head[:, None].mT + bias[:, None, None]


def log_policy(parameters: tuple[Tensor, ...]) -> Tensor:
    """The student's table of log-probabilities."""
    return torch.log_softmax(student_logits(tuple(p.detach() for p in parameters)), -1)


def _truth(settings: ToySettings, noise: SeedNoise) -> Tensor:
    rarity = settings.slope * torch.arange(1, settings.vocabulary + 1, dtype=torch.float64).log()
    rough = settings.roughness * noise.normal("truth", settings.vocabulary + 1, settings.vocabulary)
    return language.by_position(torch.log_softmax(rough - rarity, -1), settings.length)


def _fluency(truth: Tensor) -> Tensor:
    """The language world's fluency of every response, its quantiles taken exactly."""
    log_prob = language.every_log_prob(truth)
    per_token = log_prob / truth.shape[-3]
    ordered, order = per_token.sort(-1)
    reached = log_prob.gather(-1, order).exp().cumsum(-1)
    q05, q50 = (ordered.gather(-1, (reached < q).sum(-1, keepdim=True)).squeeze(-1).tolist() for q in (0.05, 0.5))
    judged = [fluency(each, low, middle) for each, low, middle in zip(per_token, q05, q50, strict=True)]
    return torch.stack([torch.as_tensor(each) for each in judged])


def _pairs(settings: ToySettings, noise: SeedNoise, reference: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Winners and losers among the reference's responses, labelled by Bradley-Terry on the true reward."""
    tokens = language.sample(reference, noise.uniform("pairs", 2 * settings.pairs, settings.length))
    earned = settings.reward_height * reward.gather(-1, language.response_number(tokens, settings.vocabulary))
    (first, second), (earned_first, earned_second) = tokens.chunk(2, 1), earned.chunk(2, 1)
    prefers_first = noise.uniform("labels", settings.pairs) < theory.bradley_terry(earned_first, earned_second)
    prefers_first = prefers_first.unsqueeze(-1)
    return torch.where(prefers_first, first, second), torch.where(prefers_first, second, first)


def _fitted_reward(winners: Tensor, losers: Tensor, vocabulary: int, prior_sd: float) -> Tensor:
    """The transition reward `[seed, previous, token]` of greatest posterior under Bradley-Terry, by Newton's method."""
    counts = [language.transition_counts(tokens, vocabulary).sum(2).flatten(-2) for tokens in (winners, losers)]
    difference = counts[0] - counts[1]
    prior = torch.eye(difference.shape[-1], dtype=torch.float64) / prior_sd**2
    reward = torch.zeros_like(difference[:, 0]).unsqueeze(-1)
    for _ in range(_NEWTON_STEPS):
        surprise = torch.sigmoid(-(difference @ reward))
        slope = difference.mT @ surprise - prior @ reward
        curvature = difference.mT @ (surprise * (1 - surprise) * difference) + prior
        reward = reward + torch.linalg.solve(curvature, slope)
    return reward.squeeze(-1).unflatten(-1, (vocabulary + 1, vocabulary))


def _fit_student(settings: ToySettings, noise: SeedNoise, tokens: Tensor) -> tuple[Tensor, ...]:
    """Maximum likelihood on `tokens` from a small random start; every step sees all of them, as counts."""
    vocabulary, width = settings.vocabulary, settings.width
    counts = language.transition_counts(tokens, vocabulary).sum(1)
    shares = counts / counts.sum((-3, -2, -1), keepdim=True)
    shapes = {"embeddings": vocabulary + 1, "positions": settings.length, "head": vocabulary}
    start = [0.3 * noise.normal(f"student/{name}", count, width) for name, count in shapes.items()]
    parameters = tuple(p.requires_grad_() for p in (*start, torch.zeros_like(start[-1][..., 0])))
    adam = torch.optim.Adam(parameters, settings.learning_rate, fused=True)
    for _ in range(settings.fit_steps):
        adam.zero_grad()
        # Summed over seeds, a mean for each, so that no seed's steps depend on how many others there are.
        (-(shares * torch.log_softmax(student_logits(parameters), -1)).sum()).backward()
        adam.step()
    return tuple(p.detach() for p in parameters)
