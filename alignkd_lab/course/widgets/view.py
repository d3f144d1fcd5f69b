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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ipywidgets import HTML, VBox, Widget
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets.charts import small
from alignkd_lab.course.widgets.controls import Choice, Number, controls
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
        """Several pictures, one below the other."""
        images = [Image.open(io.BytesIO(picture.png)).convert("RGB") for picture in pictures]
        whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
        top = 0
        for image in images:
            whole.paste(image, (0, top))
            top += image.height
        stacked = cls.__new__(cls)
        stacked.png = small(whole)
        stacked.alt = " ".join(picture.alt for picture in pictures)
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


def kept(figure: Figure, alt: str) -> Picture:
    """A picture for a page that keeps it."""
    picture = Picture(figure, alt)
    picture.png = small(Image.open(io.BytesIO(picture.png)))
    return picture


class Explorer:
    """Controls above a picture and its caption; the last expression of a cell shows it.

    Args:
        table: the controls, by the part of the state that each sets.
        shown: the names of the controls to put on the page, all where none is named; the others keep their values.
        state: where the controls begin, if not at the table's start.
        compute: state -> data.
        draw: data, note -> picture with the note as its last line.
        caption: data -> what is seen, in words.
        source: what the live picture's last line says of its evidence.
        call: the call that makes the explorer, e.g. `threshold.show`.
        stills: changes of the state; without a kernel the page shows a picture of each below the first.
        still: state -> the picture that stands on a page without a kernel, and its caption, in place of `stills`.

    Raises:
        UnknownName: `shown` or `state` names no control, or a choice that there is not.
    """

    def __init__(
        self,
        table: Mapping[str, Number | Choice],
        shown: Iterable[str],
        state: Mapping[str, Any],
        compute: Callable[[Mapping[str, Any]], Any],
        draw: Callable[[Any, str], Figure],
        caption: Callable[[Any], str],
        source: str,
        call: str,
        stills: Sequence[Mapping[str, Any]] = (),
        still: Callable[[Mapping[str, Any]], tuple[Figure, str]] | None = None,
    ) -> None:
        self.controls, self.call, self.stills, self._still = controls(table, state), call, stills, still
        self.shown = tuple(shown) or tuple(table)
        for name in self.shown:
            if name not in table:
                raise UnknownName("control", name, table)
        self._compute, self._draw, self._caption, self._source = compute, draw, caption, source
        self.picture, self.words = HTML(), HTML()
        self.widget = VBox([*(self.controls[name] for name in self.shown), self.picture, self.words])
        for control in self.controls.values():
            control.on_change(self.update)
        self.update()

    @property
    def state(self) -> dict[str, Any]:
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
            text = f"This setting cannot be drawn: {error}"
            raise
        finally:
            self.words.value = paragraph(text, "0 0 .3em") + rebuilding(self._call_here())

    def still(self) -> Picture:
        """What stands on a page without a kernel: the current state and `stills`, each over its own caption."""
        if self._still is not None:
            return kept(*self._still(self.state))
        states = [self.state, *({**self.state, **changes} for changes in self.stills)]
        return Picture.stack([self._still_of(state) for state in states])

    def _still_of(self, state: Mapping[str, Any]) -> Picture:
        data = self._compute(state)
        text = self._caption(data)
        return Picture(self._draw(data, f"{text} {self._source}"), text)

    def _call_here(self) -> str:
        values = [
            f"{name}={value!r}" if isinstance(value, str) else f"{name}={value:g}" for name, value in self.state.items()
        ]
        return f"{self.call}({', '.join([*map(repr, self.shown), *values])})"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        bundle, size = self.still()._repr_mimebundle_()
        return {**widget_view(self.widget), **bundle}, size


def widget_view(widget: Widget) -> dict:
    """A widget's part of a display bundle."""
    return {WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def paragraph(text: str, margin: str = "0") -> str:
    """Plain text as HTML: an HTML widget spaces its lines for one line of controls."""
    return f'<p style="max-width:62em;margin:{margin};line-height:1.45">{html.escape(text)}</p>'


def rebuilding(call: str, margin: str = "0") -> str:
    """The call that shows the same again."""
    return f'<p style="margin:{margin};line-height:1.45">To come back here: <code>{html.escape(call)}</code></p>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
