"""One state: closed forms, the flow and descent on the package's loss agree, and ADPA ends on token 4."""

import math

import pandas as pd
import pytest
import torch
from scipy.integrate import solve_ivp

from alignkd_lab.course.toy import one_state
from alignkd_lab.course.toy.one_state import DPO, REFERENCE
from alignkd_lab.course.toy.walk import OPTIMISERS
from alignkd_lab.errors import UnknownName
from alignkd_lab.lm.losses import adpa
from alignkd_lab.lm.teachers import Full

CLOSED = [("entropy", 2.0, 1.5), ("kl", 2.0, 1.5), ("nll", 1.0, 1.5), ("nll", 1.0, 6.0), ("nll", 3.0, 1.5)]


def descend(gamma, regulariser="none", weight=1.0, *, optimiser="adam", rate=0.05, steps=400, every=10):
    """Descent on the package's loss by the state's logits, from the reference; a row per `every` steps."""
    head, counts = torch.eye(4, dtype=torch.float64), torch.tensor([round(1000 * prob) for prob in REFERENCE])
    dpo, reference = (Full(torch.tensor([probs], dtype=torch.float64).log(), head) for probs in (DPO, REFERENCE))
    counts = counts if regulariser == "nll" else torch.zeros_like(counts)
    labels = torch.cat([torch.arange(4).repeat_interleave(counts), torch.zeros(1, dtype=torch.long)])
    is_chosen, options = torch.arange(len(labels)) < counts.sum(), {"items": (1000 / weight, 1)}
    if regulariser in ("entropy", "kl"):
        options = {"regulariser": regulariser, "regulariser_weight": weight}
    logits, found = torch.tensor(REFERENCE, dtype=torch.float64).log().requires_grad_(), []
    stepper = OPTIMISERS[optimiser]([logits], lr=rate)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            found.append(row(step, logits))
        stepper.zero_grad()
        rows = logits.expand(len(labels), -1)
        adpa(rows, head, labels, dpo, reference, is_chosen, gamma=gamma, **options)[0].backward()
        stepper.step()
    return pd.DataFrame(found)


def flow(gamma, times, regulariser="none", weight=1.0):
    """The softmax gradient flow from the reference, d logits / dt = pi (g - E_pi[g]) + w (p - pi), solved to 1e-10.

    g = gamma A, less weight * log pi ("entropy") or weight * log(pi / pi_ref) ("kl"); w (p - pi) is the NLL term's.
    """
    shares, tilt = torch.tensor(REFERENCE, dtype=torch.float64), gamma * one_state.advantage()
    nll = weight if regulariser == "nll" else 0.0

    def slope(_, logits):
        log_pi = torch.log_softmax(torch.as_tensor(logits), 0)
        held = {"entropy": log_pi, "kl": log_pi - shares.log()}.get(regulariser, 0.0)
        gain, pi = tilt - weight * held, log_pi.exp()
        return (pi * (gain - pi @ gain) + nll * (shares - pi)).numpy()

    path = solve_ivp(slope, (0, max(times)), shares.log().numpy(), "LSODA", times, rtol=1e-10, atol=1e-12)
    return pd.DataFrame([row(t, torch.as_tensor(z)) for t, z in zip(path.t, path.y.T, strict=True)])


def row(time, logits):
    probs = torch.softmax(logits.detach(), 0)
    tokens = {f"token_{number}": prob for number, prob in enumerate(probs.tolist(), 1)}
    return {"time": time, "expected_advantage": float(probs @ one_state.advantage())} | tokens


def ends(frame):
    """The last row's distribution."""
    return torch.tensor(frame.iloc[-1].filter(like="token_").tolist(), dtype=torch.float64)


def assert_close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_advantage_is_the_log_ratio_and_largest_on_token_4():
    expected = [math.log(p / r) for p, r in zip(DPO, REFERENCE, strict=True)]
    assert one_state.advantage().tolist() == pytest.approx(expected)
    assert int(one_state.advantage().argmax()) == 3


def test_the_optima_without_a_regulariser_and_under_entropy_and_kl_are_the_closed_forms():
    a, reference = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    for gamma in (0.5, 1.5, 6.0):
        assert one_state.optimum(gamma).tolist() == [0, 0, 0, 1]
    assert_close(one_state.optimum(1.5, "entropy", 2.0), torch.softmax(1.5 * a / 2, 0))
    tilted = reference * torch.exp(1.5 * a / 2)
    assert_close(one_state.optimum(1.5, "kl", 2.0), tilted / tilted.sum())
    assert_close(one_state.optimum(1.5, "kl", 1.5), torch.tensor(DPO, dtype=torch.float64))
    with pytest.raises(UnknownName, match="clip"):
        one_state.optimum(1.5, "clip")


@pytest.mark.parametrize(("gamma", "weight"), [(0.1, 1.0), (1.5, 1.0), (6.0, 1.0), (6.0, 20.0), (1000.0, 1.0)])
def test_at_the_nll_optimum_no_logit_has_a_slope(gamma, weight):
    a, shares = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    pi = one_state.optimum(gamma, "nll", weight)
    assert float(pi.sum()) == pytest.approx(1.0, abs=1e-9)
    slope = weight * (pi - shares) - gamma * pi * (a - pi @ a)
    assert slope.abs().max() < 1e-8 * (1 + gamma)


def test_the_nll_keeps_the_other_tokens_at_shares_of_one_over_gamma():
    others = [float(one_state.optimum(gamma, "nll")[:3].sum()) for gamma in (100.0, 1000.0, 10_000.0)]
    assert others[0] / others[1] == pytest.approx(10, rel=0.05)
    assert others[1] / others[2] == pytest.approx(10, rel=0.05)


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
def test_adam_on_the_package_s_loss_and_the_flow_end_in_the_closed_form(regulariser, weight, gamma):
    expected = one_state.optimum(gamma, regulariser, weight)
    assert_close(ends(descend(gamma, regulariser, weight, steps=250)), expected, tolerance=2e-3)
    assert_close(ends(flow(gamma, [0, 1e4], regulariser, weight)), expected, tolerance=1e-5)


@pytest.mark.parametrize("regulariser", one_state.REGULARISERS)
def test_small_gradient_steps_on_the_package_s_loss_follow_the_flow(regulariser):
    steps = descend(1.5, regulariser, optimiser="gradient", rate=0.005, steps=100, every=100)
    assert_close(ends(steps), ends(flow(1.5, [0, 0.5], regulariser)), tolerance=2e-3)


def test_the_flow_first_goes_to_token_2_and_after_a_long_while_to_token_4():
    path = flow(1.5, [0, 1e3, 1e4, 1e5])
    assert path.token_4[1] < REFERENCE[3]
    assert (path.token_2[1:3] > 0.99).all()
    assert path.token_4[3] > 0.999
    assert path.expected_advantage.is_monotonic_increasing


def test_adam_is_on_token_4_in_a_hundredth_of_the_steps():
    path = descend(1.5)
    assert path.token_2.max() > 0.9
    assert path.token_4.iloc[-1] > 0.99
    assert path.time.iloc[-1] == 400
