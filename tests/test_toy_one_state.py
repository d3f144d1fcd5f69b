"""One state: closed forms and descent on the package's loss agree, and ADPA ends on token 4."""

import math

import pytest
import torch

from alignkd_lab.course.toy import one_state
from alignkd_lab.course.toy.one_state import DPO, REFERENCE
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.losses import adpa
from alignkd_lab.lm.teachers import Full

CLOSED = [("entropy", 2.0, 1.5), ("kl", 2.0, 1.5), ("nll", 1.0, 1.5), ("nll", 1.0, 6.0), ("nll", 3.0, 1.5)]


def descend(gamma, regulariser="none", weight=1.0, *, steps=250):
    """Adam on the package's loss by the state's logits, from the reference: the distribution after each step."""
    head, counts = torch.eye(4, dtype=torch.float64), torch.tensor([round(1000 * prob) for prob in REFERENCE])
    dpo, reference = (Full(torch.tensor([probs], dtype=torch.float64).log(), head) for probs in (DPO, REFERENCE))
    counts = counts if regulariser == "nll" else torch.zeros_like(counts)
    labels = torch.cat([torch.arange(4).repeat_interleave(counts), torch.zeros(1, dtype=torch.long)])
    is_chosen, options = torch.arange(len(labels)) < counts.sum(), {"items": (1000 / weight, 1)}
    if regulariser in ("entropy", "kl"):
        options = {"regulariser": regulariser, "regulariser_weight": weight}
    logits, path = torch.tensor(REFERENCE, dtype=torch.float64).log().requires_grad_(), []
    adam = torch.optim.Adam([logits], lr=0.05)
    for _ in range(steps):
        adam.zero_grad()
        rows = logits.expand(len(labels), -1)
        adpa(rows, head, labels, dpo, reference, is_chosen, gamma=gamma, **options)[0].backward()
        adam.step()
        path.append(torch.softmax(logits.detach(), -1))
    return torch.stack(path)


def assert_close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_advantage_is_the_log_ratio_and_the_optima_are_the_closed_forms():
    expected = [math.log(p / r) for p, r in zip(DPO, REFERENCE, strict=True)]
    assert one_state.advantage().tolist() == pytest.approx(expected)
    assert int(one_state.advantage().argmax()) == 3
    a, reference = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    for gamma in (0.5, 1.5, 6.0):
        assert one_state.optimum(gamma).tolist() == [0, 0, 0, 1]
    assert_close(one_state.optimum(1.5, "entropy", 2.0), torch.softmax(1.5 * a / 2, 0))
    tilted = reference * torch.exp(1.5 * a / 2)
    assert_close(one_state.optimum(1.5, "kl", 2.0), tilted / tilted.sum())
    assert_close(one_state.optimum(1.5, "kl", 1.5), torch.tensor(DPO, dtype=torch.float64))
    for wrong, named in (((1.5, "clip"), "clip"), ((0.0,), "gamma must be"), ((1.5, "kl", 0.0), "weight must be")):
        with pytest.raises(BadInput, match=named):
            one_state.optimum(*wrong)


@pytest.mark.parametrize(("gamma", "weight"), [(0.1, 1.0), (1.5, 1.0), (6.0, 1.0), (6.0, 20.0), (1000.0, 1.0)])
def test_at_the_nll_optimum_no_logit_has_a_slope(gamma, weight):
    a, shares = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    pi = one_state.optimum(gamma, "nll", weight)
    assert float(pi.sum()) == pytest.approx(1.0, abs=1e-9)
    slope = weight * (pi - shares) - gamma * pi * (a - pi @ a)
    assert slope.abs().max() < 1e-8 * (1 + gamma)


@pytest.mark.parametrize("rarity", [1e-4, 1e-8])
def test_the_nll_lets_a_token_run_away_however_rare_it_is_and_the_kl_does_not(rarity, monkeypatch):
    monkeypatch.setattr(one_state, "REFERENCE", (0.6, 0.4 - rarity, rarity))
    monkeypatch.setattr(one_state, "DPO", (0.6, 0.4 - 10 * rarity, 10 * rarity))
    edge = one_state.runaway_gamma()
    assert 2 * edge < 1
    assert one_state.optimum(2 * edge, "nll")[2] > 0.3
    assert one_state.optimum(edge / 2, "nll")[2] < 10 * rarity
    assert one_state.optimum(2 * edge, "kl")[2] < 10 * rarity


@pytest.mark.parametrize(("regulariser", "weight", "gamma"), CLOSED)
def test_adam_on_the_package_s_loss_ends_in_the_closed_form(regulariser, weight, gamma):
    ended = descend(gamma, regulariser, weight)[-1]
    assert_close(ended, one_state.optimum(gamma, regulariser, weight), tolerance=2e-3)


def test_adam_goes_by_way_of_token_2_to_token_4():
    path = descend(1.5, steps=400)
    assert path[:, 1].max() > 0.9
    assert path[-1, 3] > 0.99
