"""How a picture and a question's fields get onto a page.

A display bundle carries a PNG beside live widgets, so that a page means something with a kernel, without one, and in
print. Only what ipywidgets 7.7 and 8 share is used, and no script of our own.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ipywidgets import Dropdown, Widget
from ipywidgets.widgets.widget_description import DescriptionWidget
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets.charts import small
from alignkd_lab.errors import UnknownName
from alignkd_lab.plots.drawing import note_of

PIXELS_PER_INCH = 150  # sharp on a dense screen
CSS_PIXELS_PER_INCH = 96
LABELS = {"description_width": "17em"}
WIDE = {"width": "51em", "max_width": "calc(100% - 4px)"}  # a widget has a margin of 2
Field = TypeVar("Field", bound=DescriptionWidget)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.set_dpi(PIXELS_PER_INCH)
    # Not `savefig`, which draws twice.
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


class Picture:
    """A figure as a notebook shows it: a PNG with words for those who cannot see it, its last line among them."""

    def __init__(self, figure: Figure, alt: str) -> None:
        note = note_of(figure)
        self.alt = note if " ".join(alt.split()) in note else f"{alt} {note}".strip()
        self.png = png(figure)
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
        """The picture as HTML; decoded before it is shown, so that a new one does not flicker."""
        return (
            f'<img src="data:image/png;base64,{_base64(self.png)}" alt="{html.escape(self.alt)}" '
            f'width="{self.width}" height="{self.height}" decoding="sync" style="max-width:100%;height:auto">'
        )


def kept(figure: Figure, alt: str) -> Picture:
    """A picture for a page that keeps it."""
    picture = Picture(figure, alt)
    picture.png = small(Image.open(io.BytesIO(picture.png)))
    return picture


def hinted(field: Field) -> Field:
    """The field with its label as tooltip: without one ipywidgets 8 says "null" to whoever rests the mouse there."""
    field.tooltip = field.description
    return field


def choice(label: str, value: str, options: Mapping[str, str]) -> Dropdown:
    """A list of `options`, the words by the value. Raises UnknownName for a value that is none of them."""
    if value not in options:
        raise UnknownName(label, value, map(repr, options))
    chosen = [(words, name) for name, words in options.items()]
    return hinted(Dropdown(options=chosen, value=value, description=label, style=LABELS, layout=WIDE))


def widget_view(widget: Widget) -> dict:
    """A widget's part of a display bundle."""
    return {WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def paragraph(text: str) -> str:
    """Plain text as HTML: an HTML widget spaces its lines for one line of controls."""
    return f'<p style="max-width:62em;margin:0;line-height:1.45">{inline(text)}</p>'


def inline(text: str) -> str:
    """Plain text as HTML, with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
