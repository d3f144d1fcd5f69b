"""Explorer: "it always holds". A map of which order earns more, with the boundary that the closed form draws.

Every cell is a recorded run of twenty seeds. Two sliders choose the one that stands beside the map.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import altair as alt
import numpy as np

from alignkd_lab.course.explorers.orders import ALGORITHMS
from alignkd_lab.course.shipped import recorded
from alignkd_lab.course.widgets.charts import Chart, Menu, Slider, parameters
from alignkd_lab.course.widgets.heat import COLUMNS, policy
from alignkd_lab.course.widgets.pieces import POINT, axis, below, beside, numbered, sized
from alignkd_lab.mog.sweep import Grid, Lead, cell_edges, lead
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import INK
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.stats import paired_difference

SHARPENINGS = {
    "0.5": "s = 0.5: a teacher at high temperature",
    "1": "s = 1: the teacher as it is",
    "2": "s = 2: sharpened",
}
# They begin at the title picture's cell.
CONTROLS = {
    "target_weight": Slider(0.04, "target's share of the truth, m₀", 0.005, 0.2, 0.05, True),
    "beta": Slider(0.5, "KL weight, β", 0.12, 4.0, 0.05, True),
    "algorithm": Menu("rlhf", "alignment by", ALGORITHMS),
    "sharpening": Menu("2", "teacher", SHARPENINGS),
}
SOURCE = (
    "Recorded run. Gaussian world, 20 seeds a cell; densities: seed 0, darker is denser; dashed circle: the target."
)
_STUDY = "gaussians-boundary"
# Blue for K-A and vermilion for A-K as everywhere; pale enough for the marks that lie on them.
_COLOURS, _HIGHEST = ("#3D93C4", "#B9D9EA", "#FFFFFF", "#F6CBAE", "#DF7A35"), 4.0
_ROUTES = {A_K: "A-K", K_A: "K-A"}


@functools.cache
def shipped(algorithm: str, sharpening: float) -> tuple[Grid, Lead]:
    """The sweep's cells of one map, and who leads in them."""
    grid = Grid.of(recorded(_STUDY), algorithm, sharpening)
    return grid, lead(grid)


@functools.cache
def _data() -> dict[str, Any]:
    """What the chart knows, as parameters: every cell of every map, its counts, and the thresholds."""
    mixtures = recorded(_STUDY).mixtures
    held = mixtures[(mixtures["seed"] == 0) & mixtures["pipeline"].isin(_ROUTES)]
    components = {key: rows[COLUMNS].to_numpy().round(3).tolist() for key, rows in held.groupby(["run", "pipeline"])}
    cells, counts, lines = {}, {}, {}
    for algorithm in ALGORITHMS:
        for sharpening in SHARPENINGS:
            grid, whole = shipped(algorithm, float(sharpening))
            rewards = {order: grid.values(order) for order in _ROUTES}
            recalls = {order: grid.values(order, "overall_recall").mean(-1).round(2) for order in _ROUTES}
            told, rows = {"found": whole.found, "recall": recalls}, [[{} for _ in row] for row in grid.runs]
            for i, j in itertools.product(*map(range, whole.difference.shape)):
                gap = paired_difference(rewards[A_K][i, j], rewards[K_A][i, j])
                rows[i][j]["gap"] = [round(value, 6) for value in gap]  # no lead is rounded to none
                for order in _ROUTES:
                    rows[i][j][order] = {name: float(of[order][i, j]) for name, of in told.items()}
                    rows[i][j][order]["seeds"] = rewards[order][i, j].round(2).tolist()
                    rows[i][j][order]["mixture"] = components[grid.runs[i][j], order]
            cells.setdefault(algorithm, {})[sharpening] = rows
            a_k, k_a = (whole.found[order] > 0.5 for order in _ROUTES)
            found = (a_k & ~k_a, k_a & ~a_k, a_k & k_a, ~a_k & ~k_a)
            counts.setdefault(algorithm, {})[sharpening] = [int(part.sum()) for part in found]
            lines[sharpening] = whole.boundary_sharpened.tolist()
    lines |= {"plain": whole.boundary.tolist(), "betas": whole.boundary_betas.tolist()}
    edges = {"weight_edges": cell_edges(grid.weights).tolist(), "beta_edges": cell_edges(grid.betas).tolist()}
    axes = {"weights": grid.weights.tolist(), "betas": grid.betas.tolist()}
    return {"cells": cells, "counts": counts, "lines": lines, **edges, **axes}


