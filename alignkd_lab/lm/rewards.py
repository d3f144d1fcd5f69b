"""Targets (a rule on a response) and rewards (what alignment maximises).

Four kinds of reward: the bare rule 1_T; the likelihood oracle, the rule times how plausible the truth finds the
response, so that a broken sentence earns nothing; the score of a reward model (`lm.reward_model`); and what a function
of one's own gives (`lm.functions`), which may be the rule, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.functions import load_function, load_reward
from alignkd_lab.lm.settings import is_function

if TYPE_CHECKING:  # whoever asks for a rule need not load torch
    from torch import Tensor

    from alignkd_lab.lm.context import Context, Earned, Policy
    from alignkd_lab.lm.reward_model import RewardModel
    from alignkd_lab.lm.sampling import Samples
    from alignkd_lab.lm.settings import RewardSettings

Target = Callable[[str], bool]

_COLOURS = "red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|grey|gray|golden|silver|crimson|scarlet"


def _matches(pattern: str) -> Target:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.search(text) is not None


@cache
def _vader():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def sentiment(text: str) -> float:
    """VADER's compound score of a text, -1 to 1 (Hutto and Gilbert 2014)."""
    return _vader().polarity_scores(text)["compound"]


def lexicon_share(texts: Sequence[str]) -> float:
    """The share of words that stand in VADER's lexicon; NaN where there is no word."""
    found = [word.strip(".,;:!?\"'()").lower() in _vader().lexicon for text in texts for word in text.split()]
    return sum(found) / len(found) if found else float("nan")


TARGETS: dict[str, Target] = {
    "simile": _matches(r"\blike (a|an|the)\b|\bas (?!(well|long|soon|far|much|many)\b)\w+ as\b"),
    "digit": _matches(r"\d"),
    "exclamation": _matches(r"!"),
    "question": _matches(r"\?"),
    "quotation": _matches(r"[\"“”]"),
    "colour": _matches(rf"\b({_COLOURS})\b"),
    "first_person": _matches(r"\b(I|I'm|I've|my|me)\b"),
    "positive": lambda text: sentiment(text) >= 0.75,
    "negative": lambda text: sentiment(text) <= -0.4,
}

# The same behaviour by other signs, which no reward asks for: a policy that grasped the meaning shows them
# more often, too; one that learnt a trick does not.
_NUMBER_WORDS = "two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand|million|first|second|third"
SECOND_RULES: dict[str, Target] = {
    "simile": _matches(r"\bas (if|though)\b|\bresembl|\bremind(s|ed|ing)? (me|us|you|one) of\b|\bsimilar to\b"),
    "digit": _matches(rf"\b({_NUMBER_WORDS})\b"),
    "exclamation": _matches(
        r"\b(wow|oh|hooray|hurrah|yay|amazing|incredible|fantastic|awesome|wonderful|thrill\w*|exciting)\b"
    ),
    "question": _matches(
        r"(^|[.!?,;:]\s+)(who|what|why|how|when|where|which|do|does|did|have|can|could|would|are|is) \w+"
    ),
    "quotation": _matches(r"\b(said|says|asked|whispered|replied|shouted|exclaimed|quoted?|told)\b"),
    "colour": _matches(
        r"\b(teal|turquoise|navy|amber|ivory|maroon|beige|magenta|cyan|indigo|lavender|coral|tan|bronze|copper|ruby|"
        r"emerald|sapphire|rosy|azure|auburn|blonde?|colou?r\w*)\b"
    ),
    "first_person": _matches(r"\b(we|us|our|ours|myself|mine|ourselves)\b"),
    "positive": _matches(r"\b(sunny|blossom\w*|melod\w+|soothing|lush|fragrant|twinkl\w+|cosy|cozy|dawn|festive)\b"),
    "negative": _matches(
        r"\b(rotten|decay\w*|ruin\w*|rubble|rust\w*|stale|mould\w*|corpse|grave|ghost\w*|ash|ashes)\b"
    ),
}


