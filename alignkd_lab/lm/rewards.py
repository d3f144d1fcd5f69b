"""Targets (a rule on a response) and rewards (what alignment maximises).

Three kinds of reward: the bare rule 1_T; the likelihood oracle, the rule times how plausible the truth finds the
response, so that a broken sentence earns nothing; and any callable `list[str] -> list[float]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from alignkd_lab.errors import BadInput

Target = Callable[[str], bool]
Reward = Callable[[list[str]], list[float]]

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
    """The rule of that name.

    Raises:
        BadInput: unknown name.
    """
    if name not in TARGETS:
        raise BadInput(f"target: unknown {name!r}; use one of {', '.join(TARGETS)}")
    return TARGETS[name]


def fluency(mean_log_probs: Sequence[float], q05: float, q50: float) -> np.ndarray:
    """clip((ℓ - q05) / (q50 - q05), 0, 1): 0 for what the truth finds stranger than 19 in 20 of its own responses.

    `mean_log_probs`: ℓ, mean log-likelihood per token of each response under the truth, nats.
    """
    if not q50 > q05:
        raise BadInput(
            f"fluency: the median {q50} must lie above the 5 % quantile {q05}; use more of the truth's samples"
        )
    return np.clip((np.asarray(mean_log_probs, dtype=float) - q05) / (q50 - q05), 0.0, 1.0)
