"""The "loss bench" explorer: its pushes are the closed forms, and the belief that DPO waits for a lead fails twice."""

import numpy as np
import pytest

from alignkd_lab import theory
from alignkd_lab.course.exercises.ask import check
from alignkd_lab.course.explorers import loss_bench
from alignkd_lab.course.explorers.loss_bench import LAST, LOSER, LOSSES, START, WINNER, caption, compute
from alignkd_lab.course.toy import one_state

STEPS = (0, 7, 31)


def state(**changes):
    return {**START, **changes}


def teacher():
    return np.array(one_state.DPO)


def distributions(data):
    return [(step, np.exp(data.log_probs[step])) for step in STEPS]


@pytest.fixture
def explorer():
    return loss_bench.show("steps", "reference_margin")


# The losses are the package's, and their pushes the closed forms


@pytest.mark.parametrize("margin", [-20.0, -0.693, 3.0])
def test_dpo_pushes_the_pair_apart_by_beta_times_its_weight_and_nothing_else(margin):
    data = compute(state(reference_margin=margin, beta=0.8))
    weights = theory.dpo_weight(data.margins, margin, 0.8).numpy()
    assert data.weights == pytest.approx(weights)
    assert data.pushes[:, WINNER] == pytest.approx(0.8 * weights, abs=1e-9)
    assert data.pushes[:, LOSER] == pytest.approx(-0.8 * weights, abs=1e-9)
    assert np.abs(data.pushes[:, 2:]).max() < 1e-9
    assert data.losses == pytest.approx(-np.log1p(-weights))
    assert data.weights[0] == pytest.approx(0.5)


def test_the_nll_pushes_the_winner_by_what_it_lacks():
    data = compute(state(loss="nll"))
    for step, probs in distributions(data):
        assert data.pushes[step] == pytest.approx(np.eye(4)[WINNER] - probs)
        assert data.losses[step] == pytest.approx(-np.log(probs[WINNER]))


def test_forward_kl_pushes_by_the_gap_and_reverse_kl_by_the_gap_times_the_share():
    for step, probs in distributions(compute(state(loss="forward"))):
        assert compute(state(loss="forward")).pushes[step] == pytest.approx(teacher() - probs)
    data = compute(state(loss="reverse"))
    for step, probs in distributions(data):
        gap = np.log(probs / teacher())
        assert data.pushes[step] == pytest.approx(-probs * (gap - probs @ gap), abs=1e-12)
        assert data.losses[step] == pytest.approx(probs @ gap)


@pytest.mark.parametrize("loss", ["jsd", "skew"])
def test_jsd_and_skew_kl_are_those_of_their_mixture(loss):
    data = compute(state(loss=loss))
    for step, probs in distributions(data):
        mixed = (teacher() + probs) / 2
        forward = teacher() @ np.log(teacher() / mixed)
        expected = forward if loss == "skew" else (forward + probs @ np.log(probs / mixed)) / 2
        assert data.losses[step] == pytest.approx(expected)


def test_adpa_pushes_by_the_centred_advantage_times_the_share():
    data = compute(state(loss="adpa", gamma=2.5))
    advantage = data.log_teacher - data.log_reference
    for step, probs in distributions(data):
        assert data.pushes[step] == pytest.approx(2.5 * probs * (advantage - probs @ advantage), abs=1e-12)
        assert data.losses[step] == pytest.approx(-2.5 * probs @ advantage)


def test_adpa_with_the_nll_is_the_sum_of_both():
    data = compute(state(loss="adpa_nll", gamma=2.5))
    advantage = data.log_teacher - data.log_reference
    for step, probs in distributions(data):
        expected = np.eye(4)[WINNER] - probs + 2.5 * probs * (advantage - probs @ advantage)
        assert data.pushes[step] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_gradient_descent_moves_every_logit_by_its_push(loss):
    data = compute(state(loss=loss))
    moved = data.log_probs[:-1] + data.pushes[:-1]
    moved -= np.log(np.exp(moved).sum(-1, keepdims=True))
    assert data.log_probs[1:] == pytest.approx(moved)
    assert data.pushes.sum(-1) == pytest.approx(0, abs=1e-9)
    assert [compute(state(loss=loss, steps=steps)).step for steps in (-3.0, 12.4, 1e9)] == [0, 12, LAST]
    assert caption(data).endswith(".")


def test_the_start_is_the_reference_of_the_toy_world_and_its_pair_has_the_margin_of_the_state():
    assert compute(state()).probs == pytest.approx(one_state.REFERENCE, abs=1e-4)
    for margin in np.linspace(-25, 5, 7):
        data = compute(state(reference_margin=margin))
        assert data.margins[0] == pytest.approx(margin)
        assert data.probs.sum() == pytest.approx(1)
        assert data.probs[2:] == pytest.approx(one_state.REFERENCE[2:])


