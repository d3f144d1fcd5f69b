"""Blind reading: guess from the text alone which pipeline wrote a response, then turn it over: what the reward paid.

Tests the belief "reward is quality". To be read is what a run has kept by a rule fixed beforehand, each model's first
response to each test prompt, so nobody has picked it; chance, always the same, mixes prompts and authors.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from alignkd_lab.course.explorers.methods import short
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import GRID, INK, QUIET, depth_line, estimates
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.records import Records

AUTHORS = ("base", "base_aligned", K_A, A_K)
TARGET_WORDS = {
    "simile": "makes a comparison, with “like a” or “as … as”",
    "digit": "holds a digit",
    "exclamation": "holds an exclamation mark",
    "question": "holds a question mark",
    "quotation": "holds a quotation mark",
    "colour": "names a colour",
    "first_person": "speaks in the first person",
    "positive": "sounds very positive to a sentiment lexicon",
    "negative": "sounds negative to a sentiment lexicon",
}
_GROUND = f"max-width:64em;padding:.2em .8em;line-height:1.45;color:{INK};background:white"  # on a dark page, too
_CARD = f"border:1px solid {GRID};border-radius:8px;padding:.4em .8em;margin:.4em 0;color:{INK};background:white"


def target_words(name: str) -> str:
    """What a response on target does, to follow "a response that"; a target not known here keeps its name."""
    return TARGET_WORDS.get(name, f"shows the target “{name}”")


def deal(run: Records, authors: Sequence[str] = AUTHORS) -> Iterator[list]:
    """The authors' responses to every prompt, as rows of `run.responses`: in an order of chance, always the same."""
    answers: dict[tuple, dict] = {}
    for row in run.responses.drop_duplicates(["seed", "prompt", "pipeline"]).itertuples():
        answers.setdefault((row.seed, row.prompt), {})[row.pipeline] = row
    held = [answers[place] for place in sorted(answers)]
    for page, at in enumerate(np.random.default_rng(0).permutation(len(held))):
        mixed = np.random.default_rng([1, page]).permutation([name for name in AUTHORS if name in held[at]])
        yield [held[at][name] for name in mixed if name in authors]


class Cards:
    """Responses to `pages` of the study's prompts, mixed by `deal`, as cards that one turns over with a click, with or
    without a kernel. On a card's back stand its author, one of `authors`, and what the reward paid; with `totals` a
    last card holds the means over all responses."""

    def __init__(self, pages: int = 3, authors: Sequence[str] = AUTHORS[1:], totals: bool = True) -> None:
        run, self._totals = recorded_smollm2(), totals
        self.pages = list(itertools.islice(deal(run, authors), pages))
        self.words = (
            f"By mean reward: {ranking(run, 'reward')}. By how plausible the truth finds the text, from 0 to 1: "
            f"{ranking(run, 'fluency')}. "
        ) + depth_line([run], "record", "Kept is each model's first response to each test prompt")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        made, plain = [], []
        for rows in self.pages:
            made.append(f'<p style="margin:.9em 0 .2em"><b>“{html.escape(rows[0].prompt)}”</b></p>')
            plain.append(rows[0].prompt)
            for row in rows:
                text, author = " ".join(row.response.split()), pipeline_style(row.pipeline)
                front = html.escape(text) or f'<span style="color:{QUIET}">(nothing)</span>'
                back = f'<b style="color:{author.colour}">{html.escape(author.label)}</b>, reward {paid(row)}'
                made.append(_folded(front, back))
                plain.append(f"{short(row.pipeline)}, {paid(row)}: {text}")
        if self._totals:
            made.append(_folded("And over all test responses?", html.escape(self.words)))
            plain.append(self.words)
        return {"text/html": f'<div style="{_GROUND}">{"".join(made)}</div>', "text/plain": "\n".join(plain)}


def _folded(front: str, back: str) -> str:
    return f'<details style="{_CARD}"><summary style="cursor:pointer">{front}</summary>{back}</details>'


def ranking(run: Records, metric: str) -> str:
    """The authors by their mean over all test responses of the run."""
    means = {name: span.estimate for name, (span, _) in estimates(run, metric).items() if name in AUTHORS}
    return " > ".join(
        f"{short(name)} ({number(means[name], 2)})" for name in sorted(means, key=means.get, reverse=True)
    )


def paid(row) -> str:
    """The reward of a response, and why there is none."""
    if not row.target:
        return "0: missed the target"
    return number(row.reward, 2) + ("" if row.reward > 0 else ": on target, but too implausible to be paid")
