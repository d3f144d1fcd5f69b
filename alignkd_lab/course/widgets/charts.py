"""Charts whose own sliders move them: Vega-Lite, drawn by the browser with no kernel and no script of ours.

One display bundle carries the specification, which JupyterLab and the site draw, a PNG for whatever draws none, and
words. JupyterLab prefers HTML, so there is none. Only what Vega-Lite 5.6 knows is used: JupyterLab has that version.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
from PIL import Image

from alignkd_lab.course.widgets.pieces import below, caption, said
from alignkd_lab.errors import BadInput, UnknownName, check_number
from alignkd_lab.plots.drawing import GRID, INK, QUIET

MIME = "application/vnd.vegalite.v5+json"
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
VERSION = "5.8"  # vl-convert's oldest, the nearest to JupyterLab's
STAR = (  # a shape
    "M0,-1L0.225,-0.309L0.951,-0.309L0.363,0.118L0.588,0.809L0,0.382L-0.588,0.809L-0.363,0.118L-0.951,-0.309"
    "L-0.225,-0.309Z"
)
SHAPES = {  # Vega's, for matplotlib's markers
    "v": "triangle-down", "o": "circle", "^": "triangle-up", "<": "triangle-left", ">": "triangle-right", "*": STAR,
    "p": "M0,-1L0.951,-0.309L0.588,0.809L-0.588,0.809L-0.951,-0.309Z", "d": "diamond", "P": "cross",
    "X": "M0,-0.4L0.5,-0.9L0.9,-0.5L0.4,0L0.9,0.5L0.5,0.9L0,0.4L-0.5,0.9L-0.9,0.5L-0.4,0L-0.9,-0.5L-0.5,-0.9Z",
    "h": "M0,-1L0.866,-0.5L0.866,0.5L0,1L-0.866,0.5L-0.866,-0.5Z",
}  # fmt: skip
LARGE = 100_000  # bytes, of which a page of a megabyte holds seven
SCALE = 1.5  # of the PNG, for a dense screen
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MISREAD = re.compile(
    r'(?<!\\)"(if|constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable|toLocaleString|toString|valueOf|__\w+__)"'
    "(?!:)"
)
_AXIS = {
    "labelColor": INK,
    "titleColor": INK,
    "domainColor": "#B8BEC5",
    "gridColor": GRID,
    "ticks": False,
    "labelPadding": 6,
    "titlePadding": 8,
    "titleFontWeight": "normal",
    "labelFontSize": 11.5,
    "titleFontSize": 12,
}
CONFIG = {
    "font": _FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": _AXIS,
    "title": {"color": INK, "fontSize": 13, "anchor": "start", "offset": 10},
    "legend": {"labelColor": INK, "titleColor": QUIET, "labelFontSize": 11.5, "titleFontWeight": "normal"},
    "mark": {"aria": False},  # no words for each of a thousand cells, which cost more than drawing them: `alt` says all
    "text": {"color": INK, "fontSize": 12, "font": _FONT},
    "concat": {"spacing": 44},
}


class Slider(NamedTuple):
    """A number that a reader moves, from `low` to `high`; with `powers` by its power of ten, of which `step` is then.

    label: what the number is, with its symbol and unit.
    """

    value: float
    label: str
    low: float
    high: float
    step: float
    powers: bool = False


class Menu(NamedTuple):
    """A choice that a reader makes: the options' labels by their values."""

    value: Any
    label: str
    options: Mapping[Any, str]


def parameters(controls: Mapping[str, Slider | Menu], shown: tuple[str, ...], state: Mapping[str, Any]) -> list:
    """Vega parameters by the controls' names, in whose terms a chart's expressions are written.

    Args:
        shown: the controls to put on the page, all where none is named; the others keep their values.
        state: where the controls begin, if not at the table's start.

    Raises:
        UnknownName: `shown` or `state` names no control, or no option of a menu.
        BadInput: what its slider cannot reach: beyond an end, or between whole numbers where it has no others.
    """
    for name in (*shown, *state):
        if name not in controls:
            raise UnknownName("control", name, controls)
    made = []
    for name, control in controls.items():
        value = state.get(name, control.value)
        if isinstance(control, Menu) and value not in control.options:
            raise UnknownName(name, value, map(repr, control.options))
        if isinstance(control, Slider):
            check_number(name, value, least=control.low, most=control.high)
            if control.step % 1 == 0 and value % 1:
                raise BadInput(f"{name} must be a whole number, not {value!r}")
        if name not in (shown or controls):
            made.append(alt.param(name, value=value))
        elif isinstance(control, Menu):
            options, labels = list(control.options), [*control.options.values()]
            bound = alt.binding_select(options=options, labels=labels, name=f"{control.label} ")
            made.append(alt.param(name, value=value, bind=bound))
        else:
            made += _slider(name, control, value)
    return made


