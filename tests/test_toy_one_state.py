"""One state: closed forms, the flow and descent on the package's loss agree, and ADPA ends on token 4."""

import math

import pandas as pd
import pytest
import torch
from scipy.integrate import solve_ivp

from alignkd_lab.course.toy import one_state
from alignkd_lab.course.toy.one_state import DPO, REFERENCE
from alignkd_lab.course.toy.sweep import Regulariser
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.losses import adpa
from alignkd_lab.lm.teachers import Full

ENTROPY, KL = Regulariser("entropy", 2.0, nll_weight=0.0), Regulariser("kl", 2.0, nll_weight=0.0)
CLOSED = [(ENTROPY, 1.5), (KL, 1.5), (Regulariser(), 1.5), (Regulariser(), 6.0), (Regulariser(nll_weight=3.0), 1.5)]


def descend(gamma, regulariser=one_state.FREE, *, optimiser="adam", rate=0.05, steps=400, every=10):
    """Descent on the package's loss by the state's logits, from the reference; a row per `every` steps."""
    head, counts = torch.eye(4, dtype=torch.float64), torch.tensor([round(1000 * prob) for prob in REFERENCE])
    dpo, reference = (Full(torch.tensor([probs], dtype=torch.float64).log(), head) for probs in (DPO, REFERENCE))
    counts = counts if regulariser.nll_weight else torch.zeros_like(counts)
    labels = torch.cat([torch.arange(4).repeat_interleave(counts), torch.zeros(1, dtype=torch.long)])
    is_chosen, options = torch.arange(len(labels)) < counts.sum(), regulariser.options(int(counts.sum()), 1)
    logits, found = torch.tensor(REFERENCE, dtype=torch.float64).log().requires_grad_(), []
    stepper = one_state.OPTIMISERS[optimiser]([logits], lr=rate)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            found.append(row(step, logits))
        stepper.zero_grad()
        rows = logits.expand(len(labels), -1)
        adpa(rows, head, labels, dpo, reference, is_chosen, gamma=gamma, **options)[0].backward()
        stepper.step()
    return pd.DataFrame(found)


def flow(gamma, times, regulariser=one_state.FREE):
    """The softmax gradient flow from the reference, d logits / dt = pi (g - E_pi[g]) + w (p - pi), solved to 1e-10.

    g = gamma A, less weight * log pi ("entropy") or weight * log(pi / pi_ref) ("kl"); w (p - pi) is the NLL term's.
    """
    shares = torch.tensor(REFERENCE, dtype=torch.float64)
    tilt = gamma * one_state._used(one_state.advantage(), regulariser, shares)

    def slope(_, logits):
        log_pi = torch.log_softmax(torch.as_tensor(logits), 0)
        held = log_pi - shares.log() if regulariser.kind == "kl" else log_pi
        gain, pi = tilt - regulariser.weight * held, log_pi.exp()
        return (pi * (gain - pi @ gain) + regulariser.nll_weight * (shares - pi)).numpy()

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


def test_without_a_regulariser_the_optimum_is_all_on_token_4_at_every_gamma():
    for gamma in (0.5, 1.5, 6.0):
        assert one_state.optimum(gamma).tolist() == [0, 0, 0, 1]


def test_the_optima_under_entropy_and_kl_are_the_closed_forms():
    a, reference = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    assert_close(one_state.optimum(1.5, ENTROPY), torch.softmax(1.5 * a / 2, 0))
    tilted = reference * torch.exp(1.5 * a / 2)
    assert_close(one_state.optimum(1.5, KL), tilted / tilted.sum())


def test_with_a_kl_as_heavy_as_gamma_the_optimum_is_the_dpo_teacher():
    regulariser = Regulariser("kl", 1.5, nll_weight=0.0)
    assert_close(one_state.optimum(1.5, regulariser), torch.tensor(DPO, dtype=torch.float64))