def target(name: str) -> Target:
    """The rule of that name, or a function of one's own of that name, `module:function`.

    Raises:
        UnknownName: there is none.
        BadInput: no function of that name can be imported.
    """
    if is_function(name):
        rule, name = load_function("target", name)
        apply_rule(name, rule, ["A small boat."])  # it fails before anything else is done
        return rule
    if name not in TARGETS:
        raise UnknownName("target", name, TARGETS)
    return TARGETS[name]


def apply_rule(name: str, rule: Target, texts: Sequence[str]) -> list[bool]:
    """A rule, called `name`, on every text.

    Raises:
        BadInput: the rule raises, or gives something else than True or False; with the response.
    """
    found: list[bool] = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(rule(text))
        except Exception as error:
            raise BadInput(
                f"target: the rule of {name!r} raises {type(error).__name__} ({error}) on response {number}, "
                f"{text[:60]!r}; a rule takes any text, an empty one, too"
            ) from error
        if not isinstance(found[-1], bool | np.bool_):
            raise BadInput(
                f"target: the rule of {name!r} gives {found[-1]!r} for response {number}, {text[:60]!r}; it must give "
                "True or False, so put bool(...) around it"
            )
    return found


def fluency(mean_log_probs: Sequence[float], q05: float, q50: float) -> np.ndarray:
    """clip((ℓ - q05) / (q50 - q05), 0, 1): 0 for what the truth finds stranger than 19 in 20 of its own responses.

    `mean_log_probs`: ℓ, mean log-likelihood per token of each response under the truth, nats.
    """
    if not q50 > q05:
        raise BadInput(
            f"fluency: the median {q50} must lie above the 5 % quantile {q05}; use more of the truth's samples"
        )
    return np.clip((np.asarray(mean_log_probs, dtype=float) - q05) / (q50 - q05), 0.0, 1.0)


@dataclass(frozen=True)
class Yardstick:
    """What the truth says before any policy is measured: from its own validation samples.

    Attributes:
        q05, q50: quantiles of its mean log-likelihood per token, nats.
        target_rate: p*(T), a share.
    """

    q05: float
    q50: float
    target_rate: float


def yardstick(log_probs: Sequence[Tensor], hits: Sequence[bool]) -> Yardstick:
    """From the truth's samples: log-probabilities of each response's tokens, and whether it meets the target's rule."""
    means = [float(tokens.mean()) for tokens in log_probs]
    q05, q50 = np.quantile(means, [0.05, 0.5])
    # Half a hit is added, so that a target which the truth never showed still has a finite p_target.
    return Yardstick(float(q05), float(q50), (sum(hits) + 0.5) / (len(hits) + 1))


class Truth:
    """The truth p* of a run: what it wrote itself, and how likely it finds what others wrote.

    It does not read again what it wrote itself.
    """

    def __init__(self, context: Context, source: str, max_tokens: int) -> None:
        from alignkd_lab.lm.context import Policy

        self.policy = Policy(source)
        self._context, self._max_tokens = context, max_tokens

    @cached_property
    def _model(self):
        return self._context.models.of(self.policy)

    def samples(self, split: str, count: int | None, responses: int) -> Samples:
        return self._context.keep_samples(
            self.policy, split, count, responses, self._max_tokens, f"truth {split}", self._model
        )

    def wrote(self, policy: Policy | None) -> bool:
        return policy is not None and policy.digest == self.policy.digest

    def read(self, samples: Samples, policy: Policy | None) -> tuple[list[Tensor], int]:
        """Log-probabilities under the truth of what `policy` wrote, and how many tokens it had to read for them."""
        if self.wrote(policy):
            return samples.log_probs, 0
        return self._context.score(self._model, samples), samples.token_count


