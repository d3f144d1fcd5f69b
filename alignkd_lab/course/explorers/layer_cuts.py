"""Explorer of which layers may go: how much each of them turns the passing state, and what is left without some.

Influence is measured and recorded with the shipped student; what a cut still recalls is measured live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from alignkd_lab.course.widgets.charts import POINT, Chart, Menu, beside, caption, parameters, stack
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.student import layer_cut
from alignkd_lab.plots.drawing import INK, QUIET
from alignkd_lab.plots.style import number

# Which 14 of the 30 layers go.
CUTS = {"first": range(14), "middle": range(8, 22), "last": range(16, 30), "every second": range(2, 30, 2)}
KEPT, DROPPED = "#332288", "#C9CDD2"  # no pipeline's colours
SOURCE = (
    "Left, record: influence on the healing texts. Right, live: SmolLM2-135M-Instruct, log-likelihood of its own texts "
    "under each cut."
)


def recalls(base, samples: Samples) -> dict[str, float]:
    """Mean log-likelihood of the base's own samples under each cut of `CUTS`, nats per token; nothing is trained."""
    layers = range(base.config.num_hidden_layers)
    cuts = {name: [layer for layer in layers if layer not in dropped] for name, dropped in CUTS.items()}
    return {name: pooled_mean(score(layer_cut(base, kept), samples)) for name, kept in cuts.items()}


def show(
    influence: Sequence[float],
    shipped: Sequence[int],
    found: Mapping[str, float],
    whole: float,
    options: Mapping[str, str],
    **state: str,
) -> Chart:
    """Left: the influence of every layer. Right: what the base's texts are worth under each cut, and under the base.

    Args:
        influence: of each layer.
        shipped: the layers that the shipped student keeps, one more cut to look at.
        found: `recalls`; `whole` is the base's own.
        options: the cuts in words.
        state: the `cut` that is marked at first.
    """
    options = {name: f"without {options[name]}" for name in found} | {"shipped": "the shipped student's layers"}
    cuts = {**CUTS, "shipped": [layer for layer in range(len(influence)) if layer not in shipped]}
    controls = {"cut": Menu("middle", "which layers go", options)}
    said = {}
    for name, label in options.items():
        summed = number(sum(influence[layer] for layer in cuts[name]))
        said[name] = f"{label[0].upper()}{label[1:]}: influence {summed} together"
        said[name] += (
            f"; recall falls from {number(whole)} to {number(found[name])} nats per token."
            if name in found
            else f" of the {len(cuts[name])} that go, not 14. Healed, it stands in the next cell."
        )
    ranked = rankings(influence, found)
    words = caption(f"{list(said.values())}[indexof({list(said)}, cut)]", repr(ranked), repr(SOURCE))
    panels = beside(_influence(influence, cuts), _recalls(influence, found, whole, options))
    alternative = f"{ranked} {SOURCE}"
    return Chart(stack("Which layers can go?", panels, words), alternative, parameters(controls, (), state))


def rankings(influence: Sequence[float], found: Mapping[str, float]) -> str:
    """The cuts by influence and by what they recall."""
    summed = {name: sum(influence[layer] for layer in CUTS[name]) for name in found}
    least, most = sorted(summed, key=summed.get), sorted(found, key=found.get, reverse=True)
    return f"From least influence to most: {', '.join(least)}. From most recall to least: {', '.join(most)}."


def _influence(influence: Sequence[float], cuts: Mapping[str, Sequence[int]]) -> alt.LayerChart:
    rows = [
        {"layer": layer, "influence": turned, "goes": [name for name, dropped in cuts.items() if layer in dropped]}
        for layer, turned in enumerate(influence)
    ]
    least = 0.01
    scale = alt.Scale(type="log", domain=[least, 1.2], nice=False)
    axis = alt.Axis(title="block influence, logarithmic", values=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], format="~g")
    layers = alt.Axis(title="layer, from the input to the output", values=[0, 5, 10, 15, 20, 25, 29], labelAngle=0)
    goes = "indexof(datum.goes, cut) >= 0"
    bars = alt.Chart(alt.InlineData(rows)).mark_bar(width=9)
    bars = bars.encode(
        alt.X("layer:Q", scale=alt.Scale(domain=[-0.7, len(influence) - 0.3], nice=False), axis=layers),
        alt.Y("influence:Q", scale=scale, axis=axis),
        y2=alt.datum(least),
        color=alt.condition(goes, alt.value(DROPPED), alt.value(KEPT)),
    )
    named = alt.Chart(alt.sequence(0, 1)).encode(x=alt.value(350))
    kept = named.mark_text(align="right", color=KEPT, fontWeight="bold", text="stays").encode(y=alt.value(8))
    gone = named.mark_text(align="right", color=QUIET, fontWeight="bold", text="goes").encode(y=alt.value(26))
    return alt.layer(bars, kept, gone).properties(
        width=380, height=290, title="How much each layer turns the passing state"
    )


def _recalls(
    influence: Sequence[float], found: Mapping[str, float], whole: float, options: Mapping[str, str]
) -> alt.LayerChart:
    rows = [
        {
            "cut": name,
            "label": options[name],
            "recall": recall,
            "said": f"{number(recall)}; influence {number(sum(influence[layer] for layer in CUTS[name]), 2)}",
        }
        for name, recall in sorted(found.items(), key=lambda each: each[1], reverse=True)
    ]
    lines = "['without', replace(datum.label, 'without ', '')]"
    y = alt.Y("label:N", sort=None, axis=alt.Axis(title=None, labelExpr=lines, domain=False))
    title = "log-likelihood of the base's texts (nats per token)"
    scale = alt.Scale(domain=[1.06 * min(found.values()), 0], nice=False)
    x = alt.X("recall:Q", scale=scale, axis=alt.Axis(title=title, tickCount=6))
    cut = alt.Chart(alt.InlineData(rows))
    chosen = "datum.cut == cut"
    colour = alt.condition(chosen, alt.value(POINT), alt.value("#9AA3AD"))
    base = alt.Chart(alt.InlineData([{"recall": whole}])).encode(x)
    # To the side that has room.
    right = f"(datum.recall < {0.55 * min(found.values())})"
    return alt.layer(
        base.mark_rule(color=INK, strokeDash=[5, 4]),
        cut.mark_rule(strokeWidth=3, color=DROPPED).encode(x, y, x2=alt.datum(whole)),
        cut.mark_circle(size=110, opacity=1).encode(x, y, color=colour),
        cut.transform_filter(right).mark_text(align="left", dx=0, dy=-14).encode(x, y, text="said:N"),
        cut.transform_filter(f"!{right}").mark_text(align="right", dx=0, dy=-14).encode(x, y, text="said:N"),
        base.mark_text(align="right", dx=-6, dy=-4, text=f"the base: {number(whole)}").encode(y=alt.value(6)),
    ).properties(width=300, height=290, title="What 16 layers still recall")
