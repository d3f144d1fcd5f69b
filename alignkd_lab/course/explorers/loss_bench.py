"""Explorer: "DPO stops when the winner leads". Four outcomes at one state, moved by the package's own losses.

What moves them is `toy.walk`. Token 2 beat token 1 in the only pair; no pair speaks of tokens 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.course.toy.walk import ADVANTAGES, LAST, LOSER, WINNER, walk
from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.course.widgets.controls import Choice, Number, start
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import BAND, INK, QUIET, themed, write
from alignkd_lab.plots.style import number, percent

LOSSES = {
    "dpo": "DPO on the pair: token 2 beat token 1",
    "nll": "NLL of the winner",
    "forward": "forward KL from the DPO teacher",
    "reverse": "reverse KL to the DPO teacher",
    "jsd": "JSD between DPO teacher and policy",
    "skew": "skew KL from the DPO teacher",
    "adpa": "ADPA's advantage alone, without the NLL",
    "adpa_nll": "ADPA: NLL of the winner and the advantage",
}
DESCENTS = {"gradient": "plain gradient descent", "adam": "Adam"}
CONTROLS = {
    "loss": Choice("dpo", "loss", LOSSES),
    "steps": Number(0.0, "training steps", 0.0, float(LAST), 1.0),
    "reference_margin": Number(-0.693, "winner ahead in the reference, Δ_ref (nats)", -25.0, 5.0, 0.5),
    "beta": Number(0.5, "KL weight of DPO, β", 0.05, 5.0, 0.05, True),
    "gamma": Number(1.5, "weight of ADPA's advantage, γ", 0.0, 6.0, 0.1),
    "optimiser": Choice("gradient", "steps by", DESCENTS),
}
START = start(CONTROLS)
SATISFIED = 0.05  # the weight below which we call DPO satisfied
SOURCE = "Live: the package's own losses and their gradients on four logits, exact; no language model."
_PAIRED, _BETA, _GAMMA = ("dpo", "nll", "adpa_nll"), ("dpo",), ADVANTAGES

TITLE = "Four outcomes under a loss: what it pushes, and when it stops pushing"
# Tol's muted palette, which colour-blind readers can tell apart; no pipeline's colour.
LOSER_COLOUR, WINNER_COLOUR = "#882255", "#117733"
_COLOURS = (LOSER_COLOUR, WINNER_COLOUR, "#332288", "#999933")
_DASHES = ("-", "-", (0, (5, 2)), (0, (1, 1.5)))
_LEAST = -12.0  # power of ten of the least share shown
_STEPS = range(0, LAST + 1, 10)
_BARS = {"width": 0.5, "zorder": 2, "linewidth": 0}


@dataclass(frozen=True)
class Bench:
    """What the picture shows: the walk of `LAST` steps from the reference, and where on it the state stands.

    state: of the controls; step: the number of steps taken.
    log_probs: `[step, token]`, of the policy; losses: `[step]`; pushes: `[step, token]`, minus the gradient
        of the loss by each logit.
    weights: `[step]`, DPO's weight of the pair; None under another loss.
    log_reference: `[token]`; log_teacher: `[token]`, of the DPO teacher, None where the loss asks none.
    """

    state: dict[str, Any]
    step: int
    log_probs: np.ndarray
    losses: np.ndarray
    pushes: np.ndarray
    weights: np.ndarray | None
    log_reference: np.ndarray
    log_teacher: np.ndarray | None

    @property
    def probs(self) -> np.ndarray:
        """The policy's probabilities after the state's steps."""
        return np.exp(self.log_probs[self.step])

    @property
    def margins(self) -> np.ndarray:
        """log pi(winner) - log pi(loser) after every step."""
        return self.log_probs[:, WINNER] - self.log_probs[:, LOSER]

    @property
    def paired(self) -> bool:
        """Whether the loss knows which token won."""
        return self.state["loss"] in _PAIRED


def compute(state: Mapping[str, Any]) -> Bench:
    """Descend from the reference, and say where the policy stands after `steps`."""
    beta = state["beta"] if state["loss"] in _BETA else START["beta"]
    gamma = state["gamma"] if state["loss"] in _GAMMA else START["gamma"]
    walked = walk(state["loss"], float(state["reference_margin"]), beta, gamma, state["optimiser"])
    return Bench({name: state[name] for name in START}, min(LAST, max(0, round(state["steps"]))), *walked)


def caption(data: Bench) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    state = data.state
    setting = [f"Δ_ref = {number(state['reference_margin'])}"]
    if state["loss"] in _BETA:
        setting.insert(0, f"β = {state['beta']:g}")
    if state["loss"] in _GAMMA:
        setting.insert(0, f"γ = {state['gamma']:g}")
    name = LOSSES[state["loss"]]
    taken = f"after {data.step} steps of {DESCENTS[state['optimiser']]}" if data.step else "at the start"
    return f"{name[0].upper()}{name[1:]} ({', '.join(setting)}), {taken}: {_seen(data)}"


# In words ---------------------------------------------------------------------------------------------


def _seen(data: Bench) -> str:
    name = data.state["loss"]
    if name == "dpo":
        return _dpo_seen(data)
    if name == "nll":
        return (
            f"the winner has {percent(data.probs[WINNER])}, and is pushed on by what it lacks of 100 %, "
            "lead or no lead. Nobody asks what the reference said of it."
        )
    return _adpa_seen(data) if name in _GAMMA else _kd_seen(data)


def _dpo_seen(data: Bench) -> str:
    margin, weight = data.margins[data.step], data.weights[data.step]
    others, before = (np.exp(shares[2:]).sum() for shares in (data.log_probs[data.step], data.log_reference))
    said = f"Δ_θ = {number(margin)}, weight {number(weight, 2)}. {_belief(margin, weight, data.step)}"
    since = f" ({percent(before)} at the start)" if data.step else ""
    return f"{said} Tokens 3 and 4, of which no pair speaks, have {percent(others)}{since}."


def _belief(margin: float, weight: float, step: int) -> str:
    """Whether "DPO stops when the winner leads" holds here: pushing behind, still ahead."""
    ahead = "winner" if margin > 0 else "loser"
    lead = f"the {ahead} is {_times(abs(margin))} likelier"
    if step == 0:
        return f"The policy is the reference, and the weight is ½, although {lead}."
    if margin <= 0 and weight < SATISFIED:
        return f"The belief fails: DPO is satisfied, and {lead} still."
    if margin > 0 and weight >= SATISFIED:
        return f"The belief fails: {lead}, and DPO pushes on."
    if margin > 0:
        return f"The push has faded and {lead}, but what faded it is the distance from Δ_ref, not the lead."
    return f"So far the belief holds: {lead}, and DPO pushes on."


def _times(margin: float) -> str:
    ratio = np.exp(margin)
    if ratio < 1.05:
        return "hardly"
    return f"{float(f'{ratio:.2g}'):,.4g} times" if ratio < 1e4 else f"{float(f'{ratio:.2g}'):,.0f} times"


def _kd_seen(data: Bench) -> str:
    gaps = np.abs(data.probs - np.exp(data.log_teacher))
    worst = int(gaps.argmax())
    if gaps[worst] < 0.005:
        return "the policy is the teacher, to half a percent on every token, and no push is left."
    return (
        f"farthest from the teacher is token {worst + 1}, with {percent(data.probs[worst])} where the teacher has "
        f"{percent(np.exp(data.log_teacher[worst]))}. A whole distribution speaks of every token, compared or not, "
        "and pushes until it is matched, not until somebody leads."
    )


def _adpa_seen(data: Bench) -> str:
    advantage = data.log_teacher - data.log_reference
    best, pushed, top = int(advantage.argmax()), int(data.pushes[data.step].argmax()), int(data.probs.argmax())
    rare = max(np.exp(data.log_teacher[best]), np.exp(data.log_reference[best])) < 0.05
    ending = f" It has ended on token {best + 1}{', which both teachers find rare' if rare else ''}."
    standing = f"the likeliest is token {top + 1} ({percent(data.probs[top])})"
    if top != best:
        standing += f", and token {best + 1} has {percent(data.probs[best])}"
    return (
        f"the advantage is largest on token {best + 1} (A = {number(advantage[best])}), the push on token "
        f"{pushed + 1}; {standing}." + (ending if data.probs[best] > 0.9 else "")
    )


# The picture ---------------------------------------------------------------------------------------


@themed
def draw(data: Bench, note: str = SOURCE) -> Figure:
    """Left: shares and pushes by token. Right: shares along the walk; DPO's weight, or the loss, with the state."""
    figure = plane.canvas((10.0, 6.2), TITLE, note)
    _shares(plane.axes(figure, 0.75, 3.55, 4.1, 1.95), data)
    _pushes(plane.axes(figure, 0.75, 0.95, 4.1, 1.7), data)
    _walk(plane.axes(figure, 5.75, 3.55, 3.7, 1.95), data)
    below = plane.axes(figure, 5.75, 0.95, 3.7, 1.7)
    if data.weights is None:
        _loss(below, data)
    else:
        _weight(below, data)
    return figure


