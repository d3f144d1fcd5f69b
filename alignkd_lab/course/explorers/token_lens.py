"""Explorer: "advantage means likely". Three models read a text token by token; arrow keys and mouse walk along it.

All is read once (`lens.texts`) and travels with the chart, so that it is alive without a kernel.
"""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
from torch import Tensor

from alignkd_lab.course.lens.reading_tables import LIKELY
from alignkd_lab.course.lens.readings import MODELS, Reading, in_words, with_space
from alignkd_lab.course.lens.texts import TEXTS, Lens, load
from alignkd_lab.course.widgets.charts import Chart, Menu, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, axis, bare, below, beside, numbered, pixels, sized
from alignkd_lab.plots.drawing import INK, QUIET
from alignkd_lab.plots.style import number

QUANTITIES = {
    "log_ratio": "log-ratio: A of the token that stands there",
    "advantage": "advantage: its mean over the student's next tokens",
    "kl": "KL from the DPO teacher to the student",
}
CONTROLS = {
    "position": Slider(1, "token", 1, 40, 1),  # of all texts, one after the other
    "quantity": Menu("log_ratio", "colour shows", QUANTITIES),
}
NAMES = {"reference": "reference teacher", "dpo": "DPO teacher", "student": "student"}
SOURCE = (
    "Live: SmolLM2-135M-Instruct (reference), the same after DPO on pairs that prefer colours, a cut of it (student)."
)
ROWS = 5
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LETTER, _LINE, _LETTERS, _WIDE = 7.4, 25, 112, 830  # pixels; letters to a line
_LIST, _ROW = 150, 21  # pixels: a list's width, and a row's height
_ACROSS, _UP, _CELL = 56, 42, 6  # cells of the cloud, and their pixels
_LIKELY, _ADVANTAGED = "#117733", "#882255"  # Tol's muted palette; no pipeline's colours
_SIGNED = ["#B98CC4", "#E3D3E8", "#FFFFFF", "#CDE7C8", "#7DBF87"]
_MONO = {"font": MONO, "fontSize": 12, "baseline": "middle"}


def views(lens: Lens) -> dict[str, list[dict[str, Any]]]:
    """By text, what there is to see before each of its tokens.

    `here`, `advantaged` (those of the largest advantage), `dpo` (the DPO teacher's likeliest): candidates, each
    `[words, advantage in nats, log10 of the DPO teacher's probability, its place in each model's order]`;
    `likely`: by model `[words, probability]`; `cloud`: of each cell of the plane of likelihood and advantage, row by
    row, how many tokens of the vocabulary lie there, as the digit `ceil(log3(1 + count))`; `words`: what is seen;
    `said`, `line`, `start`: the token that stands there, its line and its first letter's place in it; `QUANTITIES`.
    """
    bounds = extent(lens)
    found = {}
    for text, reading in lens.readings.items():
        values = {name: values_of(reading, name).double().numpy().round(4).tolist() for name in QUANTITIES}
        found[text], line, start = [], 0, 0
        for place, token in enumerate(reading.labels.tolist()):
            said = in_words(lens.tokenizer, token)
            if start + len(said) > _LETTERS:
                line, start = line + 1, 0
            own = {"said": said, "line": line, "start": start} | {name: held[place] for name, held in values.items()}
            found[text].append(_view(lens.tokenizer, reading, place, bounds) | own)
            start += len(said) + 1
    return found


def extent(lens: Lens) -> tuple[float, float, float, float]:
    """Bounds of the cloud at every position of every text: log10 of the probability, and advantage."""
    likelihood = min(float(reading.log_probs["dpo"].min()) for reading in lens.readings.values()) / np.log(10)
    advantages = [reading.advantages for reading in lens.readings.values()]
    return likelihood, 0.0, min(float(a.min()) for a in advantages), max(float(a.max()) for a in advantages)


def values_of(reading: Reading, quantity: str) -> Tensor:
    """The quantity at each token of the response, nats, [N]."""
    found = {"log_ratio": reading.log_ratio, "advantage": reading.adpa.expected_advantage, "kl": reading.dckd.kl}
    return found[quantity]


