"""From an event to the figure's data an explorer takes at most 100 ms at the 95th percentile, on two slow cores, too.

CPU time is measured, since other programs run beside the tests, and compared with that of a fixed piece of work.
"""

import importlib
import pkgutil
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from alignkd_lab.course import explorers
from alignkd_lab.course.explorers import (
    blind_reading,
    densities,
    feasible,
    loss_bench,
    methods,
    orders,
    sharpening,
    threshold,
    two_temperatures,
)
from alignkd_lab.course.explorers import boundary as boundary

PROMISED = 0.1  # seconds
MARGIN = 1.5
# Of `work` on one core of the machine that the promise speaks of.
WORK_TAKES = 0.008
# A new explorer is one line here: what computes, and the controls over whose ranges it is asked.
EXPLORERS: dict[str, tuple[Callable, Callable[[], Mapping]]] = {
    "blind_reading": (blind_reading.compute, blind_reading.controls),
    "boundary": (boundary.compute, boundary.controls),
    "densities": (densities.compute, threshold.controls),
    "feasible": (feasible.compute, feasible.controls),
    "loss_bench": (loss_bench.compute, loss_bench.controls),
    "methods": (methods.compute, methods.controls),
    "orders": (orders.compute, orders.controls),
    "orders with a control": (orders.compute, lambda: orders.controls(control="kd_then_align_high_temperature")),
    "sharpening": (sharpening.compute, sharpening.controls),
    "threshold": (threshold.compute, threshold.controls),
    "two_temperatures": (two_temperatures.compute, two_temperatures.controls),
}
# Timed by its own test, which has the small models that it reads.
WITH_MODELS = {"token_lens"}


def states(controls: Mapping, chance: np.random.Generator) -> list[dict]:
    """Each control alone over its range, then all at random: no state twice, so that no cache is flattered."""
    start = {name: control.value for name, control in controls.items()}
    swept = [{**start, name: value} for name, control in controls.items() for value in values(control, 6)]
    mixed = [{name: chance.choice(values(control, 40)) for name, control in controls.items()} for _ in range(25)]
    mixed = [{name: value.item() for name, value in state.items()} for state in mixed]
    return list({tuple(state.items()): state for state in [*swept, *mixed] if state != start}.values())


def values(control, count: int) -> list:
    """Of a list all, of a number `count` over its range, where the slider stops."""
    if hasattr(control, "list"):
        return [value for _, value in control.list.options]
    slider = control.slider
    places = np.linspace(slider.min, slider.max, count)
    stops = slider.min + np.round((places - slider.min) / slider.step) * slider.step
    stops = 10.0**stops if hasattr(slider, "base") else stops
    return [float(np.clip(stop, control.number.min, control.number.max)) for stop in stops]


def work() -> float:
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
@pytest.mark.parametrize("name", EXPLORERS)
def test_data_are_there_within_a_tenth_of_a_second(name):
    compute, make_controls = EXPLORERS[name]
    controls = make_controls()
    compute({name: control.value for name, control in controls.items()})  # reads what a page reads once
    seconds, slow = [], []
    for state in states(controls, np.random.default_rng(0)):
        began = time.process_time()
        compute(state)
        seconds.append(time.process_time() - began)
        if len(seconds) % 10 == 1:
            slow.append(work() / WORK_TAKES)
    late = np.percentile(seconds, 95)
    print(f"{name}: {1000 * late:.1f} ms at the 95th percentile of {len(seconds)}, machine x{np.median(slow):.2f}")
    assert late < PROMISED * MARGIN * max(1.0, np.median(slow))


def test_every_explorer_is_timed():
    modules = [module.name for module in pkgutil.iter_modules(explorers.__path__)]
    computing = {
        name for name in modules if hasattr(importlib.import_module(f"{explorers.__name__}.{name}"), "compute")
    }
    assert computing == {name.partition(" ")[0] for name in EXPLORERS} | WITH_MODELS
