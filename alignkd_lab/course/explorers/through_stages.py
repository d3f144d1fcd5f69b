"""Explorer: one prompt through every stage of both orders, as text; below it, all prompts of that seed.

What a run has kept travels with the chart, so that it is alive without a kernel: of its first seed, each model's first
response to each test prompt. Nobody has picked them.
"""

from __future__ import annotations

import textwrap
from typing import Any

import altair as alt

from alignkd_lab.course.explorers.token_lens import MONO
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, below, beside, caption, numbered, pixels, said, sized
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import INK, QUIET, depth_line
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.records import Records

STAGES = {K_A: ("base", "kd_only", K_A), A_K: ("base", "base_aligned", A_K)}  # who answers after 0, 1 and 2 steps
DONE = {
    K_A: ("the base", "distilled", "distilled, then aligned"),
    A_K: ("the base", "aligned", "aligned, then distilled"),
}
CONTROLS = {"stage": Slider(1, "steps done", 0, 2, 1)}
MARKED = "#B3261E"
_LETTERS, _WIDE, _ACROSS, _CELL = 38, 284, 16, 17.4  # letters to a line, pixels, cells to a row, and their pixels


def texts(run: Records) -> dict[str, Any]:
    """What is seen: `prompts`, and by order, stage and prompt `said` (lines), `marks` (the same, but nothing
    but the words that are the target by themselves), `hits` (0 or 1) and `paid` (the reward).

    Raises BadInput where the run lacks one of `STAGES`."""
    seed, rule = min(run.seeds), TARGETS.get(run.the_run()["target"], lambda word: False)
    held = run.responses[run.responses["seed"] == seed].drop_duplicates(["pipeline", "prompt"])
    if missing := {name for names in STAGES.values() for name in names} - {*held["pipeline"]}:
        raise BadInput(f"run: no responses of {', '.join(sorted(missing))}; run `--pipelines orders` for all of them")
    answers = held.pivot(index="prompt", columns="pipeline", values=["response", "reward", "target"])
    answers = answers.loc[held["prompt"].drop_duplicates()]

    def lines(text: str) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), _LETTERS, break_on_hyphens=False) or ["(nothing)"]

    def marks(line: str) -> str:
        words = [word if rule(word) else "\u00a0" * len(word) for word in line.split(" ")]
        marked = "\u00a0".join(words).rstrip("\u00a0")
        return f"\u200b{marked}" if marked else ""  # Vega strips white space at a line's ends, and this is none

    def by_stage(what) -> list:
        return [[[what(row, name) for _, row in answers.iterrows()] for name in names] for names in STAGES.values()]

    return {
        "prompts": list(answers.index),
        "said": by_stage(lambda row, name: lines(row["response", name])),
        "marks": by_stage(lambda row, name: list(map(marks, lines(row["response", name])))),
        "hits": by_stage(lambda row, name: int(row["target", name])),
        "paid": by_stage(lambda row, name: round(float(row["reward", name]), 2)),
    }


def show(run: Records | None = None, depth: str = "record", **state: Any) -> Chart:
    """What both orders answer to a prompt after so many steps, and which of their responses are on target.

    `state` is the `stage`; a click below chooses the prompt, and so does its number. It begins with the first prompt
    whose answers part in the end.
    """
    run = run or recorded_smollm2()
    held, note = texts(run), depth_line([run], depth, f"Seed {min(run.seeds)}, each model's first response to a prompt")
    count = len(held["prompts"])
    first = next((k for k in range(count) if held["hits"][1][2][k] > held["hits"][0][2][k]), 0)
    at = alt.selection_point(
        name="at", fields=["prompt"], on="symbol:click", clear=False, value=[{"prompt": 1 + first}],
        bind={"prompt": alt.binding_range(min=1, max=count, step=1, name="prompt ")},
    )  # fmt: skip
    high = max(len(said) for order in held["said"] for stage in order for said in stage)
    panels = beside(*(_order(place, count, high, at) for place in (0, 1)), spacing=22)
    asked = caption(said("Prompt {1 + k}: {prompts[k]}", {}), width=590)
    marked = any(line for order in held["marks"] for stage in order for said in stage for line in said)
    key = f"Filled: on target{'; in red: what makes it so' * marked}. Click on a square to read it."
    counts = [[sum(stage) for stage in order] for order in held["hits"]]
    further = {**held, "counts": counts, "k": f"clamp(round((at.prompt || [1])[0]), 1, {count}) - 1"}
    seen = f"One prompt through every stage of both orders, and which responses to {count} are on target. {note}"
    moved, words = parameters(CONTROLS, (), state), (key, *textwrap.wrap(note, 80))
    look = {"width": 590, "color": "independent"}
    return Chart(moved, "What they say after each step", asked, panels, words=words, seen=seen, further=further, **look)


def _order(place: int, count: int, high: int, at: alt.Parameter) -> dict:
    """An order's text, and its squares."""
    order, here = list(STAGES)[place], f"[{place}][stage][k]"
    colour, done = pipeline_style(order).colour, list(DONE[order])
    one = ONE.encode(x=alt.value(0))
    top = {"align": "left", "baseline": "top"}
    look = {**top, "font": MONO, "fontSize": 12, "lineHeight": 18}
    said = one.transform_calculate(words=f"said{here}", marked=f"marks{here}").encode(y=alt.value(44))
    head = one.transform_calculate(words=f"'{'KA'[place]}-{'AK'[place]}: ' + {done}[stage]").encode(y=alt.value(0))
    paid = f"hits{here} ? 'on target, reward ' + format(paid{here}, '.2f') : 'off target, reward 0'"
    text = alt.layer(
        head.mark_text(fontSize=13, fontWeight="bold", color=colour, **top).encode(text="words:N"),
        one.transform_calculate(words=paid).mark_text(color=QUIET, **top).encode(y=alt.value(20), text="words:N"),
        said.mark_text(color=INK, **look).encode(text="words:N"),
        said.mark_text(color=MARKED, fontWeight="bold", **look).encode(text="marked:N"),
    ).properties(width=_WIDE, height=44 + 18 * high)
    cells = numbered(
        count, "cell", prompt="datum.cell + 1", hit=f"hits[{place}][stage][datum.cell]", chosen="datum.cell == k",
        x=f"(datum.cell % {_ACROSS} + 0.5) * {_CELL}", y=f"(floor(datum.cell / {_ACROSS}) + 0.5) * {_CELL}",
    )  # fmt: skip
    rows = -(-count // _ACROSS)
    squares = cells.mark_square(size=190, opacity=1, cursor="pointer").encode(
        x=alt.X("x:Q", **pixels(_WIDE)),
        y=alt.Y("y:Q", **pixels(rows * _CELL)),
        fill=alt.condition("datum.hit", alt.value(colour), alt.value("#ECEEF0")),
        stroke=alt.condition("datum.chosen", alt.value(INK), alt.value("white")),
        strokeWidth=alt.condition("datum.chosen", alt.value(2.2), alt.value(0)),
    )
    title = alt.ExprRef(f"counts[{place}][stage] + ' of {count} on target'")
    look = {"fontSize": 11.5, "fontWeight": "normal", "color": QUIET, "anchor": "start", "offset": 4}
    squares = alt.layer(squares.add_params(at)).properties(**sized(_WIDE, rows * _CELL, title, **look))
    return below(text, squares, spacing=8)
