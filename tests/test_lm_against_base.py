"""How far a policy went from the base, and how it ranks pairs that no stage has seen."""

import math

import pytest
import torch
from tiny_lm import world_in

from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.losses import token_log_probs


@pytest.fixture
def world(tmp_path):
    return world_in(tmp_path, heldout_responses=6)


def against_base(world, policy):
    model = world.context.models.of(policy)
    samples = world.context.sample(model, "test", 4, 2, 10, "test")
    under_truth = world.reward.score(samples, policy).under_truth
    return samples, world.evaluation.against_base(policy, model, samples, under_truth)


def log_prob(model, prompt, tokens):
    batch = collate([Example(prompt, [tokens])])
    with torch.inference_mode():
        return float(token_log_probs(hidden_states(model, batch), model.lm_head.weight, batch["shift_labels"]).sum())


def test_the_base_is_at_no_distance_from_itself_and_prefers_nothing(world):
    _, found = against_base(world, world.start("base"))
    assert found == {"kl_to_base": 0.0, "reward_accuracy": 0.5}


@pytest.mark.parametrize("truth", ["tiny-truth", "tiny-base"])
def test_the_distance_is_the_mean_log_ratio_of_a_response_in_nats(tmp_path, truth):
    world = world_in(tmp_path, truth=truth)
    student = world.start("student")
    samples, found = against_base(world, student)
    own, base = world.context.models.of(student), world.context.models.of(world.start("base"))
    gaps = [
        log_prob(own, samples.prompt_ids[at], tokens) - log_prob(base, samples.prompt_ids[at], tokens)
        for at, tokens in zip(samples.prompt_of, samples.tokens, strict=True)
    ]
    assert found["kl_to_base"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-3)


def test_accuracy_counts_the_pairs_whose_better_response_gained_more(world):
    student = world.start("student")
    _, found = against_base(world, student)
    drawn, pairs = world.evaluation.heldout
    own, base = world.context.models.of(student), world.context.models.of(world.start("base"))
    assert len(pairs) >= 3
    wins = 0
    for pair in pairs:
        gains = [
            log_prob(own, drawn.prompt_ids[pair.prompt], drawn.tokens[at])
            - log_prob(base, drawn.prompt_ids[pair.prompt], drawn.tokens[at])
            for at in (pair.chosen, pair.rejected)
        ]
        wins += gains[0] > gains[1]
    assert found["reward_accuracy"] == pytest.approx(wins / len(pairs))


def test_heldout_pairs_are_of_test_prompts_and_the_same_for_every_policy(world, tmp_path):
    first, again = (world_in(tmp_path, heldout_responses=6).evaluation.heldout for _ in range(2))
    assert first[1] == again[1]
    assert first[0].prompt_ids == world.reward.truth.samples("test", 4, 2).prompt_ids
    hits = [any(map(str.isdigit, text)) for text in world.context.texts(first[0])]
    assert all(hits[pair.chosen] and not hits[pair.rejected] for pair in first[1])


def test_where_the_base_wrote_no_pair_the_accuracy_is_undefined(world):
    world.reward.hit = lambda text: False
    _, found = against_base(world, Policy("tiny-student"))
    assert math.isnan(found["reward_accuracy"])
    assert found["kl_to_base"] > 0
