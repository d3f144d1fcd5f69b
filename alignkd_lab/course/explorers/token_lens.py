"""Explorer: "advantage means likely". Three models read a text token by token; the slider walks along it.

All is read once (`lens.texts`); the slider only looks things up. Text takes most of a slider's time to draw, so a row
of a list is one string of a font whose letters are equally wide.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from alignkd_lab.course.explorers.coloured_text import LETTER, MONO, Colours, draw_text, frame, mono
from alignkd_lab.course.lens.reading_tables import LIKELY
from alignkd_lab.course.lens.readings import MODELS, Reading, in_words, with_space
from alignkd_lab.course.lens.texts import TEXTS, Lens, load
from alignkd_lab.course.widgets.controls import Choice, Number, start
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import INK, QUIET, themed
from alignkd_lab.plots.style import number, percent

QUANTITIES = {
    "mask": "mask: which tokens the losses see",
    "log_ratio": "log-ratio: A of the token that stands there",
    "advantage": "advantage: its mean over the student's next tokens",
    "kl": "KL from the DPO teacher to the student",
}
CONTROLS = {
    "position": Number(2.0, "token of the response", 1.0, 40.0, 1.0),
    "quantity": Choice("log_ratio", "colour shows", QUANTITIES),
    "text": Choice("chosen", "text", TEXTS),
}
START = start(CONTROLS)
NAMES = {"reference": "reference teacher", "dpo": "DPO teacher", "student": "student"}
SOURCE = (
    "Live: SmolLM2-135M-Instruct (reference teacher), the same after a few steps of DPO on written pairs that prefer "
    "colours (DPO teacher), and the shipped healed student."
)
MARKS = (
    "● likeliest for the DPO teacher, ◆ largest advantage, ■ the token that stands there, grey: all others; ␣ a space."
)
ROWS = 5
_STILL_POSITIONS = (1.0, 2.0, 5.0)
_CELLS = (110, 80)
TITLE = "What alignment changed, token by token"
_LIKELY, _ADVANTAGED = "#117733", "#882255"  # Tol's muted palette; no pipeline's colours
_ROW = 0.235
_HEAD = {"fontsize": 9.5, "va": "center"}
_CLOUD = LinearSegmentedColormap.from_list("cloud", ["#E3E7EC", "#7C8894"])
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CIRCLED = "①②③"
_DEEP, _PAGE = (10.0, 6.45), (10.0, 5.9)


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


def compute(state: Mapping[str, Any], lens: Lens | None = None) -> View:
    """One position of one text.

    Args:
        state: `text` (of `TEXTS`), `quantity` (of `QUANTITIES`), `position` (1 for the first token of the response;
            beyond the last one it is the last).
        lens: what was read; `load()` where None.
    """
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


# The picture ---------------------------------------------------------------------------------------


@themed
def draw(view: View, note: str = SOURCE) -> Figure:
    """The text above; below, each model's likeliest tokens, those of largest advantage, and the whole vocabulary."""
    figure = plane.canvas(_DEEP, TITLE, f"{MARKS} {note}")
    wall = plane.wall(figure, 0, 0, *_DEEP)
    _text(wall, view, {view.position: ""})
    for place, name in enumerate(MODELS):
        _likely(wall, view, name, (0.35 + 1.78 * place, 4.38))
    _advantaged(wall, view, (0.35, 2.62))
    axis = plane.axes(figure, 6.3, 1.2, 3.45, 3.05)
    _draw_cloud(axis, view, 3)
    axis.set_title(f"All {view.size:,} tokens", pad=6)
    return figure


@themed
def stills(views: Sequence[View], note: str = SOURCE) -> Figure:
    """The text, and the whole vocabulary before three of its tokens, for a page without a kernel."""
    figure = plane.canvas(_PAGE, TITLE, f"{MARKS} {note}")
    wall = plane.wall(figure, 0, 0, *_PAGE)
    _text(wall, views[0], {view.position: _CIRCLED[place] for place, view in enumerate(views)})
    for place, view in enumerate(views):
        left = 0.75 + 3.16 * place
        axis = plane.axes(figure, left, 2.15, 2.5, 1.8)
        _draw_cloud(axis, view, 6)
        axis.set_title(f"{_CIRCLED[place]} before “{visible(view.here)}”", pad=5, parse_math=False)
        if place:
            axis.set_ylabel("")
        _short(wall, view, (left - 0.3, 1.5))
    return figure


def _text(wall: Axes, view: View, framed: Mapping[int, str]) -> None:
    heading = TEXTS[view.text]
    wall.text(0.35, wall.get_ylim()[1] - 0.62, f"{heading[0].upper()}{heading[1:]}", fontweight="bold", **_HEAD)
    colours = Colours(QUANTITIES[view.quantity], view.limit, signed=view.quantity not in ("mask", "kl"))
    if view.quantity == "mask":
        colours = colours._replace(words=f"{colours.words}, none of the prompt's", scale=False)
    draw_text(wall, "".join(view.prompt), view.words, view.values, colours, framed)


# One position -----------------------------------------------------------------------------------------


def _likely(wall: Axes, view: View, name: str, corner: tuple[float, float]) -> None:
    """A model's likeliest next tokens under the corner, a bar for the probability behind each."""
    (left, top), wide = corner, 22 * LETTER + 0.06
    wall.text(left, top, NAMES[name], fontsize=9.5, fontweight="bold", va="center")
    for row, candidate in enumerate(view.likely[name]):
        y, prob = top - 0.06 - _ROW * (row + 1), candidate.probs[name]
        wall.add_patch(Rectangle((left, y - 0.1), wide * prob, 0.2, facecolor="#C9DECF", linewidth=0))
        mono(wall, (left + 0.03, y), f"{_cut(candidate, 15):<15}{_percent(prob):>7}", INK)
        if candidate == view.here:
            frame(wall, (left, y - 0.11), wide, 0.22)


