"""Blind reading: guess from the text alone which pipeline wrote a response, then see it, and what the reward paid.

Tests the belief "reward is quality". To be read is what a run has kept by a rule fixed beforehand, each model's first
response to each test prompt, so nobody has picked it; chance, always the same, mixes prompts and authors.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ipywidgets import HTML, Button, HBox, VBox

from alignkd_lab.course.explorers.methods import short
from alignkd_lab.course.explorers.responses import AUTHORS, LETTERS, Response, Responses, recorded
from alignkd_lab.course.widgets.view import choice, paragraph, widget_view
from alignkd_lab.plots.drawing import GRID, INK, QUIET
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.records import Records

STILLS = 3  # prompts on a page without a kernel
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
_NOT_SAID = {"": "not said"}
_AUTHORS = _NOT_SAID | {name: pipeline_style(name).label for name in AUTHORS}
_MARGIN = ".4em 0"
# Cell by cell, since a dark page colours the rows of tables.
_GROUND = f"max-width:64em;padding:.2em .8em;line-height:1.45;color:{INK};background:white"
_CELL = (
    f"text-align:left;vertical-align:top;padding:.35em .7em;border-top:1px solid {GRID};color:{INK};background:white"
)
_CARD = f"border:1px solid {GRID};border-radius:8px;padding:.4em .8em;margin:.4em 0;color:{INK};background:white"


@dataclass(frozen=True)
class Reading:
    """One prompt with its responses, the reader's opinion of them, and whether the answers are shown.

    `guesses` is by letter, and `best` the letter of the response that reads best; empty where nothing was said.
    """

    page: int
    pages: int
    seed: int
    prompt: str
    responses: tuple[Response, ...]
    guesses: Mapping[str, str]
    best: str
    told: bool

    @property
    def right(self) -> int:
        """How many authors were named rightly."""
        return sum(self.guesses[response.letter] == response.pipeline for response in self.responses)

    @property
    def favourites(self) -> tuple[str, ...]:
        """The letters of the highest reward; none where no response earned any."""
        highest = max(response.reward for response in self.responses)
        return tuple(r.letter for r in self.responses if r.reward == highest) if highest > 0 else ()


def target_words(name: str) -> str:
    """What a response on target does, to follow "a response that"; a target not known here keeps its name."""
    return TARGET_WORDS.get(name, f"shows the target “{name}”")


def compute(state: Mapping[str, Any], responses: Responses | None = None) -> Reading:
    """The reading at a state: `page`, who wrote each `letter`, the `best` one, `told`; what a state lacks was not said.

    `responses` None are those of the recorded study.
    """
    responses = responses or recorded()
    page = state.get("page", 0)
    seed, prompt, shown = responses.page(page)
    letters = [response.letter for response in shown]
    guesses = {letter: state.get(letter, "") for letter in letters}
    said = (guesses, state.get("best", ""), bool(state.get("told")))
    return Reading(page % len(responses), len(responses), seed, prompt, shown, *said)


def caption(data: Reading) -> str:
    """What is to be done, or what came out, in words."""
    if not data.told:
        return "Which one reads best, and who wrote which? Then press “Show who wrote them”. No answer is needed."
    guessed = f"You named {data.right} of {len(data.responses)} authors rightly. " if any(data.guesses.values()) else ""
    return f"{guessed}{_preference(data)}"


def show(page: int = 0, run: Records | None = None, depth: str = "live") -> BlindReading:
    """The explorer, from a page on: of the recorded study, or of another `run` of the language world.

    `depth` says what the other run is: `live`, `record` or `tiny`.
    """
    return BlindReading(recorded() if run is None else Responses(run, depth), page)


class Cards:
    """Responses to `pages` prompts as cards that one turns over with a click, in any browser and without a kernel.

    On a card's back stand its author, who is any but the base, and what the reward paid.
    """

    def __init__(self, pages: int = STILLS) -> None:
        whole = [compute({"page": page}) for page in range(pages)]
        aligned = [tuple(r for r in data.responses if r.pipeline != AUTHORS[0]) for data in whole]
        self.readings = [replace(data, responses=found) for data, found in zip(whole, aligned, strict=True)]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        made = []
        for data in self.readings:
            cards = (
                f'<details style="{_CARD}"><summary style="cursor:pointer">{shown(response.text)}</summary>'
                f"{_author(response.pipeline)}, reward {paid(response)}</details>"
                for response in data.responses
            )
            made.append(f'<p style="margin:.9em 0 .2em"><b>“{html.escape(data.prompt)}”</b></p>{"".join(cards)}')
        return {"text/html": _ground("".join(made)), "text/plain": "\n".join(map(_plain, self.readings))}


class BlindReading:
    """Responses with a list of possible authors for each; the last expression of a cell shows it.

    `tally` holds the pages whose answers were shown, by their number.
    """

    def __init__(self, responses: Responses, page: int = 0) -> None:
        self.responses, self.page, self.told = responses, page, False
        self.tally: dict[int, Reading] = {}
        self.text, self.words, self.choices = HTML(), HTML(), VBox()
        # What a reader may say of a page: which response reads best, and who wrote each; at first nothing.
        self.controls = {"best": choice("Reads best", "", _NOT_SAID)}
        self.controls |= {letter: choice(f"{letter} was written by", "", _AUTHORS) for letter in LETTERS}
        wide = {"layout": {"width": "auto", "min_width": "14em"}}
        self.tell = Button(description="Show who wrote them", button_style="primary", **wide)
        self.previous, self.next = Button(description="Previous prompt"), Button(description="Next prompt")
        self.tell.on_click(lambda button: self.show_authors())
        self.previous.on_click(lambda button: self.turn_to(self.page - 1))
        self.next.on_click(lambda button: self.turn_to(self.page + 1))
        buttons = HBox([self.tell, self.previous, self.next], layout={"flex_flow": "row wrap"})
        self.widget = VBox([self.text, self.choices, buttons, self.words])
        self.turn_to(page)

    @property
    def state(self) -> dict[str, Any]:
        """Page, choices, and whether the answers are shown."""
        chosen = {name: control.value for name, control in self.controls.items()}
        return {"page": self.page, **chosen, "told": self.told}

    def turn_to(self, page: int) -> None:
        """Another prompt, with nothing said of it yet; after the last one comes the first."""
        self.page, self.told = page % len(self.responses), False
        letters = [response.letter for response in compute({"page": page}, self.responses).responses]
        self.controls["best"].options = [("not said", ""), *((letter, letter) for letter in letters)]
        for control in self.controls.values():
            control.value, control.disabled = "", False
        self.tell.disabled = False
        self.choices.children = [self.controls[name] for name in ("best", *letters)]
        self.update()

    def show_authors(self) -> None:
        """Show who wrote what and what the reward paid; the opinions given count in the tally."""
        self.told = True
        for control in self.controls.values():
            control.disabled = True
        self.tell.disabled = True
        self.update()

    def update(self) -> None:
        """Write the page and its caption for the current state."""
        try:
            data = compute(self.state, self.responses)
            if data.told:
                self.tally[data.page] = data
            more = [_tallied(self.tally.values()), self.responses.in_words] if data.told else []
            said = _paragraphs(caption(data), *more, self.responses.evidence)
            self.text.value = _ground(page_of(data))
            self.words.value = _ground(said + _paragraphs(f"To come back here: blind_reading.show(page={data.page})"))
        except Exception as error:
            self.words.value = _ground(_paragraphs(f"This page cannot be shown: {error}"))
            raise

    def still(self) -> list[Reading]:
        """What stands on a page without a kernel: the current prompt and those after it, answers shown."""
        pages = range(self.page, self.page + min(STILLS, len(self.responses)))
        return [compute({"page": page, "told": True}, self.responses) for page in pages]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        readings, words = self.still(), (self.responses.in_words, self.responses.evidence)
        return {
            **widget_view(self.widget),
            "text/html": _ground(_pages_above_answers(readings) + _paragraphs(*words)),
            "text/plain": "\n".join([*map(_plain, readings), *words]),
        }


# Words --------------------------------------------------------------------------------------------------


def _preference(data: Reading) -> str:
    """The reader's favourite beside the reward's, where both have one."""
    if not data.favourites:
        return "The reward cannot tell these responses apart: all earned 0."
    prefers = " and ".join(data.favourites)
    paid = {response.letter: response for response in data.responses}
    highest = number(paid[data.favourites[0]].reward, 2)
    if not data.best:
        return f"The reward prefers {prefers} ({highest})."
    if data.best in data.favourites:
        return f"You found {data.best} best, and so does the reward ({highest})."
    mine = paid[data.best]
    why = "it missed the target" if not mine.target else "on target, but less plausible to the truth"
    earned = f"You found {mine.letter} best; it earned {number(mine.reward, 2)}: {why}."
    return f"{earned} The reward prefers {prefers} ({highest})."


def _tallied(readings: Iterable[Reading]) -> str:
    """What the pages read so far add up to; nothing where nothing was said."""
    readings = list(readings)
    guessed = [data for data in readings if any(data.guesses.values())]
    judged = [data for data in readings if data.best and data.favourites]
    told = []
    if guessed:
        right, asked = sum(data.right for data in guessed), sum(len(data.responses) for data in guessed)
        told.append(f"So far: {right} of {asked} authors named rightly; blind luck names one in {len(AUTHORS)}.")
    if judged:
        agreed = sum(data.best in data.favourites for data in judged)
        told.append(f"You and the reward had the same favourite on {agreed} of {len(judged)} pages.")
    return " ".join(told)


# The page, as text that readers can enlarge, copy and hear, on a ground of its own ------------------------


def _ground(content: str) -> str:
    """HTML on white, so that it reads the same on a dark page."""
    return f'<div style="{_GROUND}">{content}</div>'


def page_of(data: Reading) -> str:
    """The prompt and its responses; once told, with author and reward."""
    heads = ["", "response", *(["written by", "reward"] if data.told else [])]
    return _heading(data) + _table(heads, [_row(response, data.told) for response in data.responses])


def _pages_above_answers(readings: Sequence[Reading]) -> str:
    """Several prompts to guess at, and below them who wrote what."""
    asked = [
        _heading(data) + _table(["", "response"], [_row(response, told=False) for response in data.responses])
        for data in readings
    ]
    rows = [
        [f"{data.page + 1}{response.letter}", _author(response.pipeline), paid(response)]
        for data in readings
        for response in data.responses
    ]
    answers = _paragraphs("Who wrote them, and what the reward paid:") + _table(["", "written by", "reward"], rows)
    return "".join(asked) + answers


def _plain(data: Reading) -> str:
    """A page with its answers, as lines of text."""
    told = [f"{r.letter} ({short(r.pipeline)}, {paid(r)}): {_one_line(r.text)}" for r in data.responses]
    return "\n".join([f"Prompt {data.page + 1} of {data.pages}: {data.prompt}", *told])


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


def _heading(data: Reading) -> str:
    place = f"Prompt {data.page + 1} of {data.pages}, seed {data.seed}: “{data.prompt}”"
    return f'<p style="margin:.7em 0 .2em"><b>{html.escape(place)}</b></p>'


def _row(response: Response, told: bool) -> list[str]:
    cells = [f"<b>{response.letter}</b>", shown(response.text)]
    return [*cells, _author(response.pipeline), paid(response)] if told else cells


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f'<th scope="col" style="{_CELL};color:{QUIET};font-weight:normal">{head}</th>' for head in heads)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    style = "border-collapse:collapse;margin:0;font-size:inherit"
    return f'<table style="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _author(pipeline: str) -> str:
    style = pipeline_style(pipeline)
    return f'<b style="color:{style.colour}">{html.escape(style.label)}</b>'


def _paragraphs(*texts: str) -> str:
    """Each text that is not empty as a paragraph."""
    return "".join(paragraph(text, _MARGIN) for text in texts if text)
