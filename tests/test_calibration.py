"""The estimate is the stated formula, and the rates are those of work that was really done."""

import pytest
import torch

from alignkd_lab.doctor import Rates, calibrate, estimate
from alignkd_lab.lm import shapes
from alignkd_lab.rates import Machine

RATES = Rates(sampled=2.0, trained=1.0, scored=4.0, dtype="float32")


def test_the_estimate_adds_each_kind_of_work_at_its_own_rate():
    work = [{"parameters": 10, "sampled": 6, "trained": 2, "scored": 8}, {"parameters": 3, "trained": 5}]
    assert estimate(work, RATES) == 10 * (6 / 2 + 2 / 1 + 8 / 4) + 3 * 5


@pytest.fixture
def small(monkeypatch):
    """The same calibration on a model small enough for a test."""
    tiny = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 1}
    config = shapes.smollm2("135M", vocab_size=256, num_hidden_layers=2, **tiny)
    monkeypatch.setattr(shapes, "smollm2", lambda size: config)


def test_calibration_measures_every_kind_of_work(small, device):
    rates = calibrate(device)
    assert min(rates.sampled, rates.trained, rates.scored) > 0
    assert rates.dtype in ("float32", "bfloat16")


def test_work_that_takes_longer_is_measured_as_longer():
    light, heavy = torch.randn(64, 64), torch.randn(1024, 1024)
    machine = Machine("cpu")
    assert machine._seconds(lambda: light @ light, 0.05) < machine._seconds(lambda: heavy @ heavy, 0.05)
