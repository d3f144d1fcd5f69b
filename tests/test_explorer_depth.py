"""Every picture of every explorer says in words how deep its evidence is, on the page and without a kernel."""

import importlib
import re

import pytest

from alignkd_lab.course.widgets import choice
from alignkd_lab.course.widgets.view import Explorer

# What was recorded, what is computed here from real weights or exact forms, what closed forms predict.
DEPTHS = re.compile(r"\b(recorded|record|live|tiny|predicted)\b", re.IGNORECASE)
EXPLORERS = (
    "boundary",
    "densities",
    "feasible",
    "loss_bench",
    "methods",
    "orders",
    "sharpening",
    "threshold",
    "two_temperatures",
)


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_picture_says_its_depth_also_to_those_who_cannot_see_it(name, monkeypatch):
    monkeypatch.setattr(choice, "_small", lambda image: b"")  # slow, and nobody looks
    explorer = importlib.import_module(f"alignkd_lab.course.explorers.{name}").show()
    assert isinstance(explorer, Explorer)
    alt = re.search(r'alt="([^"]*)"', explorer.picture.value).group(1)
    assert DEPTHS.search(alt)
    assert DEPTHS.search(explorer.still().alt)
