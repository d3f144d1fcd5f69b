"""The rates are those of work that was really done."""

import pytest
import torch

from alignkd_lab import clock
from alignkd_lab.lm import shapes
from alignkd_lab.rates import Machine


@pytest.fixture
def small(monkeypatch):
    """The same calibration on a model small enough for a test."""
    tiny = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 1}
    config = shapes.smollm2("135M", vocab_size=256, num_hidden_layers=2, **tiny)
    monkeypatch.setattr(clock, "smollm2", lambda size: config)
    clock.calibrate.cache_clear()


def test_calibration_measures_every_kind_of_work(small, device):
    rates = clock.calibrate(device)
    clock.calibrate.cache_clear()
    assert min(rates.sampled, rates.trained, rates.scored) > 0
    assert rates.device == device


def test_work_that_takes_longer_is_measured_as_longer():
    light, heavy = torch.randn(64, 64), torch.randn(1024, 1024)
    machine = Machine("cpu")
    assert machine._seconds(lambda: light @ light, 0.05) < machine._seconds(lambda: heavy @ heavy, 0.05)