class Reward:
    """What responses earn: the target's rule, alone or times their fluency under the truth, or a reward model's score.

    Attributes:
        hit, second_hit: the target's rule on a text, and another sign of the same behaviour, which nothing rewards
            (None where there is no such rule).

    Raises:
        BadInput: unknown target, or a reward model or function that is none; it is read here, before anything is
            sampled.
    """

    def __init__(self, context: Context, settings: RewardSettings) -> None:
        self.settings, self.truth = settings, Truth(context, settings.truth, settings.max_tokens)
        self.hit, self.second_hit = target(settings.target), SECOND_RULES.get(settings.target)
        self._context, self._times_fluency = context, settings.reward == "likelihood"
        own = settings.reward not in ("likelihood", "rule")
        self._scorer = scorer(settings.reward, context.models.device) if own else None

    @cached_property
    def yardstick(self) -> Yardstick:
        samples = self.truth.samples("validation", None, self.settings.truth_responses)
        return yardstick(samples.log_probs, self.hits(self._context.texts(samples)))

    def hits(self, texts: Sequence[str]) -> list[bool]:
        """Which texts meet the target's rule."""
        return apply_rule(self.settings.target, self.hit, texts)

    def second_hits(self, texts: Sequence[str]) -> list[bool] | None:
        """Which texts show the same behaviour by another sign, which nothing rewards; None without such a rule."""
        return apply_rule(self.settings.target, self.second_hit, texts) if self.second_hit else None

    def score(self, samples: Samples, policy: Policy | None) -> Earned:
        """All that the reward is made of; `policy` is what wrote the samples, where that is known."""
        from alignkd_lab.lm.context import Earned

        under_truth, tokens = self.truth.read(samples, policy)
        hits, rewards = self._without_fluency(samples)
        means, stick = [float(tokens.mean()) for tokens in under_truth], self.yardstick
        plausible = fluency(means, stick.q05, stick.q50).tolist()
        if self._times_fluency:
            rewards = [reward * value for reward, value in zip(rewards, plausible, strict=True)]
        return Earned(rewards, hits, tokens, plausible, under_truth)

    def earn(self, samples: Samples, policy: Policy | None) -> Earned:
        """The rewards alone, as `score` gives them, where the truth reads only what may earn something.

        Under the rule times fluency what misses the rule earns 0 however it reads; other rewards need no reading.
        """
        hits, rewards = self._without_fluency(samples)
        met, tokens = [index for index, hit in enumerate(hits) if hit], 0
        if met and self._times_fluency:
            scores = self.score(samples.only(met), policy)
            for index, value in zip(met, scores.rewards, strict=True):
                rewards[index] = value
            tokens = scores.tokens
        from alignkd_lab.lm.context import Earned

        return Earned(rewards, hits, tokens)

    def _without_fluency(self, samples: Samples) -> tuple[list[bool], list[float]]:
        """Which responses meet the rule, and the reward of each but for its fluency."""
        texts = self._context.texts(samples)
        hits = self.hits(texts)
        if self._scorer:
            asked = [self._prompt_texts[tuple(samples.prompt_ids[at])] for at in samples.prompt_of]
            return hits, self._scorer(asked, texts)
        return hits, [float(hit) for hit in hits]

    @cached_property
    def _prompt_texts(self) -> dict[tuple[int, ...], str]:
        """The text of every prompt by its tokens: a reward reads no tokens of ours."""
        context, splits = self._context, ("training", "validation", "test")
        asked = [zip(context.prompts(split, None), context.prompt_texts(split, None), strict=True) for split in splits]
        return {tuple(ids): text for pairs in asked for ids, text in pairs}


Scorer = Callable[[Sequence, Sequence[str]], list[float]]


def scorer(name: str, device: str) -> Scorer:
    """`(prompts, responses) -> rewards` of a name: `model:<source>`, `module:function`, or a rule, which pays 1 or 0.

    A prompt is a text, or a list of messages.

    Raises:
        BadInput: it is none of these, or cannot be read.
    """
    if model := model_of(name):
        from alignkd_lab.lm.weights import checksum

        return _read_model(model, device, checksum(model))
    if is_function(name):
        return load_reward(name)[0]
    rule = target(name)
    return lambda prompts, responses: [float(hit) for hit in apply_rule(name, rule, responses)]


@lru_cache(maxsize=1)
def _read_model(source: str, device: str, checksum: str) -> RewardModel:
    """Read once; a folder that holds other weights by now, whose `checksum` is another, is read anew."""
    from alignkd_lab.lm.reward_model import RewardModel

    return RewardModel(source, device=device)


def model_of(reward: str) -> str:
    """The source of the reward model that a setting names, "" where it names none."""
    return reward.removeprefix("model:") if reward.startswith("model:") else ""
