"""Go or no go, before a night of computing: is there enough for DPO to learn from?

A pair teaches only where one response shows the target and another to the same prompt does not. With a rule as reward a
prompt with H hits among n responses yields min(H, n - H) pairs (`lm.preferences`), and H is binomial at the base rate.
Taken as equal for all prompts, the rate gives the exact distribution of the pairs of a run. Left out: that prompts
differ (for rare targets it hardly matters), and that a hit which the truth finds implausible earns nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alignkd_lab.claims import LEAST_PAIRS
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import apply_rule
from alignkd_lab.stats import Interval, wilson_interval

SURE = 0.9  # go above this chance of enough pairs, no go below 1 - SURE


def expected_pairs(rate, prompts: int, responses) -> np.ndarray:
    """Informative pairs on average: prompts × E[min(H, n - H)], H ~ Binomial(n, rate).

    Args:
        rate: how often a response shows the target, a share; broadcasts with `responses`.
        prompts: how many prompts.
        responses: n, responses to each prompt, whole numbers.

    Raises:
        BadInput: a rate that is no share, or fewer than 1 prompt or 2 responses.
    """
    from scipy import stats

    rate, responses = _check(rate, prompts, responses)
    rate, responses = np.broadcast_arrays(rate, responses)
    hits = np.arange(responses.max() + 1)
    weights = stats.binom.pmf(hits, responses[..., None], rate[..., None])
    return prompts * (weights * np.clip(np.minimum(hits, responses[..., None] - hits), 0, None)).sum(-1)


def chance_of_pairs(rate, prompts: int, responses, least: int = LEAST_PAIRS) -> np.ndarray:
    """P(at least `least` informative pairs), exact; arguments and errors as of `expected_pairs`.

    The pairs of all prompts sum to fewer with the first coefficients of a polynomial's power: the pairs of one prompt
    to the power of the number of prompts.
    """
    from scipy import stats

    rate, responses = np.broadcast_arrays(*_check(rate, prompts, responses))
    degrees = np.arange(least)
    few, many = degrees, responses[..., None] - degrees
    one = stats.binom.pmf(few, responses[..., None], rate[..., None])
    one = np.where(few < many, one + stats.binom.pmf(many, responses[..., None], rate[..., None]), one)
    one = np.where(few <= many, one, 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        none_at_all = prompts * np.log(one[..., 0])
        powers = _power(one / one[..., :1], prompts)
        fewer = powers.sum(-1) * np.exp(none_at_all)
    # Where no prompt at all without a pair is that unlikely, far more pairs than `least` are sure.
    return np.where(none_at_all < -600, 1.0, 1 - np.clip(fewer, 0, 1))


def responses_for(rate: float, prompts: int, pairs: float = LEAST_PAIRS, most: int = 4096) -> int | None:
    """Fewest responses a prompt from which `pairs` informative pairs are expected; None if `most` do not suffice."""
    if expected_pairs(rate, prompts, most) < pairs:
        return None
    # More responses never give fewer pairs, so bisection finds the first that suffice.
    return 2 + bisect.bisect_left(range(2, most + 1), pairs, key=lambda count: expected_pairs(rate, prompts, count))


@dataclass(frozen=True)
class Verdict:
    """What a few draws of the base predict for a run; of each interval the estimate, and both ends of the rate's.

    Attributes:
        rate: how often the base shows the target, with Wilson's 95 % interval.
        pairs: informative pairs expected.
        chance: of at least `LEAST_PAIRS` of them.
        verdict: `go`, `no go` or `draw more`.
    """

    rate: Interval
    pairs: Interval
    chance: Interval
    verdict: str


def go_or_no_go(hits: int, drawn: int, prompts: int, responses: int) -> Verdict:
    """What `hits` among `drawn` responses of the base, one a prompt, say of a run with more of them.

    *Go* where every rate of the interval gives enough pairs with near certainty; *no go* where every one hardly does;
    else the draws are too few to tell. A rate of one half gives the most pairs.

    Raises:
        BadInput: more hits than draws, no draw, or sizes as in `expected_pairs`.
    """
    rate = wilson_interval(hits, drawn)
    rates = np.array([rate.estimate, *np.linspace(rate.low, rate.high, 201)])
    pairs, chance = (
        Interval(*map(float, (found[0], found.min(), found.max())))
        for found in (expected_pairs(rates, prompts, responses), chance_of_pairs(rates, prompts, responses))
    )
    sure = "go" if chance.low >= SURE else "no go" if chance.high <= 1 - SURE else "draw more"
    return Verdict(rate, pairs, chance, sure)


@dataclass(frozen=True)
class Draws:
    """Responses of a model, one to each prompt."""

    prompts: list[str]
    texts: list[str]

    def hits(self, rules: Mapping) -> dict[str, int]:
        """How many responses each rule (text -> bool) holds for, by the rule's name."""
        return {name: sum(apply_rule(name, rule, self.texts)) for name, rule in rules.items()}


def draw(model, tokenizer, prompts: list[str], max_tokens: int = 28, seed: int = 0) -> Draws:
    """One response to each prompt, at temperature 1: other prompts are independent draws, as the interval has them.

    Raises BadInput without prompts.
    """
    from alignkd_lab.lm.sampling import sample
    from alignkd_lab.lm.templates import encode, end_ids

    if not prompts:
        raise BadInput("prompts: none were given; name some on which the model will be used")
    samples = sample(model, encode(tokenizer, prompts), 1, max_tokens, end_ids(tokenizer), seed)
    return Draws(list(prompts), samples.texts(tokenizer))


def _check(rate, prompts: int, responses) -> tuple[np.ndarray, np.ndarray]:
    rate, responses = np.asarray(rate, dtype=float), np.asarray(responses, dtype=int)
    if not ((rate >= 0) & (rate <= 1)).all():
        raise BadInput(f"rate: {rate.tolist()!r} must lie between 0 and 1")
    if prompts < 1:
        raise BadInput(f"prompts: {prompts} must be at least 1")
    if (responses < 2).any():
        raise BadInput(f"responses: {int(responses.min())} must be at least 2, since responses are compared")
    return rate, responses


def _power(one: np.ndarray, power: int) -> np.ndarray:
    """The first coefficients of a polynomial [..., degree] to a power, where the first coefficient is 1."""
    found = np.zeros_like(one)
    found[..., 0] = 1.0
    for degree in range(1, one.shape[-1]):
        steps = np.arange(1, degree + 1)
        # From p (p^N)' = N p' p^N, coefficient by coefficient.
        parts = (steps * (power + 1) - degree) * one[..., steps] * found[..., degree - steps]
        found[..., degree] = parts.sum(-1) / degree
    return found
