"""ADPA in the toy world: the package's loss against exact gradients, metrics against enumeration, and its limits."""

import math

import pandas as pd
import pytest
import torch

from alignkd_lab.course.toy import language, sweep, world
from alignkd_lab.course.toy.sweep import REGULARISERS, Regulariser
from alignkd_lab.course.toy.world import ToySettings
from alignkd_lab.errors import BadInput

TINY = ToySettings(vocabulary=4, length=3, target=2, pairs=60, reference_responses=80, responses=40, steps=5)


@pytest.fixture(scope="module")
def tiny():
    return world.build(TINY, (0, 1))


@pytest.fixture(scope="module")
def toy():
    """The default world, with three seeds and fewer steps."""
    return world.build(ToySettings(steps=80), (0, 1, 2))


@pytest.fixture(scope="module")
def unregularised(toy):
    return sweep.sweep((1.5, 6.0), regulariser="none", world=toy, marks=())


def column(frame, metric, gamma):
    """The metric after the last step, one value a seed."""
    chosen = frame[(frame.gamma == gamma) & (frame.step == frame.step.max())]
    return torch.tensor(chosen.sort_values("seed")[metric].tolist(), dtype=torch.float64)


def assert_close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def naive_loss(table, held, regulariser, gamma):
    """One seed's ADPA loss, token by token and in the formula's own words."""
    teacher, reference = held["dpo"], held["reference"]

    def states(responses):
        for response in responses.tolist():
            before = [table.shape[-1], *response[:-1]]
            yield from zip(range(len(response)), before, response, strict=True)

    winners, sampled = list(states(held["chosen"])), list(states(held["responses"]))
    nll = -sum(torch.log_softmax(table[t, prev], 0)[token] for t, prev, token in winners) / len(winners)
    gain = 0.0
    for t, prev, _ in sampled:
        log_pi, a = torch.log_softmax(table[t, prev], 0), teacher[t, prev] - reference[t, prev]
        pi, ref = log_pi.exp(), reference[t, prev].exp()
        if regulariser.normalise:
            a = a / ((ref * a**2).sum() - (ref * a).sum() ** 2).sqrt()
        if regulariser.clip is not None:
            a = torch.minimum(torch.maximum(a, torch.tensor(-regulariser.clip)), torch.tensor(regulariser.clip))
        gain = gain + gamma * (pi * a).sum()
        if regulariser.kind == "entropy":
            gain = gain - regulariser.weight * (pi * log_pi).sum()
        if regulariser.kind == "kl":
            gain = gain - regulariser.weight * (pi * (log_pi - reference[t, prev])).sum()
    return regulariser.nll_weight * nll - gain / len(sampled)


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_step_follows_the_gradient_of_the_formula(tiny, name, monkeypatch):
    slopes = []

    class Watch(torch.optim.SGD):
        def step(self):
            slopes.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, rate, fused: Watch(parameters, lr=rate))
    steps = sweep.train(tiny, 1.5, REGULARISERS[name], (0, 1))
    next(steps), next(steps)
    for seed in range(2):
        parameters = [p[seed : seed + 1].clone().requires_grad_() for p in tiny.student]
        held = {key: getattr(tiny, key)[seed] for key in ("dpo", "reference", "chosen", "responses")}
        loss = naive_loss(world.student_logits(tuple(parameters))[0], held, REGULARISERS[name], 1.5)
        expected = torch.autograd.grad(loss, parameters)
        for found, slope in zip(slopes[0], expected, strict=True):
            assert_close(found[seed], slope[0], tolerance=1e-8)


def test_every_metric_is_the_sum_over_every_response(tiny):
    found = sweep.measure(tiny, tiny.dpo)
    log_probs = language.every_log_prob(tiny.dpo)
    probs = log_probs.exp()
    truth, reference = language.every_log_prob(tiny.truth), language.every_log_prob(tiny.reference)
    expected = {
        "reward": (probs * tiny.reward).sum(-1),
        "target_rate": (probs * (language.every_response(4, 3) == 2).any(-1)).sum(-1),
        "fluency": (probs * tiny.fluency).sum(-1),
        "fitted_reward": (probs * language.every_log_prob(tiny.fitted_reward)).sum(-1),
        "overall_precision": (probs * truth).sum(-1) / 3,
        "overall_recall": (truth.exp() * log_probs).sum(-1) / 3,
        "entropy": -(probs * log_probs).sum(-1) / 3,
        "kl_to_reference": (probs * (log_probs - reference)).sum(-1) / 3,
    }
    for name, values in expected.items():
        assert_close(torch.tensor(found[name], dtype=torch.float64), values)


def test_the_own_advantage_is_the_kl_to_the_reference_less_the_kl_to_the_dpo_teacher(tiny):
    found = sweep.measure(tiny, tiny.initial_student)
    assert (found.own_advantage - (found.kl_to_reference - found.kl_to_dpo)).abs().max() < 1e-10
    assert (found.own_advantage - found.expected_advantage).abs().max() < 1e-10


