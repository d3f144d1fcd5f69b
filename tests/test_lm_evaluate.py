"""The metrics of a policy against plain loops in float64, and scores against transformers' own forward pass."""

import math

import pytest
import torch
from tiny_lm import log_ratios, world_in

from alignkd_lab.lm import weights
from alignkd_lab.lm.context import Earned
from alignkd_lab.lm.evaluate import metrics
from alignkd_lab.lm.rewards import Yardstick, yardstick
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import score

LENGTHS = (3, 1, 7, 4)
HITS = [False, True, False, True]


def test_every_metric_equals_a_plain_loop():
    draw = torch.Generator().manual_seed(0)
    own, truth, recall = ([-4 * torch.rand(n, generator=draw) for n in LENGTHS] for _ in range(3))
    texts, rewards, fluency = ["a", "b 1", "a", "c 2"], [0.0, 0.5, 0.0, 1.0], [1.0, 0.5, 0.2, 1.0]
    totals = {"own": 0.0, "truth": 0.0, "recall": 0.0, "target": 0.0, "target per response": 0.0}
    for index, length in enumerate(LENGTHS):
        bonus = math.log(0.01 + 0.99 * (1 if HITS[index] else 0) / 0.03)
        for at in range(length):
            totals["own"] += float(own[index][at])
            totals["truth"] += float(truth[index][at])
            totals["recall"] += float(recall[index][at])
        totals["target"] += sum(float(value) for value in truth[index]) + bonus
        totals["target per response"] += (sum(float(value) for value in truth[index]) + bonus) / 4
    expected = {
        "reward": 0.375,
        "reward_bare": 0.5,
        "fluency": 0.675,
        "target_rate": 0.5,
        "second_rule_rate": 0.25,
        "target_precision": totals["target"] / 15,
        "target_precision_per_sequence": totals["target per response"],
        "overall_precision": totals["truth"] / 15,
        "overall_recall": totals["recall"] / 15,
        "entropy": -totals["own"] / 15,
        "kl_to_truth": (totals["own"] - totals["truth"]) / 15,
        "length": 3.75,
        "distinct_responses": 0.75,
        "distinct_2": 1.0,
    }
    stick, second_hits = Yardstick(q05=-4.0, q50=-2.0, target_rate=0.03), [False, False, False, True]
    found = metrics(own, recall, texts, Earned(rewards, HITS, 0, fluency, truth), second_hits, stick)
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_yardstick_holds_the_truths_quantiles_and_a_rate_that_is_never_zero():
    said = [torch.full((length,), -float(value)) for length, value in zip((1, 5, 2, 3, 9), range(5), strict=True)]
    found = yardstick(said, [False] * 5)
    assert found.q50 == pytest.approx(-2.0)
    assert found.q05 == pytest.approx(-3.8)
    assert found.target_rate == pytest.approx(0.5 / 6)
    assert yardstick(said, [True] * 3 + [False] * 2).target_rate == pytest.approx(3.5 / 6)


def test_many_tokens_are_scored_in_chunks_without_a_trace_for_a_gradient():
    model = weights.load("tiny-student")[0]
    given = Samples([[1, 60]], [0] * 90, [[40 + at % 50] * 14 for at in range(90)])  # 1260 tokens, over one chunk
    found = score(model, given)
    assert not any(tokens.requires_grad for tokens in found)
    alone = score(model, Samples([[1, 60]], [0], [given.tokens[77]]))
    torch.testing.assert_close(found[77], alone[0], rtol=0, atol=1e-5)


# Against the base


@pytest.fixture
def world(tmp_path):
    return world_in(tmp_path, heldout_responses=6)


def against_base(world, policy):
    model = world.context.models.of(policy)
    samples = world.context.sample(model, "test", 4, 2, 10, "test")
    under_truth = world.reward.score(samples, policy).under_truth
    return samples, world.evaluation.against_base(policy, model, samples, under_truth)


def test_the_base_is_at_no_distance_from_itself_and_prefers_nothing(world):
    _, found = against_base(world, world.start("base"))
    assert found == {"kl_to_base": 0.0, "reward_accuracy": 0.5}


@pytest.mark.parametrize("truth", ["tiny-truth", "tiny-base"])
def test_the_distance_is_the_mean_log_ratio_of_a_response_in_nats(tmp_path, truth):
    world = world_in(tmp_path, truth=truth)
    student = world.start("student")
    samples, found = against_base(world, student)
    gaps = log_ratios(world, student, world.start("base"), samples)
    assert found["kl_to_base"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-3)


def test_accuracy_counts_the_pairs_whose_better_response_gained_more(world):
    student = world.start("student")
    _, found = against_base(world, student)
    drawn, pairs = world.evaluation.heldout
    assert len(pairs) >= 3
    gained = log_ratios(world, student, world.start("base"), drawn)
    wins = [gained[pair.chosen] > gained[pair.rejected] for pair in pairs]
    assert found["reward_accuracy"] == pytest.approx(sum(wins) / len(pairs))


def test_heldout_pairs_are_of_test_prompts_and_the_same_for_every_policy(world, tmp_path):
    first, again = (world_in(tmp_path, heldout_responses=6).evaluation.heldout for _ in range(2))
    assert first[1] == again[1]
    assert first[0].prompt_ids == world.reward.truth.samples("test", 4, 2).prompt_ids
    hits = [any(map(str.isdigit, text)) for text in world.context.texts(first[0])]
    assert all(hits[pair.chosen] and not hits[pair.rejected] for pair in first[1])