def show(*shown: str, **state: float | str) -> Chart:
    """Left: the map. Right: what both orders left in the chosen cell, and what they earned."""
    moved = parameters(CONTROLS, shown, state)
    data = _data()
    further = data | {
        "chosen_map": "cells[algorithm][sharpening]",
        "column": _nearest("target_weight", data["weights"]),
        "row": _nearest("beta", data["betas"]),
        "chosen": "chosen_map[row][column]",
        "count": "counts[algorithm][sharpening]",
    }
    right = below(beside(_policy(K_A), _policy(A_K), spacing=16, color="shared"), _earned(), spacing=22)
    panels = beside(_map(data), right, spacing=36, color="independent", shape="independent")
    words = (
        "Chosen: m₀ = {weights[column]:share}, β = {betas[row]}. In mean reward {ahead}.",
        f"Overall recall: A-K {{chosen.{A_K}.recall:.3~r}} nats, K-A {{chosen.{K_A}.recall:.3~r}}. Cells where most "
        "seeds find the target with A-K alone: {count[0]}, K-A alone: {count[1]}, both: {count[2]}, neither: "
        "{count[3]}",
        "Orange: A-K earns more; blue: K-A; grey: the 95 % interval contains 0. ▲ A-K, ● K-A: the more seeds find "
        "it, the larger. Line: recall threshold{end}",
    )
    gap = "{chosen.gap[0]:.3~r} [{chosen.gap[1]:.3~r}, {chosen.gap[2]:.3~r}]"
    parts = {
        "ahead": {
            "chosen.gap[1] > 0": f"A-K is ahead by {gap}",
            "chosen.gap[2] < 0": f"K-A is ahead; A-K minus K-A: {gap}",
            "": f"neither is ahead; A-K minus K-A is {gap}, whose interval contains 0",
        },
        "end": {"sharpening == '1'": ".", "": "; dashed: after s."},
    }
    seen = (
        "Left: a map of KL weight against the target's share; orange where A-K earns more, blue where K-A does, with a "
        "mark where an order finds the target, and the recall threshold as a line. Right: the densities that both "
        "orders left in the framed cell, and their rewards."
    )
    title = "Where the order matters, and where it stops"
    return Chart(moved, title, panels, words=words, parts=parts, seen=seen, source=SOURCE, further=further, width=860)


def _nearest(name: str, values: list[float]) -> str:
    """The place in `values` that is nearest on a logarithmic scale."""
    gaps = ", ".join(f"abs(log({name} / {value}))" for value in values)
    return f"indexof([{gaps}], min({gaps}))"


