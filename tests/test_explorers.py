"""What every explorer keeps: controls over their ranges, calls that rebuild, evidence in words, and its speed.

CPU time is measured, since other programs run beside the tests, and compared with that of a fixed piece of work.
"""

import importlib
import pkgutil
import re
import time

import numpy as np
import pytest
import torch

from alignkd_lab.course import explorers
from alignkd_lab.course.explorers import (
    blind_reading,
    orders,
)
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets import view
from alignkd_lab.course.widgets.controls import Choice, controls, start
from alignkd_lab.errors import UnknownName

# A new explorer is one line here: its module, its table of controls, and where it begins to be moved from.
EXPLORERS = {
    "orders": (orders, orders.CONTROLS, {}),
    "orders with a control": (orders, orders.CONTROLS, {"control": "kd_then_align_high_temperature"}),
}
# The token lens is timed by its own test, which has the small models that it reads.
OTHERS = {"blind_reading", "token_lens"}
# What was recorded, what is computed here from real weights or exact forms, what closed forms predict.
DEPTHS = re.compile(r"\b(recorded|record|live|tiny|predicted)\b", re.IGNORECASE)
PROMISED = 0.1  # seconds
MARGIN = 1.5
WORK_TAKES = 0.008  # seconds of `work` on one core of the machine that the promise speaks of
ANYTHING = [(name, control) for name, (_, table, _) in EXPLORERS.items() for control in table]


def stops(entry, count):
    """Of a choice all, of a number `count` over its range, where the slider stops."""
    if isinstance(entry, Choice):
        return list(entry.options)
    control = entry.control(entry.start)
    slider = control.slider
    places = slider.min + np.round(np.linspace(0, slider.max - slider.min, count) / slider.step) * slider.step
    places = 10.0**places if entry.logarithmic else places
    return [float(np.clip(place, entry.low, entry.high)) for place in places]


def test_every_explorer_is_tested():
    modules = [module.name for module in pkgutil.iter_modules(explorers.__path__)]
    computing = {n for n in modules if hasattr(importlib.import_module(f"{explorers.__name__}.{n}"), "compute")}
    assert computing == {name.partition(" ")[0] for name in EXPLORERS} | OTHERS


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_part_of_the_state_has_a_labelled_control_that_begins_there(name):
    module, table, _ = EXPLORERS[name]
    made = controls(table)
    assert {part: control.value for part, control in made.items()} == start(table) == module.START
    for part, control in made.items():
        field = control.list if isinstance(table[part], Choice) else control.number
        assert field.description == field.tooltip == table[part].label
        assert field in control.children


@pytest.mark.parametrize(("name", "control"), ANYTHING, ids=[f"{name}-{control}" for name, control in ANYTHING])
def test_each_control_moves_the_picture_over_its_whole_range(name, control):
    module, table, begin = EXPLORERS[name]
    made, seen = module.show(control, **begin), set()
    values = stops(table[control], 3)
    for value in values:
        made.controls[control].value = value
        assert made.state[control] == pytest.approx(value) if not isinstance(value, str) else value
        assert "cannot be drawn" not in made.words.value
        assert f"{control}=" in made.words.value
        seen.add((made.picture.value, made.words.value))
    assert len(seen) == len(set(values))
    assert len({picture for picture, _ in seen}) > 1
    rebuilt = module.show(control, **made.state)
    assert (rebuilt.picture.value, rebuilt.words.value) == (made.picture.value, made.words.value)


@pytest.mark.parametrize("name", EXPLORERS)
def test_what_there_is_not_is_named_with_what_there_is(name):
    module, table, _ = EXPLORERS[name]
    for refused in (lambda: module.show("mood"), lambda: module.show(mood=1.0)):
        with pytest.raises(UnknownName, match=next(iter(table))):
            refused()
    for control, entry in table.items():
        if isinstance(entry, Choice):
            with pytest.raises(UnknownName, match=next(iter(entry.options))):
                module.show(**{control: "another"})


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_page_carries_widgets_and_pictures_that_say_their_depth_to_everybody(name, monkeypatch):
    monkeypatch.setattr(view, "small", lambda image: b"")  # slow, and nobody looks
    made = EXPLORERS[name][0].show()
    bundle, size = made._repr_mimebundle_()
    assert bundle[WIDGET_VIEW]["model_id"] == made.widget.model_id
    alt = re.search(r'alt="([^"]*)"', made.picture.value).group(1)
    assert DEPTHS.search(alt)
    assert DEPTHS.search(size["image/png"]["alt"])


# Speed


def states(table, chance):
    """Each control alone over its range, then all at random: no state twice, so that no cache is flattered."""
    swept = [{**start(table), name: value} for name, entry in table.items() for value in stops(entry, 6)]
    mixed = [{name: chance.choice(stops(entry, 40)).item() for name, entry in table.items()} for _ in range(25)]
    return list({tuple(state.items()): state for state in [*swept, *mixed] if state != start(table)}.values())


def work():
    """CPU seconds of a fixed piece of work like an explorer's: small arrays, and Python between them."""
    began = time.process_time()
    values = np.linspace(0.1, 1, 2000)
    for _ in range(200):
        values = np.sqrt(values * values + 1e-9)
        sum(divmod(step, 7)[1] for step in range(300))
        torch.ones(200).cumsum(0)
    return time.process_time() - began


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [*EXPLORERS, "blind_reading"])
def test_data_are_there_within_a_tenth_of_a_second(name):
    module, table, begin = EXPLORERS.get(name) or (blind_reading, blind_reading.CONTROLS, {})
    module.compute({**start(table), **begin})  # reads what a page reads once
    seconds, slow = [], []
    for state in states(table, np.random.default_rng(0)):
        began = time.process_time()
        module.compute({**state, **begin})
        seconds.append(time.process_time() - began)
        if len(seconds) % 10 == 1:
            slow.append(work() / WORK_TAKES)
    late = np.percentile(seconds, 95)
    print(f"{name}: {1000 * late:.1f} ms at the 95th percentile of {len(seconds)}, machine x{np.median(slow):.2f}")
    assert late < PROMISED * MARGIN * max(1.0, np.median(slow))