def _slider(name: str, control: Slider, value: float) -> list:
    """A slider in powers of ten sets a number of its own, of which the control's is the power."""
    place = round(math.log10(value), 7) if control.powers else float(value)  # no more digits beside the slider
    low, high = (math.log10(end) if control.powers else end for end in (control.low, control.high))
    words = f"{control.label}, as a power of ten " if control.powers else f"{control.label} "
    bound = alt.binding_range(min=low, max=high, step=control.step, name=words)
    if not control.powers:
        return [alt.param(name, value=place, bind=bound)]
    return [alt.param(f"{name}_power", value=place, bind=bound), alt.param(name, expr=f"pow(10, {name}_power)")]


def compact(value: Any) -> str:
    """Data as a Vega expression: a saved notebook would give each number of an array a line of its own."""
    written = json.dumps(value, separators=(",", ":"))
    # Vega takes a text that is one of these words for what JavaScript has under that name, so it is put together there.
    return _MISREAD.sub(lambda found: f'"{found[1][0]}"+"{found[1][1:]}"', written)


def small(image: Image.Image) -> bytes:
    """A PNG for a page that keeps it: written slowly and small, a `LARGE` one in 256 colours."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "png", optimize=True)
    if buffer.tell() > LARGE:
        # The most different colours, not the most frequent ones: a density's dark heart is small.
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


class Chart:
    """A chart with its sliders, as a page shows it: rows under a title, and words that change with it.

    Args:
        moved: the parameters of its sliders (`parameters`).
        words: sentences below the rows, a line each, with what they hold in braces, and its `parts` (`pieces.said`);
            the last line is `source`, of the evidence.
        seen: what is seen, in words, for who cannot see it, and for print; `source` follows.
        further: parameters that no reader moves, by name: an expression in those before it, or data.
        width, of: of the words (`pieces.caption`).
        scales: the channels that the rows share or have each for its own.
    """

    def __init__(
        self, moved: list, title: str | alt.ExprRef, *rows: alt.TopLevelMixin | dict, words: Sequence[str], seen: str,
        parts: Mapping[str, Any] | None = None, source: str = "", further: Mapping[str, Any] | None = None,
        width: int = 780, of: alt.Chart | None = None, **scales: str,
    ) -> None:  # fmt: skip
        self.alt = f"{seen} {source}".rstrip()
        lines = [*words, source] if source else words
        written = caption(*(said(line, parts or {}) for line in lines), width=width, of=of)
        whole = below(*rows, written, spacing=14, **scales)
        self.spec = {"title": alt.Title(title, fontSize=15).to_dict(), **whole, "description": self.alt}
        # Not by Altair, which copies and checks a few hundred for ten seconds.
        self.spec["params"] = [made.param.to_dict() for made in moved] + self.spec.get("params", [])
        for made in self.spec["params"]:
            for field in made.get("bind", {}).values() if "select" in made else ():
                field["input"] = "number"  # not a slider, whose arrow keys JupyterLab takes to move between cells
        for name, held in (further or {}).items():
            self.spec["params"].append({"name": name, "expr": held if isinstance(held, str) else compact(held)})
        self.spec |= {"$schema": SCHEMA, "config": CONFIG}

    @functools.cached_property
    def png(self) -> bytes:
        import vl_convert
        from matplotlib import get_data_path

        # A font that every machine with matplotlib has, with the subscripts and Greek letters of our labels.
        vl_convert.register_font_directory(f"{get_data_path()}/fonts/ttf")
        config = {"font": "DejaVu Sans", "text": {**CONFIG["text"], "font": "DejaVu Sans"}}
        png = vl_convert.vegalite_to_png(self.spec | {"config": CONFIG | config}, vl_version=VERSION, scale=SCALE)
        return small(Image.open(io.BytesIO(png)))

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        width, height = (round(pixels / SCALE) for pixels in Image.open(io.BytesIO(self.png)).size)
        bundle = {MIME: self.spec, "image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": self.alt}
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.alt}}