def _names(data: Bench) -> list[str]:
    roles = {LOSER: "\nloser", WINNER: "\nwinner"} if data.paired else {}
    return [f"token {place + 1}{roles.get(place, '')}" for place in range(len(data.probs))]


def _shares(axis: Axes, data: Bench) -> None:
    probs, reference = data.probs, np.exp(data.log_reference)
    places = np.arange(len(probs))
    axis.bar(places, probs, color=_COLOURS, **_BARS)
    axis.hlines(reference, places - 0.36, places + 0.36, color=INK, linewidth=1.6, zorder=3)
    tops = np.maximum(probs, reference)
    key = "bars: policy;  — reference"
    if data.log_teacher is not None:
        teacher = np.exp(data.log_teacher)
        axis.plot(places, teacher, "D", color="white", markeredgecolor=INK, markersize=6, markeredgewidth=1.4, zorder=4)
        tops, key = np.maximum(tops, teacher), f"{key};  ◇ DPO teacher"
    for place, (top, prob) in enumerate(zip(tops, probs, strict=True)):
        write(axis, percent(prob), (place, top), (0, 6), INK, ha="center")
    axis.set(xlim=(-0.6, len(probs) - 0.4), ylim=(0, 1.12))
    axis.set_xticks(places, _names(data))
    axis.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    _title(axis, "Shares", key)


