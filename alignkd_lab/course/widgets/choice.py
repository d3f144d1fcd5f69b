"""Explorers whose state holds choices beside numbers, and whose still picture shows several settings."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ipywidgets import Dropdown, HBox
from matplotlib.figure import Figure
from PIL import Image

from alignkd_lab.course.widgets.view import Explorer, Picture, hinted
from alignkd_lab.errors import UnknownName

_LARGE = 100_000  # bytes, of which a page of a megabyte holds seven


class ChoiceControl(HBox):
    """A labelled list of which one `value` is chosen.

    Args:
        label: what is chosen.
        options: by value, the words for it.

    Raises:
        UnknownName: a value that is not among the options.
    """

    def __init__(self, label: str, value: str, options: Mapping[str, str]) -> None:
        if value not in options:
            raise UnknownName(label, value, options)
        style, width = {"description_width": "17em"}, {"width": "51em", "max_width": "100%"}
        chosen = [(words, name) for name, words in options.items()]
        self.list = hinted(Dropdown(options=chosen, value=value, description=label, style=style, layout=width))
        super().__init__([self.list])

    @property
    def value(self) -> str:
        """The chosen option."""
        return self.list.value

    @value.setter
    def value(self, value: str) -> None:
        self.list.value = value

    def on_change(self, act: Callable[[], None]) -> None:
        """Call `act` after every change of the value."""
        self.list.observe(lambda change: act(), "value")


def kept(figure: Figure, alt: str) -> Picture:
    """A picture for a page that keeps it: written slowly and small, a large one in 256 colours."""
    picture = Picture(figure, alt)
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    picture.png = _small(image)
    if len(picture.png) > _LARGE:
        # The most different colours, not the most frequent ones: a density's dark heart is small.
        picture.png = _small(image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    return picture


def _small(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return buffer.getvalue()


class ChoiceExplorer(Explorer):
    """An `Explorer` whose values may be words.

    Args:
        controls, shown, compute, draw, caption, source, call: as in `Explorer`.
        still: state -> the picture that stands without a kernel, and its caption.
    """

    def __init__(
        self,
        controls: Mapping[str, Any],
        shown: Iterable[str],
        compute: Callable[[Mapping[str, Any]], Any],
        draw: Callable[[Any, str], Figure],
        caption: Callable[[Any], str],
        source: str,
        call: str,
        still: Callable[[Mapping[str, Any]], tuple[Figure, str]],
    ) -> None:
        self._still = still
        super().__init__(controls, shown, compute, draw, caption, source, call)

    def still(self) -> Picture:
        """What stands on a page without a kernel: one picture of several settings."""
        return kept(*self._still(self.state))
