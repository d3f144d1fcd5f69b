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