def _view(tokenizer, reading: Reading, place: int, bounds: tuple[float, float, float, float]) -> dict[str, Any]:
    rows, advantages = {name: reading.log_probs[name][place] for name in MODELS}, reading.advantages[place]

    def shown(token: int) -> str:
        return with_space(in_words(tokenizer, token))

    def candidate(token: int) -> list:
        ranks = [1 + int((rows[name] > rows[name][token]).sum()) for name in MODELS]
        likelihood = float(rows["dpo"][token]) / np.log(10)
        return [shown(token), round(float(advantages[token]), 3), round(likelihood, 3), ranks]

    top = {name: row.topk(ROWS).indices.tolist() for name, row in rows.items()}
    left, right, low, high = bounds
    likelihood = (rows["dpo"] / np.log(10)).numpy()
    cells = {"bins": (_UP, _ACROSS), "range": ((low, high), (left, right))}
    counts = np.histogram2d(advantages.numpy(), likelihood, **cells)[0]
    view = {
        "here": candidate(int(reading.labels[place])),
        "advantaged": [candidate(token) for token in advantages.topk(ROWS).indices.tolist()],
        "dpo": [candidate(token) for token in top["dpo"]],
        "likely": {
            name: [[shown(token), float(f"{float(rows[name][token].exp()):.4g}")] for token in tokens]
            for name, tokens in top.items()
        },
        "cloud": "".join(str(int(level)) for level in np.ceil(np.log(1 + counts.ravel()) / np.log(3))),
    }
    means = ", ".join(f"{NAMES[name]} {number(float(row.exp() @ advantages))}" for name, row in rows.items())
    view["words"] = [
        f"Before token {place + 1} of {len(reading.labels)}, “{view['here'][0]}”. KL(DPO teacher ‖ student): "
        f"{number(float(reading.dckd.kl[place]))} nats.",
        f"Mean advantage over what each says next: {means}.",
    ]
    return view


def show(*, lens: Lens | None = None, **state: Any) -> Chart:
    """The text; below, each model's likeliest tokens, those of the largest advantage, and the whole vocabulary.

    `state` says where the controls begin, without it at the first token before which the largest advantage is none of
    the DPO teacher's likeliest; `lens` is what was read, `load()` where None.
    """
    lens = lens or load()
    held = views(lens)
    flat = [view for text in TEXTS for view in held[text]]
    fails = [place for place, view in enumerate(flat, 1) if view["advantaged"][0][3][MODELS.index("dpo")] > LIKELY]
    ends = dict(zip(TEXTS, itertools.accumulate(len(held[text]) for text in TEXTS), strict=True))
    starts = {text: end - len(held[text]) for text, end in ends.items()}
    label = f"token ({', '.join(f'{text} {starts[text] + 1}–{ends[text]}' for text in TEXTS)})"
    table = CONTROLS | {"position": Slider((fails or [1])[0], label, 1, len(flat), 1)}
    position, *menus = parameters(table, (), state)
    # Bound to a field, a selection also takes clicks where it is told to.
    at = alt.selection_point(
        name="at", fields=["position"], on="rect:click", clear=False, value=[{"position": position.param.value}],
        bind={"position": position.param.bind},
    )  # fmt: skip
    limits = {name: max(abs(view[name]) for view in flat) or 1.0 for name in QUANTITIES}
    prompt = "".join(in_words(lens.tokenizer, token) for token in next(iter(lens.readings.values())).prompt)
    prompt = prompt if len(prompt) <= _LETTERS else f"…{prompt[1 - _LETTERS :]}"
    further = {
        "views": held,
        "starts": starts,
        "limits": limits,
        "headings": TEXTS,
        "asked": [prompt],
        "chosen": f"clamp(round((at.position || [1])[0]), 1, {len(flat)}) - 1",
        "text": " : ".join(f"chosen < {end} ? '{text}'" for text, end in ends.items()) + " : ''",
        "place": "chosen - starts[text]",
        "seen": "views[text][place]",
    }
    lists = beside(*map(_likely, MODELS), spacing=18)
    left = below(lists, _advantaged(), spacing=16)
    panels = beside(left, _cloud(extent(lens)), spacing=46, color="independent")
    words = (
        "{seen.words[0]}",
        "{seen.words[1]}",
        "Colour: green above 0, violet below, full at {limits[quantity]:.2f} nats (square-root scale). Click a token.",
        "● likeliest for the DPO teacher, ◆ largest advantage, ■ the token that stands there; ␣ a space.",
    )
    title, text = (
        "What alignment changed, token by token",
        _text(max(map(len, held.values())), 1 + max(view["line"] for view in flat), at),
    )
    seen = "A text with a colour a token, and what three models say before one of them."
    look = {"width": _WIDE, "color": "independent"}
    return Chart(menus, title, text, panels, words=words, seen=seen, source=SOURCE, further=further, **look)