def test_top_mass_is_one_for_a_policy_that_says_only_the_largest_advantage(tiny):
    greedy = torch.full_like(tiny.dpo, -math.inf).scatter_(-1, tiny.advantage.argmax(-1, keepdim=True), 0.0)
    found = sweep.measure(tiny, greedy)
    assert found.top_mass.tolist() == pytest.approx([1.0, 1.0])
    best = language.expected_sum(tiny.initial_student, tiny.advantage.amax(-1, keepdim=True).expand_as(greedy)) / 3
    assert found.expected_advantage.tolist() == pytest.approx(best.tolist())


def test_the_nll_s_weight_is_gamma_upside_down(tiny):
    heavy = sweep.sweep((2.0,), regulariser=Regulariser(nll_weight=4.0), world=tiny)
    light = sweep.sweep((0.5,), world=tiny)
    assert_close(column(heavy, "reward", 2.0), column(light, "reward", 0.5), tolerance=1e-6)


def test_a_seed_trains_alike_alone_and_in_company(tiny):
    alone = sweep.sweep((1.5,), (1,), settings=TINY)
    together = sweep.sweep((1.5,), world=tiny)
    expected = together[together.seed == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, expected, rtol=1e-6)


def test_without_gamma_the_student_only_gets_likelier_to_write_the_winners(tiny):
    (_, before), (_, after) = sweep.train(tiny, 0.0, Regulariser(), (0,))

    def likelihood(parameters):
        rows = language.rows(world.log_policy(parameters), tiny.chosen)
        return rows.gather(1, tiny.chosen.flatten()[:, None]).mean()

    assert likelihood(after) > likelihood(before)


def test_the_frame_has_a_row_for_each_gamma_seed_and_mark(tiny):
    frame = sweep.sweep((0.5, 3.0), world=tiny, marks=(0, 2))
    assert len(frame) == 2 * 2 * 3
    assert sorted(frame.step.unique()) == [0, 2, 5]
    assert list(frame.columns[:4]) == ["regulariser", "gamma", "seed", "step"]
    starts = frame[frame.step == 0].groupby("seed").reward.nunique()
    assert (starts == 1).all()


def test_pushed_from_1_5_to_6_the_advantage_rises_while_reward_precision_and_recall_fall(unregularised):
    for metric in ("expected_advantage", "target_rate", "top_mass", "kl_to_dpo"):
        assert (column(unregularised, metric, 6.0) > column(unregularised, metric, 1.5)).all(), metric
    for metric in ("reward", "overall_precision", "overall_recall", "entropy", "fluency"):
        assert (column(unregularised, metric, 6.0) < column(unregularised, metric, 1.5)).all(), metric


def test_under_the_bare_rule_the_true_reward_does_not_fall_and_recall_does():
    rule = world.build(ToySettings(steps=60, fit_steps=150, reward="rule"), (0, 1))
    frame = sweep.sweep((1.5, 6.0), world=rule, marks=())
    assert (column(frame, "reward", 6.0) >= column(frame, "reward", 1.5) - 0.01).all()
    assert (column(frame, "overall_recall", 6.0) < column(frame, "overall_recall", 1.5)).all()


def test_without_the_nll_term_one_token_a_state_is_left_and_the_reward_is_gone(toy, unregularised):
    free = sweep.sweep((1.5,), regulariser="no NLL", world=toy, marks=())
    assert (column(free, "expected_advantage", 1.5) > column(unregularised, "expected_advantage", 1.5)).all()
    assert (column(free, "entropy", 1.5) < column(unregularised, "entropy", 1.5) / 3).all()
    assert (column(free, "overall_recall", 1.5) < column(unregularised, "overall_recall", 1.5) - 3).all()
    assert (column(free, "reward", 1.5) < 0.05).all()


def test_the_kl_regulariser_keeps_reward_and_recall_at_gamma_6(toy, unregularised):
    regulariserd = sweep.sweep((6.0,), regulariser="KL 3", world=toy, marks=())
    for metric in ("reward", "overall_precision", "overall_recall", "fluency"):
        assert (column(regulariserd, metric, 6.0) > column(unregularised, metric, 6.0)).all(), metric


def test_over_optimisation_is_the_paired_change_from_the_best_gamma_to_the_largest(unregularised):
    (row,) = sweep.over_optimisation(unregularised).to_dict("records")
    change = column(unregularised, "reward", 6.0) - column(unregularised, "reward", 1.5)
    half = 4.302653 * change.std() / math.sqrt(3)  # the 97.5 % point of Student's t with 2 degrees of freedom
    assert (row["best_gamma"], row["largest_gamma"]) == (1.5, 6.0)
    assert row["change"] == pytest.approx(float(change.mean()))
    assert row["change_low"] == pytest.approx(float(change.mean() - half), rel=1e-5)
    assert row["advantage_change"] > 0 > row["change"]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sweep.sweep((-1.0,)), "gammas"),
        (lambda: Regulariser(nll_weight=-1.0), "nll_weight"),
        (lambda: Regulariser(nll_weight=200.0).options(chosen=100, sampled=1), "lower gamma"),
    ],
)
def test_input_that_cannot_be_used_is_named(call, word):
    with pytest.raises(BadInput, match=word):
        call()
