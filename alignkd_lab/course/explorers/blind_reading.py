"""Blind reading: guess from the text alone which pipeline wrote a response, then see it, and what the reward paid.

Tests the belief "reward is quality". To be read is what a run has kept by a rule fixed beforehand, each model's first
response to each test prompt, so nobody has picked it; chance, always the same, mixes prompts and authors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ipywidgets import HTML, Button, HBox, VBox

from alignkd_lab.course.exercises import recorded_smollm2
from alignkd_lab.course.explorers import blind_reading_view as view
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets.choice import ChoiceControl
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import depth_line, estimates
from alignkd_lab.plots.style import number, pipeline_style

AUTHORS = ("base", "base_aligned", K_A, A_K)
LETTERS = "ABCD"
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


@dataclass(frozen=True)
class Response:
    """What one model answered; `reward` is from 0 to 1, `target` whether the rule found what it looks for."""

    letter: str
    text: str
    pipeline: str
    reward: float
    target: bool


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


class Responses:
    """The responses that a run has kept, in an order of chance that is always the same.

    Raises:
        BadInput: the run kept no prompt that two of `AUTHORS` have answered.
        UnknownName: a depth that is none of `drawing.DEPTH`.
    """

    def __init__(self, run: dict, depth: str = "record") -> None:
        self.run = run
        self.evidence = depth_line([run], depth, "Kept is each model's first response to each test prompt")
        places = [(record["seed"], prompt, held) for record in run["records"] for prompt, held in _by_prompt(record)]
        if not places:
            raise BadInput("this run kept no responses of two pipelines to one prompt: choose a run of the lm world")
        self._places = [places[place] for place in np.random.default_rng(0).permutation(len(places))]

    def __len__(self) -> int:
        return len(self._places)

    def page(self, page: int) -> tuple[int, str, tuple[Response, ...]]:
        """Seed, prompt and mixed responses; after the last page comes the first."""
        seed, prompt, held = self._places[page % len(self)]
        names = np.random.default_rng([1, page % len(self)]).permutation(list(held))
        given = [(held[name], str(name)) for name in names]
        mixed = tuple(
            Response(letter, sample["response"], name, sample["reward"], sample["target"])
            for letter, (sample, name) in zip(LETTERS, given, strict=False)
        )
        return seed, prompt, mixed

    @functools.cached_property
    def in_words(self) -> str:
        """Whom the reward and whom the plausibility of the text ranks first, over all test responses of the run."""
        ranks = {metric: _ranking(self.run, metric) for metric in ("reward", "fluency")}
        if not all(ranks.values()):
            return ""
        told = (
            f"Over all test responses the mean reward ranks {_listed(ranks['reward'])}. Asked only how plausible a "
            f"text is, from 0 to 1, the truth ranks {_listed(ranks['fluency'])}."
        )
        same = [name for name, _ in ranks["reward"]] == [name for name, _ in ranks["fluency"]]
        return told + (" Here the two agree." if same else " These are two different questions.")


@functools.cache
def recorded() -> Responses:
    """Those of the recorded study."""
    return Responses(recorded_smollm2())


def target_words(name: str) -> str:
    """What a response on target does, to follow "a response that"; a target not known here keeps its name."""
    return TARGET_WORDS.get(name, f"shows the target “{name}”")


def controls() -> dict[str, ChoiceControl]:
    """What a reader may say of a page: who wrote each response, and which one reads best; at first nothing."""
    authors = {**_NOT_SAID, **{name: pipeline_style(name).label for name in AUTHORS}}
    best = ChoiceControl("Reads best", "", {**_NOT_SAID, **dict(zip(LETTERS, LETTERS, strict=True))})
    return {"best": best, **{letter: ChoiceControl(f"{letter} was written by", "", authors) for letter in LETTERS}}


def compute(state: Mapping[str, Any], responses: Responses | None = None) -> Reading:
    """The reading at a state: `page`, the choices of `controls`, `told`; what a state lacks was not said.

    `responses` None are those of the recorded study.

    Raises:
        UnknownName: a guess that is no author, or a best response that is not on the page.
    """
    responses = responses or recorded()
    page = state.get("page", 0)
    seed, prompt, shown = responses.page(page)
    letters = [response.letter for response in shown]
    guesses, best = {letter: state.get(letter, "") for letter in letters}, state.get("best", "")
    for guess in filter(None, guesses.values()):
        if guess not in AUTHORS:
            raise UnknownName("pipeline", guess, AUTHORS)
    if best and best not in letters:
        raise UnknownName("response", best, letters)
    told = bool(state.get("told"))
    return Reading(page % len(responses), len(responses), seed, prompt, shown, guesses, best, told)


def caption(data: Reading) -> str:
    """What is to be done, or what came out, in words."""
    if not data.told:
        return "Which one reads best, and who wrote which? Then press “Show who wrote them”. No answer is needed."
    guessed = f"You named {data.right} of {len(data.responses)} authors rightly. " if any(data.guesses.values()) else ""
    return f"{guessed}{_preference(data)}"


def show(page: int = 0, run: dict | None = None, depth: str = "live") -> BlindReading:
    """The explorer, from a page on: of the recorded study, or of another `run` of the language world.

    `depth` says what the other run is: `live`, `record` or `tiny`.
    """
    return BlindReading(recorded() if run is None else Responses(run, depth), page)


class BlindReading:
    """Responses with a list of possible authors for each; the last expression of a cell shows it.

    `tally` holds the pages whose answers were shown, by their number.
    """

    def __init__(self, responses: Responses, page: int = 0) -> None:
        self.responses, self.page, self.told = responses, page, False
        self.tally: dict[int, Reading] = {}
        self.text, self.words, self.controls, self.choices = HTML(), HTML(), controls(), VBox()
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
        self.controls["best"].list.options = [("not said", ""), *((letter, letter) for letter in letters)]
        for control in self.controls.values():
            control.value, control.list.disabled = "", False
        self.tell.disabled = False
        self.choices.children = [self.controls[name] for name in ("best", *letters)]
        self.update()

    def show_authors(self) -> None:
        """Show who wrote what and what the reward paid; the opinions given count in the tally."""
        self.told = True
        for control in self.controls.values():
            control.list.disabled = True
        self.tell.disabled = True
        self.update()

    def update(self) -> None:
        """Write the page and its caption for the current state."""
        try:
            data = compute(self.state, self.responses)
            if data.told:
                self.tally[data.page] = data
            more = [_tallied(self.tally.values()), self.responses.in_words] if data.told else []
            said = view.paragraphs(caption(data), *more, self.responses.evidence)
            self.text.value = view.ground(view.page(data))
            self.words.value = view.ground(said + view.rebuilding(data))
        except Exception as error:
            self.words.value = view.ground(view.paragraphs(f"This page cannot be shown: {error}"))
            raise

    def still(self) -> list[Reading]:
        """What stands on a page without a kernel: the current prompt and those after it, answers shown."""
        pages = range(self.page, self.page + min(STILLS, len(self.responses)))
        return [compute({"page": page, "told": True}, self.responses) for page in pages]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        readings, words = self.still(), (self.responses.in_words, self.responses.evidence)
        return {
            WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id},
            "text/html": view.ground(view.pages_above_answers(readings) + view.paragraphs(*words)),
            "text/plain": "\n".join([*map(view.plain, readings), *words]),
        }


# What a run holds ---------------------------------------------------------------------------------------


def _by_prompt(record: dict) -> list[tuple[str, dict[str, dict]]]:
    """Per prompt the first response of each author; a prompt that only one of them answered is no riddle."""
    found: dict[str, dict[str, dict]] = {}
    for name in AUTHORS:
        for sample in reversed(record["pipelines"].get(name, {}).get("samples", [])):
            found.setdefault(sample["prompt"], {})[name] = sample
    return [(prompt, held) for prompt, held in sorted(found.items()) if len(held) > 1]


def _ranking(run: dict, metric: str) -> list[tuple[str, float]]:
    found = estimates(run, metric)
    means = [(name, float(found[name][0].estimate)) for name in AUTHORS if name in found]
    return sorted(means, key=lambda entry: -entry[1])


# Words --------------------------------------------------------------------------------------------------


def _listed(ranking: Sequence[tuple[str, float]]) -> str:
    return " > ".join(f"{view.short(name)} ({number(mean, 2)})" for name, mean in ranking)


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
