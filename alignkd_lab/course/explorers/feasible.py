"""Explorer: "if the model does it now and then, alignment will find it". It needs pairs, and those can be counted.

Exact: the distribution of informative pairs of a rule as reward, every prompt at the same base rate (`lm.feasibility`).
Neither the reward's size nor the KL weight is among the controls, because neither is in the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from alignkd_lab.claims import LEAST_PAIRS
from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.course.widgets.controls import Number, start
from alignkd_lab.course.widgets.view import show_of
from alignkd_lab.lm.feasibility import SURE, Verdict, chance_of_pairs, expected_pairs, responses_for
from alignkd_lab.plots.drawing import INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import percent

# The study's target and sizes, as its plan names them (data/records/PLAN.md).
CONTROLS = {
    "rate": Number(0.023, "base rate of the target, m₀", 0.001, 0.5, 0.02, True),
    "responses": Number(24.0, "responses to each prompt, n", 2.0, 96.0, 1.0),
    "prompts": Number(96.0, "prompts", 8.0, 400.0, 1.0),
}
START = start(CONTROLS)
SOURCE = "Live: closed forms, exact; no model runs."
_RATES = np.geomspace(1e-3, 0.5, 90)
_RESPONSES = np.unique(np.geomspace(2, 96, 48).round().astype(int))
_COLOURS = ("#F3D9C9", "#FFFFFF", "#D5E6F2")  # no go, unsure, go


@dataclass(frozen=True)
class Feasible:
    """What the picture shows: the state, and what it predicts.

    chances: of enough pairs, by response count and base rate, [_RESPONSES, _RATES].
    curve: pairs expected at the state's rate, [_RESPONSES].
    pairs, chance: expected pairs, and the chance of at least `LEAST_PAIRS`, at the state.
    needed: responses a prompt from which that many are expected; None if thousands do not suffice.
    """

    rate: float
    prompts: int
    responses: int
    chances: np.ndarray
    curve: np.ndarray
    pairs: float
    chance: float
    needed: int | None

    @property
    def verdict(self) -> str:
        """`go`, `no go` or `a gamble`."""
        return "go" if self.chance >= SURE else "no go" if self.chance <= 1 - SURE else "a gamble"


def compute(state: Mapping[str, float]) -> Feasible:
    """Pairs expected and their chance; `rate` is a share, `prompts` and `responses` are rounded. Raises BadInput."""
    rate, prompts, responses = state["rate"], round(state["prompts"]), round(state["responses"])
    return Feasible(
        rate=rate,
        prompts=prompts,
        responses=responses,
        chances=chance_of_pairs(_RATES, prompts, _RESPONSES[:, None]),
        curve=expected_pairs(rate, prompts, _RESPONSES),
        pairs=float(expected_pairs(rate, prompts, responses)),
        chance=float(chance_of_pairs(rate, prompts, responses)),
        needed=responses_for(rate, prompts),
    )


def caption(data: Feasible) -> str:
    """What the picture shows at this state, in words."""
    drawn = data.prompts * data.responses
    text = (
        f"At a base rate of {percent(data.rate)}, {data.prompts} prompts × {data.responses} responses are {drawn:,} "
        f"draws with {data.pairs:.0f} informative pairs expected; the chance of at least {LEAST_PAIRS} is "
        f"{percent(data.chance)}: {data.verdict}."
    )
    if data.needed is None:
        return f"{text} Thousands of responses to each prompt would not give {LEAST_PAIRS}: choose another target."
    if data.needed == 2:
        return f"{text} Two responses to each prompt already give {LEAST_PAIRS} on average."
    return f"{text} From {data.needed:,} responses a prompt on, {LEAST_PAIRS} are expected; no reward changes that."


@themed
def draw(data: Feasible, note: str = SOURCE) -> Figure:
    """Left: where there is enough to learn from. Right: pairs expected by responses at this base rate."""
    figure, grid = panels(1, 2, (10, 4.3), "Is there enough to learn from?", note)
    _map(grid[0, 0], data)
    _curve(grid[0, 1], data)
    return figure


@themed
def rates(found: Mapping[str, Verdict], drawn: int, prompts: int, responses: int, note: str) -> Figure:
    """The base rate of each target with its interval, and what `prompts` × `responses` draws would make of it."""
    title = f"What {drawn} draws say of a run with {prompts} prompts × {responses} responses"
    figure, ((axis,),) = panels(1, 1, (10, 0.3 * len(found) + 1.6), title, note)
    lines = np.geomspace(5e-4, 0.7, 400)
    chances = chance_of_pairs(lines, prompts, responses)
    gamble = lines[(chances > 1 - SURE) & (chances < SURE)]
    axis.axvspan(lines[0], gamble[0], color=_COLOURS[0], zorder=0)
    axis.axvspan(gamble[-1], lines[-1], color=_COLOURS[2], zorder=0)
    for place, verdict in enumerate(found.values()):
        rate, low, high = verdict.rate
        axis.plot([max(low, lines[0]), high], [place, place], color=POINT, linewidth=2.4)
        if rate > 0:
            axis.plot(rate, place, "o", color=POINT, markersize=8, markeredgecolor="white")
        write(axis, verdict.verdict, (lines[-1], place), (6, 0), INK, va="center", annotation_clip=False)
    axis.set(xscale="log", xlim=(lines[0], lines[-1]), ylim=(len(found) - 0.4, -0.9))
    axis.set_yticks(range(len(found)), [name.replace("_", " ") for name in found])
    axis.set_xticks([0.001, 0.01, 0.1, 0.5], ["0.1 %", "1 %", "10 %", "50 %"])
    axis.minorticks_off()
    write(axis, "no go", (lines[0], -0.9), (6, -11), QUIET, fontweight="bold")
    write(axis, "go", (lines[-1], -0.9), (-6, -11), QUIET, ha="right", fontweight="bold")
    axis.set_xlabel("base rate of the target, with its 95 % interval")
    axis.grid(axis="y", visible=False)
    return figure


show = show_of(CONTROLS, compute, draw, caption, SOURCE, "feasible.show")


def _map(axis: Axes, data: Feasible) -> None:
    zones = np.digitize(data.chances, [1 - SURE, SURE])
    axis.pcolormesh(_RATES, _RESPONSES, zones, cmap=ListedColormap(_COLOURS), vmin=0, vmax=2, shading="nearest")
    axis.set(xscale="log", yscale="log", xlim=(_RATES[0], _RATES[-1]), ylim=(2, 96))
    axis.set_title(f"Chance of at least {LEAST_PAIRS} pairs, {data.prompts} prompts")
    axis.set_xticks([0.001, 0.01, 0.1, 0.5], ["0.1 %", "1 %", "10 %", "50 %"])
    _count_ticks(axis.set_yticks)
    axis.minorticks_off()
    axis.grid(visible=False)
    if (zones == 0).mean() > 0.04:
        write(axis, f"no go: ≤ {100 * (1 - SURE):.0f} %", (_RATES[0], 2), (8, 8), INK, fontweight="bold")
    if (zones == 2).mean() > 0.04:
        write(axis, f"go: ≥ {100 * SURE:.0f} %", (_RATES[-1], 96), (-8, -14), INK, ha="right", fontweight="bold")
    axis.plot(data.rate, data.responses, "o", color=POINT, markersize=11, markeredgecolor="white", clip_on=False)
    axis.set_xlabel("base rate of the target, m₀")
    axis.set_ylabel("responses to each prompt, n")


def _curve(axis: Axes, data: Feasible) -> None:
    axis.set_title(f"Pairs expected at a base rate of {percent(data.rate)}")
    top = max(2.2 * LEAST_PAIRS, 1.25 * data.pairs)
    axis.plot(_RESPONSES, data.curve, color=INK, linewidth=2)
    axis.axhline(LEAST_PAIRS, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    write(axis, f"the bar: {LEAST_PAIRS}", (100, LEAST_PAIRS), (-6, 4), QUIET, ha="right")
    axis.plot([data.responses] * 2, [0, data.pairs], color=POINT, linewidth=2.2)
    axis.plot(data.responses, data.pairs, "o", color=POINT, markersize=10, markeredgecolor="white", zorder=5)
    axis.set(xscale="log", xlim=(2, 100), ylim=(0, top))
    _count_ticks(axis.set_xticks)
    axis.minorticks_off()
    axis.set_xlabel("responses to each prompt, n")
    axis.set_ylabel("informative pairs")


def _count_ticks(place) -> None:
    counts = (2, 4, 8, 16, 32, 64, 96)
    place(counts, [str(count) for count in counts])
