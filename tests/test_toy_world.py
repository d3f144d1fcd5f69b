"""The toy world: its teachers are the optima they claim to be, its reward is the language world's."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alignkd_lab.course.toy import language, world
from alignkd_lab.course.toy.world import ToySettings
from alignkd_lab.errors import BadInput

SMALL = ToySettings(vocabulary=5, length=4, target=3, pairs=200, reference_responses=300)


@pytest.fixture(scope="module")
def small():
    return world.build(SMALL, (0, 1, 2))


def assert_close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_every_model_is_a_distribution(small):
    for table in (small.truth, small.reference, small.dpo, small.initial_student):
        assert_close(table.logsumexp(-1), torch.zeros_like(table[..., 0]))


def test_a_seed_s_world_does_not_depend_on_the_others(small):
    alone = world.build(SMALL, (2,))
    for name in ("truth", "reference", "dpo", "reward", "chosen", "responses", "initial_student"):
        assert_close(getattr(alone, name)[0], getattr(small, name)[2], tolerance=1e-7)


def test_the_truth_s_tokens_are_rarer_one_after_another_and_its_rows_differ(small):
    shares = language.occupancy(small.truth)[:, 1:, :-1].mean((0, 1))
    assert shares[0] > shares[2] > shares[4]
    assert (small.truth[0, 0, 0] - small.truth[0, 0, 1]).abs().max() > 0.1


def test_the_likelihood_reward_is_the_rule_times_fluency_and_pays_nothing_else(small):
    holds = (language.every_response(5, 4) == 3).any(-1)
    assert_close(small.reward, torch.where(holds, small.fluency, 0.0))
    assert 0 < small.reward.max() <= 1


def test_the_rule_alone_pays_every_response_with_the_target_alike():
    rule = world.build(ToySettings(vocabulary=5, length=4, target=3, reward="rule"), (0,))
    assert rule.reward.unique().tolist() == [0, 1]
    assert_close(rule.reward[0], rule.on_target)


def test_one_in_twenty_of_the_truth_s_responses_is_not_fluent_and_half_are_wholly_so(small):
    log_prob = language.every_log_prob(small.truth)
    strange = torch.where(small.fluency == 0, log_prob.exp(), 0).sum(-1)
    plain = torch.where(small.fluency == 1, log_prob.exp(), 0).sum(-1)
    rarest_step = log_prob.exp().max()
    assert ((strange >= 0.05) & (strange < 0.05 + rarest_step)).all()
    assert ((plain >= 0.5) & (plain < 0.5 + rarest_step)).all()


def test_the_reference_is_counted_from_the_truth_s_responses():
    many = world.build(ToySettings(vocabulary=5, length=4, target=3, reference_responses=10_000), (0,))
    few = world.build(ToySettings(vocabulary=5, length=4, target=3, reference_responses=100), (0,))

    def off(each):
        return float(language.expected_sum(each.truth, each.truth - each.reference))

    assert off(many) < 0.004 < off(few)


def test_the_dpo_teacher_is_the_tilted_optimum_of_the_reference_under_the_fitted_reward(small):
    expected, _ = language.tilted(small.reference, small.fitted_reward, SMALL.beta)
    assert_close(small.dpo, expected)
    gained = [language.expected_sum(model, small.fitted_reward) for model in (small.reference, small.dpo)]
    assert (gained[1] > gained[0]).all()


def test_the_fitted_reward_is_that_of_scikit_learn_s_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    winners, losers = torch.randint(0, 4, (2, 1, 60, 3), generator=generator)
    found = world._fitted_reward(winners, losers, 4, prior_sd=0.7)
    first, second = (language.transition_counts(t, 4).sum(2).flatten(-2)[0] for t in (winners, losers))
    # Each pair from both sides, with half the weight: scikit-learn wants two classes.
    model = LogisticRegression(C=0.7**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    x, y = torch.cat([first - second, second - first]), torch.arange(120) < 60
    model.fit(x, y, sample_weight=torch.full((120,), 0.5))
    assert_close(found.flatten(), torch.as_tensor(model.coef_[0]), tolerance=1e-5)


def test_where_the_pairs_say_nothing_the_fitted_reward_is_zero():
    winners, losers = torch.tensor([[[0, 1, 0]]]), torch.tensor([[[1, 0, 0]]])
    found = world._fitted_reward(winners, losers, 3, prior_sd=1.0)[0]
    seen = (language.transition_counts(torch.cat([winners, losers], 1), 3).sum((0, 1, 2)) > 0)[: len(found)]
    assert (found[~seen] == 0).all()
    assert found[3, 0] > 0 > found[3, 1]


def test_the_student_is_bilinear_in_embeddings_positions_and_head(small):
    embeddings, positions, head, bias = small.student
    logits = world.student_logits(small.student)
    assert_close(logits[1, 2, 4], head[1] @ (embeddings[1, 4] + positions[1, 2]) + bias[1])
    assert logits.shape == small.truth.shape


def test_the_initial_student_learned_its_data_and_is_too_narrow_for_the_chain(small):
    def off(model):
        return language.expected_sum(small.truth, small.truth - model)

    blank = torch.full_like(small.truth, 1 / 5).log()
    assert (off(small.initial_student) < off(blank) / 5).all()
    wide = world.build(ToySettings(**{**vars(SMALL), "width": 8, "reference_responses": 4000}), (0, 1, 2))
    narrow = world.build(ToySettings(**{**vars(SMALL), "width": 1, "reference_responses": 4000}), (0, 1, 2))
    assert (off(narrow.initial_student) > 2 * off(wide.initial_student)).all()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"beta": 0.0}, "beta"),
        ({"vocabulary": 12, "length": 8}, "list"),
        ({"target": 8}, "target"),
        ({"pairs": 0}, "pairs"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings, word):
    with pytest.raises(BadInput, match=word):
        ToySettings(**settings)