def _pushes(axis: Axes, data: Bench) -> None:
    """Arrows of one scale for the whole walk, so that a fading push is seen to fade."""
    push, reach = data.pushes[data.step], np.abs(data.pushes).max()
    reach = max(reach, 1e-9)
    places = np.arange(len(push))
    axis.axhline(0, color=QUIET, linewidth=1, zorder=1)
    axis.bar(places, push, color=_COLOURS, **{**_BARS, "width": 0.1})
    for place, value in enumerate(push):
        if abs(value) > 0.02 * reach:
            look = {"color": _COLOURS[place], "markersize": 11, "markeredgewidth": 0, "zorder": 3}
            axis.plot(place, value, "^" if value > 0 else "v", **look)
        write(axis, number(value, 2), (place, value), (0, 9 if value >= 0 else -17), INK, ha="center")
    axis.set(xlim=(-0.6, len(push) - 0.4), ylim=(-1.45 * reach, 1.45 * reach))
    axis.set_xticks(places, _names(data))
    axis.set_yticks([0], ["0"])
    _title(axis, "Push on each logit", "minus the gradient; one scale for all steps")


def _walk(axis: Axes, data: Bench) -> None:
    """Powers of ten on a plain axis: a logarithmic one takes as long to draw as all the rest."""
    powers = data.log_probs / np.log(10)
    steps, low = np.arange(len(powers)), max(_LEAST, np.floor(powers.min() - 0.3))
    for place, (colour, dashes) in enumerate(zip(_COLOURS, _DASHES, strict=True)):
        axis.plot(steps, powers[:, place], color=colour, linewidth=1.9, linestyle=dashes)
        axis.plot(data.step, powers[data.step, place], "o", color=colour, markersize=6.5, markeredgecolor="white")
    axis.axvline(data.step, color=POINT, linewidth=1.2, zorder=1)
    for place, height in enumerate(plane.apart(powers[-1], 0.085 * (0.5 - low), low)):
        look = {"fontweight": "bold", "annotation_clip": False}
        write(axis, f"{place + 1}", (LAST, height), (6, -4), _COLOURS[place], **look)
    axis.set(xlim=(0, LAST), ylim=(low, 0.5))
    ticks = range(0, int(low) - 1, -3 if low < -5 else -1)
    axis.set_yticks(list(ticks), [_share(power) for power in ticks])
    axis.set_xticks(_STEPS)
    _title(axis, "Shares along the training", "logarithmic")
    axis.set_xlabel("training steps")