# The belief


def test_far_behind_dpo_is_satisfied_while_the_loser_leads_by_more_than_a_million():
    data = compute(state(reference_margin=-20.0))
    satisfied = int((data.weights < 0.05).argmax())
    assert 0 < satisfied < LAST
    assert data.margins[satisfied] == pytest.approx(-14.1, abs=0.1)
    assert np.exp(-data.margins[satisfied]) > 1e6
    assert check("satisfied_margin", data.margins[satisfied]).right is True
    assert data.log_probs[satisfied].argmax() == 2
    assert check("unpaired_mass", "bystander").right is True


def test_at_a_tie_dpo_goes_on_pushing_the_winner_that_leads():
    data = compute(state(reference_margin=0.0))
    assert (data.margins[1:] > 0).all()
    assert (data.weights[1:11] > 0.1).all()
    assert data.weights == pytest.approx(1 / (1 + np.exp(0.5 * data.margins)))


def test_what_the_loser_loses_goes_to_tokens_that_no_pair_compares():
    data = compute(state(reference_margin=-20.0, steps=float(LAST)))
    assert data.probs[2:].sum() > 0.65
    assert np.exp(data.log_reference[2:]).sum() == pytest.approx(0.1)
    ratios = data.log_probs[:, 2] - data.log_probs[:, 3]
    assert ratios == pytest.approx(ratios[0])


def test_a_teachers_whole_distribution_repairs_what_a_pair_cannot():
    for margin in (-20.0, -0.693):
        data = compute(state(loss="forward", reference_margin=margin, steps=float(LAST)))
        assert data.probs == pytest.approx(teacher(), abs=0.03)


def test_reverse_kl_hardly_moves_a_token_that_the_policy_never_says():
    far = state(reference_margin=-20.0, steps=float(LAST))
    assert compute({**far, "loss": "forward"}).probs[WINNER] > 0.3
    assert compute({**far, "loss": "reverse"}).probs[WINNER] < 0.01


# compute and caption


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference_margin": -20.0}, "the weight is ½, although the loser is 490,000,000 times likelier"),
        ({"reference_margin": -20.0, "steps": 20.0}, "So far the belief holds"),
        ({"reference_margin": -20.0, "steps": float(LAST)}, "The belief fails: DPO is satisfied, and the loser"),
        ({"reference_margin": 0.0, "steps": 5.0}, "The belief fails: the winner is"),
        ({"reference_margin": 0.0, "steps": float(LAST)}, "not the lead"),
    ],
)
def test_the_caption_says_what_becomes_of_the_belief(changes, said):
    data = compute(state(**changes))
    words = caption(data)
    assert said in words
    leads, pushes = data.margins[data.step] > 0, data.weights[data.step] >= 0.05
    assert ("The belief fails" in words) is bool(data.step and leads == pushes)


def test_the_caption_of_adpa_says_where_it_ends_and_that_of_a_divergence_where_it_is_farthest_off():
    words = caption(compute(state(loss="adpa", optimiser="adam", steps=float(LAST))))
    assert "the advantage is largest on token 4 (A = 2.30)" in words
    assert "It has ended on token 4, which both teachers find rare" in words
    assert "token 2" in caption(compute(state(loss="reverse", reference_margin=-20.0, steps=float(LAST))))


# Controls and picture


def test_a_slider_that_the_loss_does_not_know_is_greyed_out(explorer):
    for loss, off in (("dpo", [False, True]), ("adpa", [True, False]), ("nll", [True, True])):
        explorer.controls["loss"].value = loss
        assert [explorer.controls[name].slider.disabled for name in ("beta", "gamma")] == off


def test_the_picture_marks_the_weight_of_the_state_on_its_rule():
    data = compute(state(reference_margin=-20.0, steps=42.0))
    axis = loss_bench.draw(data).axes[3]
    (point,) = [line for line in axis.lines if line.get_marker() == "o"]
    assert point.get_xdata()[0] == pytest.approx(data.margins[42])
    assert point.get_ydata()[0] == pytest.approx(data.weights[42])
    rule = axis.lines[0]
    assert np.interp(data.margins[42], rule.get_xdata(), rule.get_ydata()) == pytest.approx(data.weights[42], abs=1e-3)


def test_pushes_are_drawn_on_one_scale_for_the_whole_walk():
    scales = {loss_bench.draw(compute(state(steps=steps))).axes[1].get_ylim() for steps in (0.0, float(LAST))}
    assert len(scales) == 1