def _advantaged(wall: Axes, view: View, corner: tuple[float, float]) -> None:
    """The tokens of the largest advantage under the corner, and where each stands in the models' orders."""
    (left, top), wide = corner, 70 * LETTER + 0.06
    ends = [left + 0.03 + letters * LETTER for letters in (31, 44, 57, 70)]
    wall.text(left, top - 0.21, "largest advantage", fontsize=9.5, fontweight="bold", va="center")
    wall.text(ends[-1], top, "place in the order of likelihood, for the", fontsize=8.2, ha="right", va="center")
    for x, head in zip(ends, ("A (nats)", "reference", "DPO teacher", "student"), strict=True):
        wall.text(x, top - 0.21, head, fontsize=8.2, ha="right", va="center")
    for row, candidate in enumerate(view.advantaged):
        y = top - 0.27 - _ROW * (row + 1)
        places = "".join(f"{candidate.ranks[name]:>13,}" for name in MODELS)
        words = f"{_cut(candidate, 22):<22}{number(candidate.advantage):>9}{places}"
        mono(wall, (left + 0.03, y), words, _ADVANTAGED)
        if candidate == view.here:
            frame(wall, (left, y - 0.11), wide, 0.22)


def _short(wall: Axes, view: View, corner: tuple[float, float]) -> None:
    """For a page: the DPO teacher's three likeliest tokens, and the three of largest advantage with their places."""
    left, top = corner
    probs = [(_cut(c, 11), _percent(c.probs["dpo"])) for c in view.likely["dpo"][:3]]
    places = [(_cut(c, 12), f"{c.ranks['dpo']:,}") for c in view.advantaged[:3]]
    groups = ((0.0, "likeliest", probs, _LIKELY), (1.52, "largest A, and place", places, _ADVANTAGED))
    for shift, head, rows, colour in groups:
        wall.text(left + shift, top, head, fontsize=8.2, fontweight="bold", va="center")
        for row, (words, said) in enumerate(rows):
            mono(wall, (left + shift, top - 0.02 - 0.22 * (row + 1)), f"{words:<12}{said:>7}", colour)


def _draw_cloud(axis: Axes, view: View, powers: int) -> None:
    """Every token of the vocabulary: how likely the DPO teacher finds it, and its advantage."""
    left, right, low, high = view.extent
    counts = np.ma.masked_equal(view.cloud, 0)
    look = {"cmap": _CLOUD, "norm": LogNorm(1, 300), "zorder": 1.5}
    axis.imshow(counts, origin="lower", extent=view.extent, aspect="auto", **look)
    axis.axhline(0, color=QUIET, linewidth=0.8, zorder=1.6)
    groups = ((view.likely["dpo"], "o", _LIKELY), (view.advantaged, "D", _ADVANTAGED), ((view.here,), "s", INK))
    named: set[str] = set()
    for candidates, marker, colour in groups:
        places = [(np.log10(candidate.probs["dpo"]), candidate.advantage) for candidate in candidates]
        points = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
        axis.plot(*zip(*places, strict=True), marker, color=colour, clip_on=False, zorder=3, **points)
        if candidates[0].words not in named:
            named.add(candidates[0].words)
            # Likely ones stand at the right end, with the others of their kind above or beside them.
            _name(axis, candidates[0], places[0], colour, places[0][0] > left + 0.6 * (right - left), marker == "o")
    axis.set(xlim=(left, right), ylim=(low, high + 0.08 * (high - low)))
    ticks = np.arange(powers * np.ceil(left / powers), 0.5, powers)
    axis.set_xticks(ticks, [f"10{str(int(power)).translate(_SUPERSCRIPT)}" if power else "1" for power in ticks])
    axis.set_xlabel("probability, DPO teacher")
    axis.set_ylabel("advantage A (nats)")


def _name(axis: Axes, candidate: Candidate, place: tuple[float, float], colour: str, left: bool, below: bool) -> None:
    shift, side = (-5 if left else 5, -13 if below else 6), "right" if left else "left"
    look = {"color": colour, "fontsize": 8.2, "fontfamily": MONO, "parse_math": False}
    look["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    axis.annotate(_cut(candidate, 14), place, shift, textcoords="offset points", ha=side, zorder=4, **look)


def _cut(candidate: Candidate, letters: int) -> str:
    words = visible(candidate)
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _percent(prob: float) -> str:
    return f"{100 * prob:.2g} %" if prob >= 0.001 else "<0.1 %"


def show(*shown: str, lens: Lens | None = None, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    `lens` is what was read, `load()` where None.
    """
    lens = lens or load()
    longest = max(len(reading.labels) for reading in lens.readings.values())
    table = CONTROLS | {"position": CONTROLS["position"]._replace(high=float(longest))}
    look = functools.partial(compute, lens=lens)

    def still(state: Mapping[str, Any]) -> tuple[Figure, str]:
        views = [look({**state, "position": position}) for position in _STILL_POSITIONS]
        return stills(views), " ".join(map(caption, views))

    return Explorer(table, shown, state, look, draw, caption, SOURCE, "token_lens.show", still=still)
