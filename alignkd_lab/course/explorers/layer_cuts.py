"""The picture of which layers may go: how much each turns the passing state, and what is left without some of them.

Influence is measured and recorded with the shipped student; what a cut still recalls is measured live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.student import layer_cut
from alignkd_lab.plots.drawing import INK, panels, themed, write
from alignkd_lab.plots.style import number

# Which 14 of the 30 layers go.
CUTS = {"first": range(14), "middle": range(8, 22), "last": range(16, 30), "every second": range(2, 30, 2)}
KEPT, DROPPED = "#332288", "#C9CDD2"  # no pipeline's colours


def recalls(base, samples: Samples) -> dict[str, float]:
    """Mean log-likelihood of the base's own samples under each cut of `CUTS`, nats per token; nothing is trained."""
    layers = range(base.config.num_hidden_layers)
    cuts = {name: [layer for layer in layers if layer not in dropped] for name, dropped in CUTS.items()}
    return {name: pooled_mean(score(layer_cut(base, kept), samples)) for name, kept in cuts.items()}


def show(influence: Sequence[float], found: Mapping[str, float], whole: float, options: Mapping[str, str]) -> Picture:
    """The influence of every layer, and below it which layers each cut drops, with what is left.

    Args:
        influence: of each layer.
        found: `recalls`; `whole` is the base's own.
        options: the cuts in words.
    """
    return kept(draw(influence, found, whole, options), rankings(influence, found))


def rankings(influence: Sequence[float], found: Mapping[str, float]) -> str:
    """The cuts by influence and by what they recall."""
    summed = {name: sum(influence[layer] for layer in CUTS[name]) for name in found}
    least, most = sorted(summed, key=summed.get), sorted(found, key=found.get, reverse=True)
    return f"From least influence to most: {', '.join(least)}. From most recall to least: {', '.join(most)}."


@themed
def draw(influence: Sequence[float], found: Mapping[str, float], whole: float, options: Mapping[str, str]) -> Figure:
    note = (
        "Above, record: influence on the healing texts. Below, live: SmolLM2-135M-Instruct, log-likelihood of its own "
        f"texts under each cut in nats per token, where the base has {number(whole)}. {rankings(influence, found)}"
    )
    figure, ((bars,), (cuts,)) = panels(2, 1, (10, 5), "Which layers can go?", note, heights=(3, 2))
    layers = range(len(influence))
    bars.bar(layers, influence, color=KEPT)
    bars.set(yscale="log", ylabel="block influence", xticks=layers)
    for place, (name, recall) in enumerate(sorted(found.items(), key=lambda each: -each[1])):
        colours = [DROPPED if layer in CUTS[name] else KEPT for layer in layers]
        cuts.scatter(layers, [place] * len(layers), c=colours, marker="s", s=70)
        summed = sum(influence[layer] for layer in CUTS[name])
        words = f"influence {number(summed, 2)}, recall {number(recall)}"
        write(cuts, words, (layers[-1], place), (12, 0), INK, va="center", annotation_clip=False)
    cuts.set_yticks(range(len(found)), [f"without {options[name]}" for name in sorted(found, key=found.get)[::-1]])
    cuts.set(xticks=layers, xlabel="layer, from the input to the output; grey: goes", ylim=(len(found) - 0.4, -0.6))
    for axis in (bars, cuts):
        axis.set_xlim(-0.7, len(influence) + 7)  # room for words
        axis.grid(visible=False)
    return figure
