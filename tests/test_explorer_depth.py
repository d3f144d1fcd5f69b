"""Every picture of every explorer says in words how deep its evidence is, on the page and without a kernel."""

import importlib
import re

import pytest
from matplotlib.text import Text

from alignkd_lab.explorers import choice, view
from alignkd_lab.explorers.view import Explorer

# What was recorded, what is computed here from real weights or exact forms, what closed forms foretell.
DEPTHS = re.compile(r"\b(recorded|record|live|tiny|foretold)\b", re.IGNORECASE)
EXPLORERS = (
    "border",
    "densities",
    "feasible",
    "loss_bench",
    "methods",
    "orders",
    "sharpening",
    "threshold",
    "two_temperatures",
)


@pytest.fixture
def drawn(monkeypatch):
    """The words of every figure that becomes a picture."""
    words, png = [], view.png

    def kept(figure):
        words.append(" ".join(text.get_text() for text in figure.findobj(Text)))
        return png(figure)

    monkeypatch.setattr(view, "png", kept)
    monkeypatch.setattr(choice, "_small", lambda image: b"")  # slow, and nobody looks
    return words


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_picture_says_its_depth(name, drawn):
    explorer = importlib.import_module(f"alignkd_lab.explorers.{name}").show()
    assert isinstance(explorer, Explorer)
    live = len(drawn)
    explorer.still()
    assert 0 < live < len(drawn)
    assert all(DEPTHS.search(words) for words in drawn)