def _share(power: int) -> str:
    return "100 %" if power == 0 else percent(10.0**power) if power > -4 else f"$10^{{{power}}}$"


def _weight(axis: Axes, data: Bench) -> None:
    margins, reference, beta = data.margins, data.state["reference_margin"], data.state["beta"]
    low, high = min(margins.min(), -2.0) - 2, max(margins.max(), 0.0) + 5
    x = np.linspace(low, high, 200)
    axis.axvspan(0, high, color=BAND, zorder=0)
    write(axis, "winner leads", (high, 0.66), (-4, 0), QUIET, ha="right", va="center")
    axis.plot(x, 1 / (1 + np.exp(beta * (x - reference))), color=INK, linewidth=1.3)
    axis.plot([low, 0, 0, high], [0.5, 0.5, 0, 0], color=QUIET, linewidth=1.3, linestyle=(0, (4, 3)))
    axis.axhline(SATISFIED, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
    walked = slice(0, data.step + 1)
    axis.plot(margins[walked], data.weights[walked], color=POINT, linewidth=3.2, solid_capstyle="round")
    axis.plot(margins[data.step], data.weights[data.step], "o", color=POINT, markersize=10, markeredgecolor="white")
    axis.set(xlim=(low, high), ylim=(-0.04, 0.75))
    axis.set_yticks([0, SATISFIED, 0.25, 0.5], ["0", "0.05", "0.25", "0.5"])
    axis.set_xlabel("Δ_θ = log π(winner) − log π(loser), nats")
    _title(axis, "DPO's weight of the pair", "line: its rule;  - - the belief")


def _loss(axis: Axes, data: Bench) -> None:
    steps = np.arange(len(data.losses))
    axis.plot(steps, data.losses, color=INK, linewidth=1.9)
    axis.plot(data.step, data.losses[data.step], "o", color=POINT, markersize=10, markeredgecolor="white")
    axis.axvline(data.step, color=POINT, linewidth=1.2, zorder=1)
    axis.set_xlim(0, LAST)
    axis.set_xticks(_STEPS)
    axis.margins(y=0.15)
    axis.set_xlabel("training steps")
    _title(axis, "Loss", f"here {number(data.losses[data.step])} nats")


def _title(axis: Axes, title: str, key: str) -> None:
    axis.set_title(title, y=1.0, pad=6)
    axis.annotate(key, (1, 1), (0, 6), "axes fraction", "offset points", ha="right", fontsize=8.2, color=QUIET)
    axis.grid(axis="x", visible=False)


def show(*shown: str, stills: Sequence[Mapping[str, Any]] | None = None, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    `stills` are changes of the state that a page without a kernel shows below the first picture; where there are
    none, a third of the walk and its end. A slider that the chosen loss does not know is greyed out.
    """
    further = [{"steps": float(steps)} for steps in (LAST // 3, LAST)] if stills is None else stills
    made = Explorer(CONTROLS, shown, state, compute, draw, caption, SOURCE, "loss_bench.show", further)

    def grey_out() -> None:
        for name, uses in (("beta", _BETA), ("gamma", _GAMMA)):
            control = made.controls[name]
            control.number.disabled = control.slider.disabled = made.controls["loss"].value not in uses

    grey_out()
    made.controls["loss"].on_change(grey_out)
    return made
