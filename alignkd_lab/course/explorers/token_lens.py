"""Explorer: "advantage means likely". Three models read a text token by token; the slider walks along it.

The reference teacher is SmolLM2 itself, the DPO teacher the same weights with an adapter trained here and now on a few
written pairs, the student the shipped healed one. All is read once; the slider only looks things up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.lens.reading_tables import LIKELY
from alignkd_lab.course.lens.readings import MODELS, Reading, in_words, read, with_space
from alignkd_lab.course.widgets.state import begun
from alignkd_lab.errors import UnknownName
from alignkd_lab.plots.style import number

if TYPE_CHECKING:
    from alignkd_lab.course.widgets.choice import ChoiceControl, ChoiceExplorer
    from alignkd_lab.course.widgets.view import NumberControl

# A topic of the test prompts, so that no pair of `course.lens.quick_dpo` speaks of it.
PROMPT = "Write one sentence about a balloon."
WRITTEN = {
    "chosen": "A red balloon drifts over the quiet town.",
    "rejected": "A small balloon drifts over the quiet town.",
}
TEXTS = {
    "chosen": "a chosen response, as in preference data",
    "rejected": "a rejected response",
    "student": "what the student wrote",
}
QUANTITIES = {
    "mask": "mask: which tokens the losses see",
    "log_ratio": "log-ratio: A of the token that stands there",
    "advantage": "advantage: its mean over the student's next tokens",
    "kl": "KL from the DPO teacher to the student",
}
START = {"position": 2.0, "text": "chosen", "quantity": "log_ratio"}
NAMES = {"reference": "reference teacher", "dpo": "DPO teacher", "student": "student"}
SOURCE = (
    "Live: SmolLM2-135M-Instruct (reference teacher), the same after a few steps of DPO on written pairs that prefer "
    "colours (DPO teacher), and the shipped healed student."
)
MARKS = (
    "● likeliest for the DPO teacher, ◆ largest advantage, ■ the token that stands there, grey: all others; ␣ a space."
)
ROWS = 5
_STUDENT_TOKENS = 24
_GREEDY = 0.02  # a temperature at which the likeliest token is drawn, as ADPA's published recipe does
_STILL_POSITIONS = (1.0, 2.0, 5.0)
_CELLS = (110, 80)


@dataclass(frozen=True)
class Lens:
    """Three models, and the texts that they have read, by the names of `TEXTS`."""

    tokenizer: Any
    teacher: Any
    student: Any
    readings: Mapping[str, Reading]


@dataclass(frozen=True)
class Candidate:
    """A token that may come next: what it is, its advantage in nats, and by model its probability and its place."""

    words: str
    advantage: float
    probs: Mapping[str, float]
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class View:
    """What the picture shows: a text with a number a token, and one position of it in depth.

    text, quantity, position: the state; positions count from 0.
    prompt, words: the tokens in words; values: the quantity at each of `words`; limit: the largest of any text.
    likely: by model its likeliest candidates; advantaged: those of the largest advantage; here: the token itself.
    cloud: how many tokens of the vocabulary `[advantage, log10 of the DPO teacher's probability]`; extent: its bounds.
    expected: by model, the mean advantage over what that model says next; kl: KL(pi_dpo || pi), nats.
    size: of the vocabulary.
    """

    text: str
    quantity: str
    position: int
    prompt: tuple[str, ...]
    words: tuple[str, ...]
    values: np.ndarray
    limit: float
    likely: Mapping[str, tuple[Candidate, ...]]
    advantaged: tuple[Candidate, ...]
    here: Candidate
    cloud: np.ndarray
    extent: tuple[float, float, float, float]
    expected: Mapping[str, float]
    kl: float
    size: int


@functools.cache
def load() -> Lens:
    """The real models and texts, made once: about ten seconds, most of them for the DPO teacher.

    Raises:
        CannotContinue: the weights cannot be fetched.
    """
    from alignkd_lab.course.lens.quick_dpo import dpo_teacher
    from alignkd_lab.lm import weights
    from alignkd_lab.lm.student import healed_student

    base, tokenizer = weights.load(weights.BUILT_IN)
    return look(tokenizer, dpo_teacher(base, tokenizer), healed_student())


def look(tokenizer, teacher, student, prompt: str = PROMPT, written: Mapping[str, str] = WRITTEN) -> Lens:
    """Let three models read a pair of responses, and one that the student writes.

    Args:
        teacher: a PEFT model, the DPO teacher; without its adapter it is the reference.
        written: the chosen and the rejected response.
    """
    from alignkd_lab.lm.prompts import encode
    from alignkd_lab.lm.sampling import sample

    ids, end = encode(tokenizer, [prompt]), tokenizer.eos_token_id
    (own,) = sample(student, ids, 1, _STUDENT_TOKENS, end, seed=0, temperature=_GREEDY).tokens
    tokens = {name: [*tokenizer(text, add_special_tokens=False)["input_ids"], end] for name, text in written.items()}
    readings = {name: read(ids[0], tokens.get(name, own), teacher, student) for name in TEXTS}
    return Lens(tokenizer, teacher, student, readings)


def compute(state: Mapping[str, Any], lens: Lens | None = None) -> View:
    """One position of one text.

    Args:
        state: `text` (of `TEXTS`), `quantity` (of `QUANTITIES`), `position` (1 for the first token of the response;
            beyond the last one it is the last).
        lens: what was read; `load()` where None.

    Raises:
        UnknownName: another text or quantity.
    """
    for name, accepted in (("text", TEXTS), ("quantity", QUANTITIES)):
        if state[name] not in accepted:
            raise UnknownName(name, state[name], accepted)
    lens = lens or load()
    reading, quantity = lens.readings[state["text"]], state["quantity"]
    position = min(max(round(state["position"]), 1), len(reading.labels)) - 1
    advantages = reading.advantages[position]
    rows = {name: reading.log_probs[name][position] for name in MODELS}
    candidate = functools.partial(_candidate, lens.tokenizer, advantages, rows)
    top = {name: row.topk(ROWS).indices.tolist() for name, row in rows.items()}
    return View(
        text=state["text"],
        quantity=quantity,
        position=position,
        prompt=tuple(in_words(lens.tokenizer, token) for token in reading.prompt),
        words=tuple(in_words(lens.tokenizer, token) for token in reading.labels.tolist()),
        values=values_of(reading, quantity).numpy(),
        limit=max(float(values_of(held, quantity).abs().max()) for held in lens.readings.values()),
        likely={name: tuple(map(candidate, tokens)) for name, tokens in top.items()},
        advantaged=tuple(map(candidate, advantages.topk(ROWS).indices.tolist())),
        here=candidate(int(reading.labels[position])),
        cloud=_cloud(rows["dpo"], advantages, _extent(reading)),
        extent=_extent(reading),
        expected={name: float(row.exp() @ advantages) for name, row in rows.items()},
        kl=float(reading.dckd.kl[position]),
        size=len(advantages),
    )


def controls(longest: int = 40, **state: Any) -> dict[str, NumberControl | ChoiceControl]:
    """A control for each part of the state, at `START` where `state` does not say otherwise.

    `longest` is the number of tokens of the longest text.

    Raises:
        UnknownName: a part that the state does not have, or a choice that there is not.
    """
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

    start = begun(START, state)
    return {
        "position": NumberControl("token of the response", start["position"], 1.0, float(longest), 1.0),
        "quantity": ChoiceControl("colour shows", start["quantity"], QUANTITIES),
        "text": ChoiceControl("text", start["text"], TEXTS),
    }


def caption(view: View) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    best, favourite = view.advantaged[0], view.likely["dpo"][0]
    places = [f"{_place(best.ranks[name])} for the {NAMES[name]}" for name in MODELS]
    told = (
        f"Before token {view.position + 1} of {len(view.words)}, {_quoted(view.here)}: of {view.size:,} tokens "
        f"{_quoted(best)} has the largest advantage, {number(best.advantage)} nats. In likelihood it is "
        f"{places[0]}, {places[1]}, {places[2]}."
    )
    if best.words == favourite.words:
        belief = "Here the belief holds: the DPO teacher's favourite has the largest advantage."
    elif best.ranks["dpo"] <= LIKELY:
        belief = f"It is likely here, but the DPO teacher's favourite is {_quoted(favourite)}, "
    else:
        belief = f"Advantage does not mean likely here: the DPO teacher's favourite is {_quoted(favourite)}, "
    if best.words != favourite.words:
        belief += f"with {percent(favourite.probs['dpo'])} and an advantage of {number(favourite.advantage)}."
    means = (
        f"Mean advantage over what the student says next: {number(view.expected['student'])}, over what the reference "
        f"says {number(view.expected['reference'])} (never above 0), over what the DPO teacher says "
        f"{number(view.expected['dpo'])} (never below); KL(DPO teacher ‖ student) {number(view.kl)} nats."
    )
    return f"{told} {belief} {means}"


def show(*shown: str, lens: Lens | None = None, **state: Any) -> ChoiceExplorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    `lens` is what was read, `load()` where None.
    """
    from alignkd_lab.course.explorers.token_lens_view import draw, stills
    from alignkd_lab.course.widgets.choice import ChoiceExplorer

    lens = lens or load()
    made = controls(max(len(reading.labels) for reading in lens.readings.values()), **state)

    def still(state: Mapping[str, Any]):
        views = [compute({**state, "position": position}, lens) for position in _STILL_POSITIONS]
        text = " ".join(map(caption, views))
        return stills(views, SOURCE), text

    return ChoiceExplorer(
        made, shown or made, functools.partial(compute, lens=lens), draw, caption, SOURCE, "token_lens.show", still
    )