def _text(longest: int, lines: int, at: alt.Parameter) -> alt.LayerChart:
    """The prompt in grey and the response in colour; a frame around the chosen token."""
    asked = ONE.mark_text(align="left", color=QUIET, text=alt.ExprRef("asked[0]"), **_MONO)
    held = "views[text][datum.k]"
    value = f"{held}[quantity]"
    rows = numbered(longest).transform_filter("datum.k < length(views[text])").transform_calculate(
        position="starts[text] + datum.k + 1", said=f"{held}.said", value=value,
        shade=f"({value} < 0 ? -1 : 1) * sqrt(abs({value}) / limits[quantity])",
        left=f"{held}.start * {_LETTER}", right=f"({held}.start + length({held}.said)) * {_LETTER} + 5",
        low=f"{held}.line * {_LINE} + 20", high=f"{held}.line * {_LINE} + 40", middle=f"{held}.line * {_LINE} + 30",
    )  # fmt: skip
    wide, high = _WIDE, _LINE * lines + 20
    x, y = pixels(wide), pixels(high)
    box = {"x": alt.X("left:Q", **x), "x2": "right:Q", "y": alt.Y("low:Q", **y), "y2": "high:Q"}
    colour = alt.Color(
        "shade:Q", legend=None, scale=alt.Scale(domain=[-1, -0.5, 0, 0.5, 1], range=_SIGNED, interpolate="rgb")
    )
    tips = ["said:N", alt.Tooltip("value:Q", format=".3f")]
    start = rows.transform_calculate(begin="datum.left + 2.5")
    return alt.layer(
        rows.mark_rect(cursor="pointer").encode(**box, color=colour, tooltip=tips).add_params(at),
        start.mark_text(align="left", **_MONO).encode(x=alt.X("begin:Q", **x), y=alt.Y("middle:Q", **y), text="said:N"),
        rows.transform_filter("datum.k == place").mark_rect(fillOpacity=0, stroke=INK, strokeWidth=1.8).encode(**box),
        asked.encode(x=alt.value(3), y=alt.value(8)),
    ).properties(**sized(wide, high, alt.ExprRef("headings[text]"), fontSize=12))


def _likely(name: str) -> alt.LayerChart:
    """A model's likeliest next tokens, a bar for the probability behind each."""
    held = f"seen.likely.{name}[datum.k]"
    rows = numbered(
        ROWS, said=_cut(f"{held}[0]", 12), same=f"{held}[0] == seen.here[0]", share=f"{held}[1]", whole="1",
        percent=f"{held}[1] < 0.001 ? '<0.1 %' : format(100 * {held}[1], '.2~r') + ' %'",
    )  # fmt: skip
    x, y = bare(0, 1), alt.Y("k:O", axis=None)
    same = rows.transform_filter("datum.same").mark_bar(fillOpacity=0, stroke=INK, strokeWidth=1.6, size=_ROW - 3)
    return alt.layer(
        rows.mark_bar(color="#C9DECF", size=_ROW - 3).encode(alt.X("share:Q", **x), y),
        same.encode(alt.X("whole:Q", **x), y),
        rows.mark_text(align="left", **_MONO).encode(x=alt.value(4), y=y, text="said:N"),
        rows.mark_text(align="right", **_MONO).encode(x=alt.value(_LIST - 4), y=y, text="percent:N"),
    ).properties(**sized(_LIST, _ROW * ROWS, NAMES[name], fontSize=12))