@pytest.mark.parametrize(("gamma", "weight"), [(0.1, 1.0), (1.5, 1.0), (6.0, 1.0), (6.0, 20.0), (1000.0, 1.0)])
def test_at_the_nll_optimum_no_logit_has_a_slope(gamma, weight):
    a, shares = one_state.advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    pi = one_state.optimum(gamma, Regulariser(nll_weight=weight))
    assert float(pi.sum()) == pytest.approx(1.0, abs=1e-9)
    slope = weight * (pi - shares) - gamma * pi * (a - pi @ a)
    assert slope.abs().max() < 1e-8 * (1 + gamma)


def test_the_nll_keeps_the_other_tokens_at_shares_of_one_over_gamma():
    others = [float(one_state.optimum(gamma, Regulariser())[:3].sum()) for gamma in (100.0, 1000.0, 10_000.0)]
    assert others[0] / others[1] == pytest.approx(10, rel=0.05)
    assert others[1] / others[2] == pytest.approx(10, rel=0.05)


def test_the_nll_does_not_hold_a_token_that_was_never_chosen():
    chosen = (600, 300, 100, 0)
    pi = one_state.optimum(1.5, Regulariser(), chosen=chosen)
    a, shares = one_state.advantage(), torch.tensor(chosen, dtype=torch.float64) / 1000
    assert pi[3] > 0.5
    assert float(pi.sum()) == pytest.approx(1.0)
    assert ((pi - shares) - 1.5 * pi * (a - pi @ a)).abs().max() < 1e-8
    gentle = one_state.optimum(0.01, Regulariser(), chosen=chosen)
    assert float(gentle[3]) == pytest.approx(0.0, abs=1e-9)


def test_a_token_that_was_never_chosen_runs_away_exactly_from_the_runaway_gamma_on():
    chosen = (600, 300, 100, 0)
    edge = one_state.runaway_gamma(chosen=chosen, nll_weight=2.0)
    below, above = (one_state.optimum(f * edge, Regulariser(nll_weight=2.0), chosen=chosen) for f in (0.999, 1.001))
    assert float(below[3]) == pytest.approx(0.0, abs=1e-9)
    assert float(above[3]) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("rarity", [1e-4, 1e-8])
def test_the_nll_lets_a_token_run_away_however_rare_it_is_and_the_kl_does_not(rarity):
    reference, dpo = (0.6, 0.4 - rarity, rarity), (0.6, 0.4 - 10 * rarity, 10 * rarity)
    gamma = 2 * one_state.runaway_gamma(reference, dpo)
    assert gamma < 1
    assert one_state.optimum(gamma, Regulariser(), reference, dpo)[2] > 0.3
    assert one_state.optimum(gamma, Regulariser("kl", 1.0, nll_weight=0.0), reference, dpo)[2] < 10 * rarity


@pytest.mark.parametrize(("regulariser", "gamma"), CLOSED)
def test_adam_on_the_package_s_loss_and_the_flow_end_in_the_closed_form(regulariser, gamma):
    expected = one_state.optimum(gamma, regulariser)
    assert_close(ends(descend(gamma, regulariser, steps=250)), expected, tolerance=2e-3)
    assert_close(ends(flow(gamma, [0, 1e4], regulariser)), expected, tolerance=1e-5)


@pytest.mark.parametrize(
    "regulariser", [one_state.FREE, ENTROPY, KL, Regulariser(), Regulariser(normalise=True), Regulariser(clip=0.3)]
)
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


def test_one_scale_for_the_advantage_leaves_the_corner_and_a_clip_shares_it_among_the_clipped():
    assert one_state.optimum(1.5, Regulariser(normalise=True, nll_weight=0.0)).tolist() == [0, 0, 0, 1]
    assert one_state.optimum(1.5, Regulariser(clip=0.2, nll_weight=0.0)).tolist() == [0, 0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: one_state.advantage(REFERENCE, (0.5, 0.5, 0.0, 0.0)), "dpo"),
        (lambda: one_state.optimum(1.5, Regulariser("kl", 1.0)), "one at a time"),
    ],
)
def test_input_that_cannot_be_used_is_named(call, word):
    with pytest.raises(BadInput, match=word):
        call()