def values_of(reading: Reading, quantity: str) -> Tensor:
    """The quantity at each token of the response, [N]; the mask is 1 where a loss sees the token. Nats otherwise."""
    if quantity == "mask":
        return torch.ones(len(reading.labels))
    found = {"log_ratio": reading.log_ratio, "advantage": reading.adpa.expected_advantage, "kl": reading.dckd.kl}
    return found[quantity]


def visible(candidate: Candidate) -> str:
    """The token with its space as a sign."""
    return with_space(candidate.words)


def _quoted(candidate: Candidate) -> str:
    return f"“{visible(candidate)}”"


def _place(rank: int) -> str:
    return "the likeliest" if rank == 1 else f"number {rank:,}"


def _candidate(tokenizer, advantages: Tensor, rows: Mapping[str, Tensor], token: int) -> Candidate:
    return Candidate(
        words=in_words(tokenizer, token),
        advantage=float(advantages[token]),
        probs={name: float(row[token].exp()) for name, row in rows.items()},
        ranks={name: 1 + int((row > row[token]).sum()) for name, row in rows.items()},
    )


def _extent(reading: Reading) -> tuple[float, float, float, float]:
    """Bounds of the cloud, the same at every position of a text, so that it is seen to move."""
    likelihood = reading.log_probs["dpo"] / np.log(10)
    return float(likelihood.min()), 0.0, float(reading.advantages.min()), float(reading.advantages.max())


def _cloud(log_probs: Tensor, advantages: Tensor, extent: tuple[float, float, float, float]) -> np.ndarray:
    left, right, low, high = extent
    x, y = (log_probs / np.log(10)).numpy(), advantages.numpy()
    counts, _, _ = np.histogram2d(y, x, bins=_CELLS[::-1], range=((low, high), (left, right)))
    return counts