def _map(data: dict[str, Any]) -> alt.LayerChart:
    across = len(data["weights"])
    weights, betas = data["weight_edges"], data["beta_edges"]
    look = {"log": True, "grid": False}
    x = axis(
        weights[0], weights[-1], "target's share of the truth, m₀", format="~%", values=data["weights"][::2], **look
    )
    y = axis(betas[0], betas[-1], "KL weight, β", format="~g", values=data["betas"][::2], **look)
    cells = numbered(across**2, "cell", j=f"datum.cell % {across}", i=f"floor(datum.cell / {across})")
    cells = cells.transform_calculate(
        left="weight_edges[datum.j]", right="weight_edges[datum.j + 1]", low="beta_edges[datum.i]",
        high="beta_edges[datum.i + 1]", held="chosen_map[datum.i][datum.j]",
    ).transform_calculate(
        # The square root makes room for small leads.
        lead=f"(datum.held.gap[0] < 0 ? -1 : 1) * sqrt(abs(datum.held.gap[0]) / {_HIGHEST})",
        sure="datum.held.gap[1] > 0 || datum.held.gap[2] < 0", m0="weights[datum.j]", KL_weight="betas[datum.i]",
        A_K=f"datum.held.{A_K}.found", K_A=f"datum.held.{K_A}.found",
    )  # fmt: skip
    box = {"x": alt.X("left:Q", **x), "x2": "right:Q", "y": alt.Y("low:Q", **y), "y2": "high:Q"}
    tips = [
        alt.Tooltip("m0:Q", title="m₀", format="~%"),
        alt.Tooltip("KL_weight:Q", title="β"),
        alt.Tooltip("A_K:Q", title="seeds that find the target, A-K", format=".0%"),
        alt.Tooltip("K_A:Q", title="seeds that find the target, K-A", format=".0%"),
    ]
    colour = alt.Color(
        "lead:Q", legend=None, scale=alt.Scale(domain=[-1, -0.5, 0, 0.5, 1], range=list(_COLOURS), interpolate="rgb")
    )
    layers = [
        cells.transform_filter("!datum.sure").mark_rect(color="#D9D9D9", stroke="white").encode(**box, tooltip=tips),
        cells.transform_filter("datum.sure").mark_rect(stroke="white").encode(**box, color=colour, tooltip=tips),
    ]
    step = np.log(data["weights"][-1] / data["weights"][0]) / (across - 1)
    size = alt.Size("share:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0, 40]))
    for order, shape, shift in ((K_A, "circle", -0.18), (A_K, "triangle-up", 0.18)):
        found = cells.transform_calculate(share=f"datum.held.{order}.found").transform_filter("datum.share > 0")
        found = found.transform_calculate(at=f"weights[datum.j] * {np.exp(shift * step)}", up="betas[datum.i]")
        found = found.mark_point(shape=shape, filled=True, color=INK, opacity=0.75)
        layers.append(found.encode(x="at:Q", y="up:Q", size=size))
    for name, dash in (("'plain'", [1, 0]), ("sharpening", [4, 3])):
        line = numbered(len(data["lines"]["betas"]), at=f"lines[{name}][datum.k]", up="lines.betas[datum.k]")
        line = line.mark_line(color=INK, strokeWidth=1.8, strokeDash=dash, clip=True)
        layers.append(line.encode(x="at:Q", y="up:Q", order="k:Q"))
    chosen = cells.transform_filter("datum.i == row && datum.j == column")
    layers.append(chosen.mark_rect(fillOpacity=0, stroke=POINT, strokeWidth=3).encode(**box))
    return alt.layer(*layers).properties(
        **sized(385, 300, alt.ExprRef("upper(algorithm) + ', sharpening s = ' + sharpening"))
    )


def _policy(order: str) -> alt.LayerChart:
    style = pipeline_style(order)
    settings, sign = shipped("rlhf", 1.0)[0].settings, {"^": "▲", "o": "●"}[style.marker]
    return policy(settings, f"chosen.{order}.mixture", 3, 176, f"{sign} {style.label}", style.colour)


def _earned() -> alt.LayerChart:
    """Rewards of both orders, seed by seed, and in how many of the seeds the target was found."""
    names = list(_ROUTES)
    seeds = numbered(40, seed="datum.k % 20", up="floor(datum.k / 20)").transform_calculate(
        order=f"{names}[datum.up]", at="datum.up + (datum.seed * 7 % 20 - 9.5) / 40"
    )
    seeds = seeds.transform_calculate(
        reward="chosen[datum.order].seeds[datum.seed]", said="round(20 * chosen[datum.order].found) + ' of 20'"
    )
    colours = alt.Scale(domain=names, range=[pipeline_style(name).colour for name in names])
    colour = alt.Color("order:N", legend=None, scale=colours)
    shape = alt.Shape("order:N", legend=None, scale=alt.Scale(domain=names, range=["triangle-up", "circle"]))
    label = f"{list(_ROUTES.values())}[datum.value]"
    y = alt.Y("at:Q", **axis(-0.6, 1.6, values=[0, 1], labelExpr=label, grid=False))
    x = alt.X("reward:Q", **axis(-0.1, _HIGHEST + 0.8, values=[0, 1, 2, 3, 4]))
    found = seeds.transform_filter("datum.seed == 0").mark_text(align="right", fontWeight="bold")
    return alt.layer(
        seeds.mark_point(filled=True, size=30, opacity=0.6).encode(x, y, colour, shape),
        found.encode(x=alt.value(368), y="up:Q", color=colour, text="said:N"),
    ).properties(**sized(368, 62, "Reward of each of 20 seeds; right: how many find the target", fontSize=12))
