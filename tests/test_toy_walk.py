"""The loss bench: the chart walks as the package's losses do, and the belief that DPO waits for a lead fails twice."""

import numpy as np
import pytest
from scene import Scene, evaluated, value

from alignkd_lab import theory
from alignkd_lab.course.exercises.ask import check, task
from alignkd_lab.course.explorers import loss_bench
from alignkd_lab.course.explorers.loss_bench import LOSSES
from alignkd_lab.course.toy import one_state
from alignkd_lab.course.toy.walk import WINNER, walk
from alignkd_lab.errors import UnknownName

STATES = [
    {},
    {"reference_margin": -20.0, "beta": 10**-0.1, "gamma": 2.5, "steps": 42.0},
    {"reference_margin": 3.0, "beta": 10**0.6, "gamma": 6.0, "optimiser": "adam", "steps": 7.0},
]


@pytest.mark.parametrize("changes", STATES)
def test_the_chart_walks_as_the_package_s_losses_do(changes):
    state = {name: control.value for name, control in loss_bench.CONTROLS.items()} | changes
    chart = loss_bench.show(**changes)
    of, step = [state[name] for name in ("reference_margin", "beta", "gamma", "optimiser")], round(state["steps"])
    for loss in LOSSES:
        next(made for made in chart.spec["params"] if made["name"] == "loss")["value"] = loss
        walked = walk(loss, *of)
        shares, pushes, here = evaluated(chart, "shares", "pushes", "here")
        assert np.log(shares.reshape(-1, 4)) == pytest.approx(walked.log_probs, abs=1e-6), loss
        assert pushes.reshape(-1, 4) == pytest.approx(walked.pushes, abs=1e-6), loss
        assert here == pytest.approx(np.exp(walked.log_probs[step])), loss


def test_the_chart_draws_the_shares_and_the_weight_of_the_step():
    scene, walked = Scene(loss_bench.show(reference_margin=-20.0, steps=42.0)), walk("dpo", -20.0)
    shares = np.exp(walked.log_probs[42])
    bars = [bar["height"] / 125 * 1.2 for bar in scene.places("rect")[0]]
    assert bars == pytest.approx(shares, abs=1e-6)
    (state,) = scene.places("symbol")[-1]
    low, high = walked.margins[0] - 2, 5
    assert value(state["x"], 355, low, high) == pytest.approx(walked.margins[42])
    assert value(90 - state["y"], 90, 0, 0.8) == pytest.approx(walked.weights[42], abs=1e-6)


def test_the_start_is_the_reference_of_the_toy_world_and_its_pair_has_the_margin_of_the_state():
    assert np.exp(walk("dpo", -0.693).log_probs[0]) == pytest.approx(one_state.REFERENCE, abs=1e-4)
    for margin in np.linspace(-25, 5, 7):
        walked = walk("dpo", margin)
        assert walked.margins[0] == pytest.approx(margin)
        assert np.exp(walked.log_probs[0, 2:]) == pytest.approx(one_state.REFERENCE[2:])


def test_a_loss_or_an_optimiser_that_does_not_exist_is_refused_and_no_other_walks_for_it():
    with pytest.raises(UnknownName, match=r"loss 'kl' is unknown. Accepted: dpo, nll, forward"):
        walk("kl", 0.0)
    with pytest.raises(UnknownName, match="optimiser 'sgd'"):
        walk("dpo", 0.0, optimiser="sgd")


def test_far_behind_dpo_is_satisfied_while_the_loser_leads_and_at_a_tie_it_goes_on_pushing_the_winner():
    walked = walk("dpo", -20.0)
    satisfied = int((walked.weights < 0.05).argmax())
    assert 0 < satisfied <= 42  # the step that notebook 04 shows
    assert walked.weights == pytest.approx(theory.dpo_weight(walked.margins, -20.0, 0.5).numpy())
    assert walked.margins[satisfied] == pytest.approx(-14.1, abs=0.1)
    assert check("satisfied_margin", walked.margins[satisfied]).right is True
    assert walked.log_probs[satisfied].argmax() == 2
    assert task("unpaired_mass").right("bystander")
    walked = walk("dpo", 0.0)
    assert (walked.margins[1:] > 0).all()
    assert (walked.weights[1:11] > 0.1).all()


def test_what_the_loser_loses_goes_to_tokens_that_no_pair_compares_which_forward_kl_repairs_and_reverse_kl_does_not():
    log_probs = walk("dpo", -20.0).log_probs
    assert np.exp(log_probs[-1, 2:]).sum() > 0.65
    assert np.ptp(log_probs[:, 2] - log_probs[:, 3]) == pytest.approx(0, abs=1e-9)
    forward, reverse = (np.exp(walk(loss, -20.0).log_probs[-1]) for loss in ("forward", "reverse"))
    assert forward == pytest.approx(one_state.DPO, abs=0.03)
    assert reverse[WINNER] < 0.01
