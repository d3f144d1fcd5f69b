"""Blind reading: guess from the text alone which pipeline wrote a response, then turn it over: what the reward paid.

Tests the belief "reward is quality". To be read is what a run has kept by a rule fixed beforehand, each model's first
response to each test prompt, so nobody has picked it; chance, always the same, mixes prompts and authors.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignkd_lab.course.explorers.methods import short
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.errors import BadInput
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


class Response(NamedTuple):
    """What one model answered; `reward` is from 0 to 1, `target` whether the rule found what it looks for."""

    text: str
    pipeline: str
    reward: float
    target: bool


class Page(NamedTuple):
    """A prompt, its seed, and its responses in an order of chance."""

    seed: int
    prompt: str
    responses: tuple[Response, ...]


def target_words(name: str) -> str:
    """What a response on target does, to follow "a response that"; a target not known here keeps its name."""
    return TARGET_WORDS.get(name, f"shows the target “{name}”")


def deal(run: Records, authors: Sequence[str] = AUTHORS) -> list[Page]:
    """Every prompt that two of the authors answered, prompts and responses in an order of chance, always the same.

    Raises:
        BadInput: there is none.
    """
    first = run.responses.drop_duplicates(["seed", "prompt", "pipeline"])
    answers: dict[tuple, dict[str, Response]] = {}
    for row in first.itertuples():
        answer = Response(row.response, row.pipeline, row.reward, row.target)
        answers.setdefault((row.seed, row.prompt), {})[row.pipeline] = answer
    held = [(*key, found) for key, found in sorted(answers.items()) if len(found.keys() & {*AUTHORS}) > 1]
    if not held:  # what only one of them answered is no riddle
        raise BadInput("this run kept no responses of two pipelines to one prompt: choose a run of the lm world")
    pages = []
    for page, at in enumerate(np.random.default_rng(0).permutation(len(held))):
        seed, prompt, found = held[at]
        names = [name for name in AUTHORS if name in found]
        mixed = np.random.default_rng([1, page]).permutation(names)
        pages.append(Page(seed, prompt, tuple(found[name] for name in mixed if name in authors)))
    return pages


class Cards:
    """Responses to a run's first `pages` prompts as cards that one turns over with a click, with or without a kernel.

    On a card's back stand its author, one of `authors`, and what the reward paid. `run` None is the recorded study;
    `depth` says what another one is: `live`, `record` or `tiny`.
    """

    def __init__(
        self, pages: int = 3, authors: Sequence[str] = AUTHORS[1:], run: Records | None = None, depth: str = "live"
    ) -> None:
        held = recorded_smollm2() if run is None else run
        self.pages = deal(held, authors)[:pages]
        marks = "Kept is each model's first response to each test prompt"
        self.words = f"{in_words(held)} {depth_line([held], 'record' if run is None else depth, marks)}".strip()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        made, plain = [], []
        for page in self.pages:
            cards = (
                f'<details style="{_CARD}"><summary style="cursor:pointer">{shown(response.text)}</summary>'
                f"{_author(response.pipeline)}, reward {paid(response)}</details>"
                for response in page.responses
            )
            made.append(f'<p style="margin:.9em 0 .2em"><b>“{html.escape(page.prompt)}”</b></p>{"".join(cards)}')
            lines = (f"{short(r.pipeline)}, {paid(r)}: {_one_line(r.text)}" for r in page.responses)
            plain += [page.prompt, *lines]
        words = f'<p style="color:{QUIET}">{html.escape(self.words)}</p>'
        ground = f'<div style="{_GROUND}">{"".join(made)}{words}</div>'
        return {"text/html": ground, "text/plain": "\n".join([*plain, self.words])}


def in_words(run: Records) -> str:
    """Whom the reward and whom the plausibility of the text ranks first, over all test responses of the run."""
    ranks = {metric: _ranking(run, metric) for metric in ("reward", "fluency")}
    if not all(ranks.values()):
        return ""
    told = (
        f"Over all test responses the mean reward ranks {_listed(ranks['reward'])}. Asked only how plausible a "
        f"text is, from 0 to 1, the truth ranks {_listed(ranks['fluency'])}."
    )
    same = [name for name, _ in ranks["reward"]] == [name for name, _ in ranks["fluency"]]
    return told + (" Here the two agree." if same else " These are two different questions.")


def _ranking(run: Records, metric: str) -> list[tuple[str, float]]:
    found = estimates(run, metric)
    means = [(name, float(found[name][0].estimate)) for name in AUTHORS if name in found]
    return sorted(means, key=lambda entry: -entry[1])


def _listed(ranking: Sequence[tuple[str, float]]) -> str:
    return " > ".join(f"{short(name)} ({number(mean, 2)})" for name, mean in ranking)


def paid(response: Response) -> str:
    """The reward, and why there is none."""
    if not response.target:
        return "0: missed the target"
    return number(response.reward, 2) + ("" if response.reward > 0 else ": on target, but too implausible to be paid")


def shown(text: str) -> str:
    """A response as it was written, escaped and on one line; an empty one is named."""
    return html.escape(_one_line(text)) or f'<span style="color:{QUIET}">(nothing)</span>'


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _author(pipeline: str) -> str:
    style = pipeline_style(pipeline)
    return f'<b style="color:{style.colour}">{html.escape(style.label)}</b>'
