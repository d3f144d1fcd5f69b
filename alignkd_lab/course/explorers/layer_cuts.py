"""The picture of which layers may go: how much each of them turns the passing state, and what is left without some.

Influence is measured and recorded with the shipped student; what a cut still recalls is measured live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.student import layer_cut
from alignkd_lab.plots.drawing import INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number

# Which 14 of the 30 layers go.
CUTS = {"first": range(14), "middle": range(8, 22), "last": range(16, 30), "every second": range(2, 30, 2)}
KEPT, DROPPED, CHOICE = "#332288", "#C9CDD2", "#882255"  # no pipeline's colours
SOURCE = (
    "Left, record: influence on the healing texts, and the shipped student's layers. Right, live: "
    "SmolLM2-135M-Instruct, log-likelihood of its own texts under each cut; nothing is healed."
)


def recalls(base, samples: Samples) -> dict[str, float]:
    """Mean log-likelihood of the base's own samples under each cut of `CUTS`, nats per token; nothing is trained."""
    layers = range(base.config.num_hidden_layers)
    cuts = {name: [layer for layer in layers if layer not in dropped] for name, dropped in CUTS.items()}
    return {name: pooled_mean(score(layer_cut(base, kept), samples)) for name, kept in cuts.items()}


def caption(influence: Sequence[float], found: Mapping[str, float], whole: float, options: Mapping[str, str]) -> str:
    """What the picture shows, in words."""
    summed = {name: sum(influence[layer] for layer in CUTS[name]) for name in found}
    least, best = min(summed, key=summed.get), max(found, key=found.get)
    told = (
        f"Least influence together: {options[least]} ({number(summed[least])}). Without them the recall of the base's "
        f"texts falls from {number(whole)} to {number(found[least])} nats per token. Of the four cuts this is "
        f"{'the best' if best == least else f'not the best, which is without {options[best]}'}."
    )
    if sorted(summed, key=summed.get) == sorted(found, key=found.get, reverse=True):
        return f"{told} The other three come in the order of their influence, too."
    return f"{told} The other three come in another order: influences of layers do not simply add up."


@themed
def draw(
    influence: Sequence[float],
    kept: Sequence[int],
    found: Mapping[str, float],
    whole: float,
    options: Mapping[str, str],
) -> Figure:
    """Left: the influence of every layer. Right: what the base's texts are worth under each cut, and under the base."""
    note = f"{caption(influence, found, whole, options)} {SOURCE}"
    figure, grid = panels(1, 2, (10, 4.4), "Which layers can go?", note)
    _influence(grid[0, 0], np.asarray(influence), kept)
    _recalls(grid[0, 1], influence, found, whole, options)
    return figure


def _influence(axis: Axes, influence: np.ndarray, kept: Sequence[int]) -> None:
    colours = [KEPT if layer in kept else DROPPED for layer in range(len(influence))]
    axis.bar(range(len(influence)), influence, color=colours, width=0.8)
    axis.set(yscale="log", xlim=(-0.8, len(influence) - 0.2))
    axis.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    axis.minorticks_off()
    axis.grid(axis="x", visible=False)
    axis.set_title("How much each layer turns the state")
    axis.set_xlabel("layer, from the input to the output")
    axis.set_ylabel("block influence (logarithmic)")
    write(axis, "kept by the shipped student", (0.97, 0.93), (0, 0), KEPT, xycoords="axes fraction", ha="right")
    write(axis, "dropped", (0.97, 0.86), (0, 0), QUIET, xycoords="axes fraction", ha="right")


def _recalls(
    axis: Axes, influence: Sequence[float], found: Mapping[str, float], whole: float, options: Mapping[str, str]
) -> None:
    names = sorted(found, key=found.get, reverse=True)
    for place, name in enumerate(names):
        summed = sum(influence[layer] for layer in CUTS[name])
        axis.plot([found[name], whole], [place, place], color=DROPPED, linewidth=3, zorder=2)
        axis.plot(found[name], place, "o", color=CHOICE, markersize=9, markeredgecolor="white", zorder=3)
        text = f"{number(found[name])}; influence {number(summed, 2)}"
        write(axis, text, (found[name], place), (0, 9), INK, ha="left" if place else "right")
    axis.axvline(whole, color=INK, linewidth=1.3, linestyle=(0, (4, 3)))
    write(axis, f"the base: {number(whole)}", (whole, len(names) - 0.5), (-5, 4), INK, ha="right")
    axis.set_yticks(range(len(names)), [f"without\n{options[name]}" for name in names])
    axis.set_ylim(len(names) - 0.45, -0.6)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.06)
    axis.set_title("What 16 layers still recall")
    axis.set_xlabel("log-likelihood of the base's texts (nats per token)")
