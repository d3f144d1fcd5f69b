"""The toy world: its teachers are the optima they claim to be, ADPA is the package's, and pushed far it loses."""

import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alignkd_lab import nano
from alignkd_lab.course.toy import language, world
from alignkd_lab.course.toy.figures import advantage_limits
from alignkd_lab.course.toy.world import LENGTH, TARGET, VOCABULARY
from alignkd_lab.stats import t_interval


@pytest.fixture(scope="module")
def toy():
    return world.build((0, 1, 2))


@pytest.fixture(scope="module")
def swept(toy):
    """Ends without and with the KL."""
    return pd.concat([world.sweep(toy, (1.5, 6.0)), world.sweep(toy, (6.0,), 3.0)])


def column(frame, metric, gamma, regulariser="none"):
    chosen = frame[(frame.gamma == gamma) & (frame.regulariser == regulariser)]
    return torch.tensor(chosen.sort_values("seed")[metric].tolist(), dtype=torch.float64)


def assert_close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def off(truth, model):
    """KL(truth || model) of a response, [seed]."""
    return language.expected_sum(truth, truth - model, language.occupancy(truth))


def test_a_seed_s_world_and_training_do_not_depend_on_the_others(toy, monkeypatch):
    monkeypatch.setattr(world, "STEPS", 3)
    alone = world.build((2,))
    for name in ("truth", "reference", "dpo", "reward", "chosen", "responses"):
        assert_close(getattr(alone, name)[0], getattr(toy, name)[2], tolerance=1e-7)
    together = world.sweep(toy, (1.5,))
    expected = together[together.seed == 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(world.sweep(alone, (1.5,)), expected, rtol=1e-6)


def test_the_truth_s_tokens_are_rarer_one_after_another_and_the_reward_pays_the_target_in_fluent_responses_alone(toy):
    shares = language.occupancy(toy.truth)[:, 1:, :-1].mean((0, 1))
    assert shares[0] > shares[2] > shares[4]
    assert (toy.truth[0, 0, 0] - toy.truth[0, 0, 1]).abs().max() > 0.1
    holds = (language.every_response(VOCABULARY, LENGTH) == TARGET).any(-1)
    assert (toy.reward[:, ~holds] == 0).all()
    log_prob = language.every_log_prob(toy.truth)
    for reward, truth in zip(toy.reward[:, holds], log_prob[:, holds], strict=True):
        assert reward[truth.argsort()].diff().min() >= 0
        assert (reward.min(), reward.max()) == (0, 1)


def test_the_dpo_teacher_is_the_tilted_optimum_and_every_metric_the_sum_over_every_response(toy):
    advantage = toy.dpo - toy.reference
    # Soft advantages are normalised: under the reference, E[exp A] is 1 at every state.
    assert_close((toy.reference + advantage).logsumexp(-1), torch.zeros_like(advantage[..., 0]))
    earned = [(language.every_log_prob(model).exp() * toy.reward).sum(-1) for model in (toy.reference, toy.dpo)]
    assert (earned[1] > earned[0]).all()
    found = world.measure(toy, toy.dpo)
    log_probs, truth = language.every_log_prob(toy.dpo), language.every_log_prob(toy.truth)
    assert found.reward.tolist() == pytest.approx((log_probs.exp() * toy.reward).sum(-1).tolist())
    assert found.overall_recall.tolist() == pytest.approx(((truth.exp() * log_probs).sum(-1) / LENGTH).tolist())
    student = world.log_policy(toy.student)
    own = world.measure(toy, student).expected_advantage
    listed = language.every_log_prob(toy.dpo - toy.reference)
    assert own.tolist() == pytest.approx(
        ((language.every_log_prob(student).exp() * listed).sum(-1) / LENGTH).tolist(), abs=1e-9
    )


def test_the_fitted_reward_is_that_of_scikit_learn_s_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    winners, losers = torch.randint(0, VOCABULARY, (2, 1, 60, 3), generator=generator)
    found = world.fitted_reward(winners, losers)
    first, second = (language.transition_counts(t, VOCABULARY).sum(2).flatten(-2)[0] for t in (winners, losers))
    # Each pair from both sides, with half the weight: scikit-learn wants two classes.
    model = LogisticRegression(C=world.PRIOR_SD**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    x, y = torch.cat([first - second, second - first]), torch.arange(120) < 60
    model.fit(x, y, sample_weight=torch.full((120,), 0.5))
    assert_close(found.flatten(), torch.as_tensor(model.coef_[0]), tolerance=1e-5)


def test_the_student_is_bilinear_and_learned_its_data(toy):
    embeddings, positions, head, bias = toy.student
    logits = world.student_logits(toy.student)
    assert_close(logits[1, 2, 4], head[1] @ (embeddings[1, 4] + positions[1, 2]) + bias[1])
    blank = torch.full_like(toy.truth, 1 / VOCABULARY).log()
    assert (off(toy.truth, world.log_policy(toy.student)) < off(toy.truth, blank) / 5).all()


def naive_loss(table, held, gamma, kl_weight):
    """One seed's ADPA loss by `nano`, and the KL to the reference."""
    chosen, written = held["chosen"][None], held["responses"][None]
    student, dpo, reference = (language.rows(each[None], written) for each in (table, held["dpo"], held["reference"]))
    loss = nano.adpa_loss(language.rows(table[None], chosen), chosen.flatten(), student, dpo, reference, gamma)
    return loss + kl_weight * nano.kl(student.log_softmax(-1), reference).mean()


@pytest.mark.parametrize("kl_weight", [0.0, 3.0])
def test_a_step_follows_the_gradient_of_the_formula(toy, kl_weight, monkeypatch):
    slopes = []

    class Watch(torch.optim.SGD):
        def step(self):
            slopes.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, rate, fused: Watch(parameters, lr=rate))
    steps = world.train(toy, 1.5, kl_weight)
    next(steps), next(steps)
    parameters = [p[1:2].clone().requires_grad_() for p in toy.student]
    held = {name: getattr(toy, name)[1] for name in ("dpo", "reference", "chosen", "responses")}
    loss = naive_loss(world.student_logits(parameters)[0], held, 1.5, kl_weight)
    for found, slope in zip(slopes[0], torch.autograd.grad(loss, parameters), strict=True):
        assert_close(found[1], slope[0], tolerance=1e-8)


def test_pushed_from_1_5_to_6_the_advantage_rises_while_reward_and_recall_fall_and_the_kl_keeps_both(swept):
    for metric, sign in (("expected_advantage", 1), ("reward", -1), ("overall_recall", -1)):
        assert (sign * (column(swept, metric, 6.0) - column(swept, metric, 1.5)) > 0).all(), metric
    for metric in ("reward", "overall_recall"):
        assert (column(swept, metric, 6.0, "KL 3") > column(swept, metric, 6.0)).all(), metric


def test_the_picture_shows_means_by_gamma_their_intervals_and_the_dpo_teacher(toy, swept):
    held = swept[swept.gamma == 6.0]
    figure = advantage_limits(held, world.measure(toy, toy.dpo))
    reward = figure.axes[1]
    by_name = held.groupby("regulariser", sort=False)
    for line, bar, (_, runs) in zip(reward.lines, reward.collections, by_name, strict=False):
        mean, low, high = t_interval(runs.reward)
        assert line.get_ydata() == pytest.approx([mean])
        assert bar.get_segments()[0][:, 1] == pytest.approx([low, high])
    (dashed,) = [line for line in reward.lines if line.get_linestyle() == "--"]
    assert dashed.get_ydata()[0] == pytest.approx(world.measure(toy, toy.dpo).reward.mean())
