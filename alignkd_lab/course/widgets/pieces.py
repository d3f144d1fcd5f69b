"""What charts are put together from: rows, axes, panels, and sentences that change with a chart."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

POINT = "#7B4FA3"  # the state: no pipeline's colour
STATE = {"color": "white", "fill": POINT, "opacity": 1}
ONE = alt.Chart(alt.sequence(0, 1))  # a row, for a mark that stands alone


def numbered(count: int, name: str = "k", /, **calculated: str) -> alt.Chart:
    """A row for each whole number below `count`, with what is calculated from it."""
    made = alt.Chart(alt.sequence(0, count, as_=name))
    return made.transform_calculate(**calculated) if calculated else made


def axis(low: float, high: float, title: str | None = None, log: bool = False, bend: float = 0, **look: Any) -> dict:
    """From where to where a channel runs, and its axis; logarithmic, or from `bend` on (the symmetric logarithm)."""
    kind = {"type": "log"} if log else {"type": "symlog", "constant": bend} if bend else {}
    return {"scale": alt.Scale(domain=[low, high], nice=False, **kind), "axis": alt.Axis(title=title, **look)}


def bare(low: float, high: float) -> dict:
    """The same without an axis."""
    return {"scale": alt.Scale(domain=[low, high], nice=False), "axis": None}


def pixels(end: float) -> dict:
    """A channel in pixels, up to `end`."""
    return {"scale": alt.Scale(domain=[0, end], range=[0, end], nice=False), "axis": None}


def note(text: str, x: Any, y: Any, **look: Any) -> alt.Chart:
    """A text at a place of the axes."""
    at = {name: alt.datum(place) if isinstance(place, int | float) else place for name, place in (("x", x), ("y", y))}
    return ONE.mark_text(text=text, **look).encode(**at)


def sized(width: float, height: float, title: Any, **look: Any) -> dict:
    """The properties of a picture of so many pixels; `look` is that of its title."""
    return {"width": width, "height": height, "title": alt.Title(title, **look)}


def beside(*parts: alt.TopLevelMixin | dict, spacing: float | None = None, **scales: str) -> dict:
    """Charts in a row, which share the scale of a channel ("shared") or have one each ("independent")."""
    return _joined("hconcat", parts, spacing, scales)


def below(*parts: alt.TopLevelMixin | dict, spacing: float | None = None, **scales: str) -> dict:
    """Charts in a column."""
    return _joined("vconcat", parts, spacing, scales)


def _joined(how: str, parts: Sequence[alt.TopLevelMixin | dict], spacing: float | None, scales: dict) -> dict:
    """Not by Altair, which copies each part anew for every level above it, for seconds in all."""
    made = [part if isinstance(part, dict) else part.to_dict() for part in parts]
    datasets, params = {}, {}
    for part in made:
        part.pop("$schema", None), part.pop("config", None)
        datasets |= part.pop("datasets", {})
        for param in part.pop("params", []):  # one choice by clicks may be made in several charts
            params.setdefault(param["name"], param | {"views": []})["views"] += param["views"]
    whole = {how: made, "datasets": datasets, "params": list(params.values()), "resolve": {"scale": scales}}
    return whole | ({} if spacing is None else {"spacing": spacing})


def caption(*lines: str, width: int = 780, of: alt.Chart | None = None) -> alt.Chart:
    """Words that change with a chart: each line is a Vega expression that gives a text (`said`).

    With `of`, whose data have come down to one row, the lines can speak of it as `datum`.
    """
    written = (of or ONE).transform_calculate(words=f"[{', '.join(lines)}]")
    written = written.mark_text(align="left", baseline="top", lineHeight=18).encode(text="words:N")
    return written.encode(x=alt.value(0), y=alt.value(0)).properties(width=width, height=18 * len(lines))


def said(sentence: str, parts: Mapping[str, str | Mapping[str, str]]) -> str:
    """A sentence as a Vega expression. In braces stands an expression, or the name of one of `parts`; after a colon
    how a number is written: `share`, or a format of d3's. A part may also be sentences by the conditions under which
    they are said, the last one where none holds."""
    found = []
    for text, field, form, _ in string.Formatter().parse(sentence):
        found += [json.dumps(text, ensure_ascii=False)] if text else []
        if field:
            value = parts.get(field, field)
            if isinstance(value, Mapping):
                *others, last = ((condition, said(each, parts)) for condition, each in value.items())
                value = "".join(f"{condition} ? {each} : " for condition, each in others) + last[1]
            found.append(share(value) if form == "share" else f"format({value}, '{form}')" if form else f"({value})")
    return " + ".join(found) or "''"


def share(value: str) -> str:
    """A Vega expression for a share in percent, to three digits, or as one in many."""
    many = f"({value}) > 1e-12 ? format(1 / ({value}), ',.2~r') : '10^' + format(-log({value}) / LN10, '.0f')"
    whole = f"({value}) >= 1e-4 || ({value}) <= 0 ? format(100 * ({value}), '.3~g') + ' %' : '1 in ' + ({many})"
    return f"(({value}) > 0.9995 ? 'more than 99.9 %' : {whole})"
