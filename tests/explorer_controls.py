"""What every explorer's controls have to be, for the tests of several explorers."""

from alignkd_lab.course.widgets.choice import ChoiceControl
from alignkd_lab.course.widgets.view import NumberControl


def expect_controls(made, start, ranges, choices):
    """A labelled control for each part of the state `start`: numbers over `ranges`, lists of `choices`."""
    assert {name: control.value for name, control in made.items()} == start
    assert set(start) == {*ranges, *choices}
    for name, (low, high) in ranges.items():
        assert isinstance(made[name], NumberControl)
        assert (made[name].number.min, made[name].number.max) == (low, high)
        assert made[name].number.description
    for name, options in choices.items():
        assert isinstance(made[name], ChoiceControl)
        assert tuple(value for _, value in made[name].list.options) == options
        assert made[name].list.description
