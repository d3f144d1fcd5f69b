"""How a picture, and the controls that change it, get onto a page.

One display bundle carries the live widgets and a PNG, so that a page means something with a kernel,
without one, and in print. Only what ipywidgets 7.7 and 8 share is used, and no script of our own: Jupyter
shows an exception in a callback nowhere, so it is written into the caption before it is raised again.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import html
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ipywidgets import HTML, BoundedFloatText, FloatLogSlider, FloatSlider, HBox, VBox
from ipywidgets.widgets.widget_description import DescriptionWidget
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.errors import UnknownName
from alignkd_lab.plots.drawing import note_of

PIXELS_PER_INCH = 150  # sharp on a dense screen
LIVE_PIXELS_PER_INCH = 120  # less to draw and to send while somebody drags
CSS_PIXELS_PER_INCH = 96


def png(figure: Figure, pixels_per_inch: int = PIXELS_PER_INCH) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.set_dpi(pixels_per_inch)
    # Not `savefig`, which draws twice; and a slider waits longer for a small file than for a large one.
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """No garbage collection within: among the millions of objects of torch, one takes half as long as a picture."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


class Picture:
    """A figure as a notebook shows it: a PNG with words for those who cannot see it, its last line among them."""

    def __init__(self, figure: Figure, alt: str, pixels_per_inch: int = PIXELS_PER_INCH) -> None:
        note = note_of(figure)
        self.alt = note if " ".join(alt.split()) in note else f"{alt} {note}".strip()
        self.png = png(figure, pixels_per_inch)
        self.width, self.height = (round(CSS_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())

    @classmethod
    def stack(cls, pictures: Sequence[Picture]) -> Picture:
        """Several pictures, one below the other, in one of 256 colours: a page keeps it, and no slider waits."""
        images = [Image.open(io.BytesIO(picture.png)).convert("RGB") for picture in pictures]
        whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
        top = 0
        for image in images:
            whole.paste(image, (0, top))
            top += image.height
        buffer = io.BytesIO()
        whole.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        stacked = cls.__new__(cls)
        stacked.png, stacked.alt = buffer.getvalue(), " ".join(picture.alt for picture in pictures)
        stacked.width = max(picture.width for picture in pictures)
        stacked.height = sum(picture.height for picture in pictures)
        return stacked

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        size = {"width": self.width, "height": self.height, "alt": self.alt}
        return {"image/png": _base64(self.png), "text/plain": self.alt}, {"image/png": size}

    def tag(self) -> str:
        """The picture as HTML; decoded before it is shown, so that dragging does not make it flicker."""
        return (
            f'<img src="data:image/png;base64,{_base64(self.png)}" alt="{html.escape(self.alt)}" '
            f'width="{self.width}" height="{self.height}" decoding="sync" style="max-width:100%;height:auto">'
        )


def hinted(field: DescriptionWidget) -> DescriptionWidget:
    """The field with its label as tooltip: without one ipywidgets 8 says "null" to whoever rests the mouse there."""
    field.tooltip = field.description
    return field


class NumberControl(HBox):
    """A number field and a slider of one `value`; the field has the label that screen readers need.

    Args:
        label: what the number is, with its symbol and unit.
        low, high: the range of both.
        step: of the slider; for a logarithmic one in powers of ten. A step of 1 makes the number a whole one.
        logarithmic: the slider moves in powers of ten.
    """

    def __init__(
        self, label: str, value: float, low: float, high: float, step: float, logarithmic: bool = False
    ) -> None:
        style, width = {"description_width": "17em"}, {"width": "25em"}
        self.number = hinted(BoundedFloatText(value, min=low, max=high, description=label, style=style, layout=width))
        look = {"step": step, "readout": False, "layout": {"width": "26em"}}
        if logarithmic:
            self.slider = FloatLogSlider(value, base=10, min=math.log10(low), max=math.log10(high), **look)
        else:
            self.slider = FloatSlider(value, min=low, max=high, **look)
        self._position = math.log10 if logarithmic else float
        self._whole = step == 1 and not logarithmic
        self.number.observe(self._place, "value")
        self.slider.observe(self._take, "value")
        super().__init__([self.number, self.slider], layout={"flex_flow": "row wrap"})

    def _apart(self) -> bool:
        """Whether slider and field differ by more than the half step that a browser rounds a slider by."""
        gap = self._position(self.slider.value) - self._position(self.number.value)
        return abs(gap) > 0.501 * self.slider.step

    def _place(self, change) -> None:
        if self._whole and change.new != round(change.new):
            self.number.value = round(change.new)
        elif self._apart():
            self.slider.value = change.new

    def _take(self, change) -> None:
        if self._apart():
            self.number.value = float(f"{change.new:.3g}")

    @property
    def value(self) -> float:
        """The number; what is set beyond the range is moved to its end."""
        return self.number.value

    @value.setter
    def value(self, value: float) -> None:
        self.number.value = value

    def on_change(self, act: Callable[[], None]) -> None:
        """Call `act` after every change of the value, by field, slider or code."""
        # Not for a fraction that was rounded meanwhile: the whole number has been told already.
        self.number.observe(lambda change: act() if change.new == self.value else None, "value")


class Explorer:
    """Controls above a picture and its caption; the last expression of a cell shows it.

    Args:
        controls: by the name of the state that each sets.
        shown: the names of the controls to put on the page; the others keep their values.
        compute: state -> data.
        draw: data, note -> picture with the note as its last line.
        caption: data -> what is seen, in words.
        source: what the live picture's last line says of its evidence.
        call: the call that makes the explorer, e.g. `threshold.show`.
        stills: changes of the state; without a kernel the page shows a picture of each below the first.

    Raises:
        UnknownName: `shown` names no control.
    """

    def __init__(
        self,
        controls: Mapping[str, NumberControl],
        shown: Iterable[str],
        compute: Callable[[Mapping[str, float]], Any],
        draw: Callable[[Any, str], Figure],
        caption: Callable[[Any], str],
        source: str,
        call: str,
        stills: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self.controls, self.shown, self.call, self.stills = controls, tuple(shown), call, stills
        for name in self.shown:
            if name not in controls:
                raise UnknownName("control", name, controls)
        self._compute, self._draw, self._caption, self._source = compute, draw, caption, source
        self.picture, self.words = HTML(), HTML()
        self.widget = VBox([*(controls[name] for name in self.shown), self.picture, self.words])
        for control in controls.values():
            control.on_change(self.update)
        self.update()

    @property
    def state(self) -> dict[str, float]:
        """The values of all controls, shown or not."""
        return {name: control.value for name, control in self.controls.items()}

    def update(self) -> None:
        """Draw the picture and write the caption for the current state."""
        try:
            with collecting_later():
                data = self._compute(self.state)
                text = self._caption(data)
                self.picture.value = Picture(self._draw(data, self._source), text, LIVE_PIXELS_PER_INCH).tag()
        except Exception as error:
            self.words.value = _paragraphs(f"This setting cannot be drawn: {error}", self._rebuilding())
            raise
        self.words.value = _paragraphs(text, self._rebuilding())

    def still(self) -> Picture:
        """What stands on a page without a kernel: the current state and `stills`, each over its own caption."""
        states = [self.state, *({**self.state, **changes} for changes in self.stills)]
        return Picture.stack([self._still_of(state) for state in states])

    def _still_of(self, state: Mapping[str, float]) -> Picture:
        data = self._compute(state)
        text = self._caption(data)
        return Picture(self._draw(data, f"{text} {self._source}"), text)

    def _rebuilding(self) -> str:
        values = [
            f"{name}={value!r}" if isinstance(value, str) else f"{name}={value:g}" for name, value in self.state.items()
        ]
        return f"{self.call}({', '.join([*map(repr, self.shown), *values])})"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        bundle, size = self.still()._repr_mimebundle_()
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {WIDGET_VIEW: view, **bundle}, size


def _paragraphs(text: str, call: str) -> str:
    said = f'<p style="max-width:62em;margin:0 0 .3em;line-height:1.45">{html.escape(text)}</p>'
    return f'{said}<p style="margin:0;line-height:1.45">To come back here: <code>{html.escape(call)}</code></p>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
