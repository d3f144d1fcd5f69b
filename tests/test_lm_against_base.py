"""How far a policy went from the base, and how it ranks pairs that no stage has seen."""

import pytest
import torch
from tiny_lm import world_in

from alignkd_lab.lm.against_base import against_base, heldout_pairs
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.losses import token_log_probs
from alignkd_lab.lm.policy import Policy


@pytest.fixture
def world(tmp_path):
    return world_in(tmp_path, heldout_responses=6)


def judged(world, policy):
    model = world.models.of(policy)
    samples = world.sample(model, "test", 4, 2, "test")
    return samples, against_base(
        world, policy, model, samples, world.judge.read(samples, policy, world.yardstick())["under_truth"]
    )


def summed(model, prompt, tokens):
    batch = collate([Example(prompt, [tokens])])
    with torch.inference_mode():
        return float(token_log_probs(hidden_states(model, batch), model.lm_head.weight, batch["shift_labels"]).sum())


def test_the_base_is_at_no_distance_from_itself_and_prefers_nothing(world):
    _, found = judged(world, world.start("base"))
    assert found == {"kl_to_base": 0.0, "reward_accuracy": 0.5}


@pytest.mark.parametrize("truth", ["tiny-truth", "tiny-base"])
def test_the_distance_is_the_mean_log_ratio_of_a_response_in_nats(tmp_path, truth):
    world = world_in(tmp_path, truth=truth)
    student = world.start("student")
    samples, found = judged(world, student)
    own, base = world.models.of(student), world.models.of(world.start("base"))
    gaps = [
        summed(own, samples.prompt_ids[at], tokens) - summed(base, samples.prompt_ids[at], tokens)
        for at, tokens in zip(samples.prompt_of, samples.tokens, strict=True)
    ]
    assert found["kl_to_base"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-3)


def test_accuracy_counts_the_pairs_whose_better_response_gained_more(world):
    student = world.start("student")
    _, found = judged(world, student)
    drawn, pairs = heldout_pairs(world)
    own, base = world.models.of(student), world.models.of(world.start("base"))
    assert len(pairs) >= 3
    wins = 0
    for pair in pairs:
        gains = [
            summed(own, drawn.prompt_ids[pair.prompt], drawn.tokens[at])
            - summed(base, drawn.prompt_ids[pair.prompt], drawn.tokens[at])
            for at in (pair.chosen, pair.rejected)
        ]
        wins += gains[0] > gains[1]
    assert found["reward_accuracy"] == pytest.approx(wins / len(pairs))


def test_heldout_pairs_are_of_test_prompts_and_the_same_for_every_policy(world):
    first, again = heldout_pairs(world), heldout_pairs(world)
    assert first[1] == again[1]
    assert first[0].prompt_ids == world.truth_samples("test").prompt_ids
    hits = [any(map(str.isdigit, text)) for text in world.texts(first[0])]
    assert all(hits[pair.chosen] and not hits[pair.rejected] for pair in first[1])


def test_where_the_base_wrote_no_pair_the_accuracy_is_undefined(world):
    world.judge.hit = lambda text: False
    _, found = judged(world, Policy("tiny-student"))
    assert found["reward_accuracy"] is None
    assert found["kl_to_base"] > 0
