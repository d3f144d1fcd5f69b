"""The controls of an explorer: a number or a choice for each part of its state, as data and as widgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ipywidgets import BoundedFloatText, Dropdown, FloatLogSlider, FloatSlider, HBox
from ipywidgets.widgets.widget_description import DescriptionWidget

from alignkd_lab.errors import UnknownName

LABELS = {"description_width": "17em"}
WIDE = {"width": "51em", "max_width": "100%"}


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
        field = {"description": label, "style": LABELS, "layout": {"width": "25em"}}
        self.number = hinted(BoundedFloatText(value, min=low, max=high, **field))
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
        chosen = [(words, name) for name, words in options.items()]
        self.list = hinted(Dropdown(options=chosen, value=value, description=label, style=LABELS, layout=WIDE))
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


class Number(NamedTuple):
    """A number of an explorer's state, and where it begins; the rest is as in `NumberControl`."""

    start: float
    label: str
    low: float
    high: float
    step: float
    logarithmic: bool = False

    def control(self, value: float) -> NumberControl:
        """The widget."""
        return NumberControl(self.label, value, *self[2:])


class Choice(NamedTuple):
    """A choice of an explorer's state, and where it begins; the rest is as in `ChoiceControl`."""

    start: str
    label: str
    options: Mapping[str, str]

    def control(self, value: str) -> ChoiceControl:
        """The widget."""
        return ChoiceControl(self.label, value, self.options)


def start(table: Mapping[str, Number | Choice]) -> dict[str, Any]:
    """The state in which an explorer with these controls begins."""
    return {name: entry.start for name, entry in table.items()}


def controls(
    table: Mapping[str, Number | Choice], state: Mapping[str, Any] | None = None
) -> dict[str, NumberControl | ChoiceControl]:
    """A widget for each entry of the table, at its start where `state` does not say otherwise.

    Raises:
        UnknownName: a part of the state that there is not, or a choice that there is not.
    """
    state = state or {}
    for name in state:
        if name not in table:
            raise UnknownName("control", name, table)
    return {name: entry.control(state.get(name, entry.start)) for name, entry in table.items()}