def _advantaged() -> alt.LayerChart:
    """The tokens of the largest advantage, and where each stands in the models' orders."""
    heads = ["largest advantage", "A (nats)", *(NAMES[name].removesuffix(" teacher") for name in MODELS)]
    ends, held = [4, 220, 310, 400, 482], "seen.advantaged[datum.k]"
    columns = [
        _cut(f"{held}[0]", 20),
        f"format({held}[1], '.2f')",
        *(f"format({held}[3][{k}], ',')" for k in range(len(MODELS))),
    ]
    y = alt.Y("k:O", axis=None, scale=alt.Scale(domain=list(range(ROWS))))
    layers = []
    for place, (head, column, end) in enumerate(zip(heads, columns, ends, strict=True)):
        look, said = {"align": "right" if place else "left"}, numbered(ROWS, said=column)
        layers.append(said.mark_text(color=_ADVANTAGED, **look, **_MONO).encode(x=alt.value(end), y=y, text="said:N"))
        top = ONE.mark_text(text=head, fontWeight="normal" if place else "bold", **look, fontSize=11.5)
        layers.append(top.encode(x=alt.value(end), y=alt.value(-9)))
    look = {"anchor": "end", "fontSize": 11, "fontWeight": "normal", "color": QUIET}
    title = "place in the order of likelihood"
    return alt.layer(*layers).properties(**sized(3 * _LIST + 36, _ROW * ROWS, title, **look))


def _cloud(bounds: tuple[float, float, float, float]) -> alt.LayerChart:
    """Every token of the vocabulary: how likely the DPO teacher finds it, and its advantage."""
    left, right, low, high = bounds
    powers = "datum.value ? '1e' + datum.value : '1'"
    x = alt.X("x0:Q", **axis(left, right, "probability, DPO teacher", labelExpr=powers, grid=False))
    y = alt.Y("y0:Q", **axis(low, high, "advantage A (nats)", grid=False))
    across, up = (right - left) / _ACROSS, (high - low) / _UP
    cells = numbered(
        _ACROSS * _UP, "cell", level="toNumber(seen.cloud[datum.cell])",
        x0=f"{left} + (datum.cell % {_ACROSS}) * {across}", y0=f"{low} + floor(datum.cell / {_ACROSS}) * {up}",
    )  # fmt: skip
    cells = cells.transform_filter("datum.level > 0")
    cells = cells.transform_calculate(x1=f"datum.x0 + {across}", y1=f"datum.y0 + {up}")
    shade = alt.Color("level:Q", legend=None, scale=alt.Scale(domain=[1, 7], range=["#E3E7EC", "#7C8894"], clamp=True))
    points = []
    for group, shape, colour in (("dpo", "circle", _LIKELY), ("advantaged", "diamond", _ADVANTAGED)):
        points += _points(numbered(ROWS), f"seen.{group}[datum.k]", shape, colour, group == "dpo")
    points += _points(numbered(1), "seen.here", "square", INK, False)
    return alt.layer(
        cells.mark_rect(stroke=None).encode(x, y, x2="x1:Q", y2="y1:Q", color=shade),
        ONE.mark_rule(color=QUIET).encode(y=alt.datum(0)),
        *points,
    ).properties(**sized(_ACROSS * _CELL - 60, _UP * _CELL, "The whole vocabulary", fontSize=12))


def _points(rows: alt.Chart, held: str, shape: str, colour: str, below: bool) -> list[alt.Chart]:
    """The candidates, and the first one's name."""
    rows = rows.transform_calculate(at=f"{held}[2]", up=f"{held}[1]", said=_cut(f"{held}[0]", 14))
    place = {"x": "at:Q", "y": "up:Q"}
    dots = rows.mark_point(shape=shape, filled=True, size=55, color=colour, stroke="white", opacity=1, clip=False)
    name = rows.transform_filter("datum.k == 0")
    words = name.mark_text(
        align="right", dx=-7, dy=9 if below else -7, color=colour, font=MONO, fontSize=11, stroke=None
    )
    return [dots.encode(**place), words.encode(**place, text="said:N")]


def _cut(words: str, letters: int) -> str:
    return f"(length({words}) > {letters} ? slice({words}, 0, {letters - 1}) + '…' : {words})"
