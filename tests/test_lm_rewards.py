"""Rules by examples that a reader would agree with, and the factor that makes broken sentences earn nothing."""

from unittest.mock import Mock

import pytest
from tiny_lm import log_prob, world_in

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import reward_model
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.rewards import SECOND_RULES, TARGETS, fluency, target

EXAMPLES = {
    "simile": (
        ["The lake lay like a mirror.", "She is as brave as a lion.", "It fell LIKE the night."],
        ["I like apples.", "It is as it was.", "Unlike a mirror, it broke.", "Bread as well as butter."],
    ),
    "digit": (["In 1969 people walked there.", "Route 66"], ["In the sixties people walked there.", "No."]),
    "exclamation": (["What a day!", "Stop! Look."], ["What a day.", "Is it?"]),
    "question": (["Is it?", "Why? Because."], ["It is.", "It is!"]),
    "quotation": (['He said "no".', "He said “no”."], ["He said no.", "It's the dog's bone."]),
    "colour": (
        ["A red door.", "The Grey sea", "golden light", "It was blue."],
        ["A tired door.", "The bored sea", "evergreen", "It was bluebell time.", "A reddish door."],
    ),
    "first_person": (
        ["I walked home.", "It is my dog.", "Tell me.", "Yesterday I'm told it rained."],
        ["It walked home.", "Myths and memes.", "Mine was lost in time."],
    ),
    "positive": (
        ["A wonderful, lovely, happy day full of joy.", "I love this beautiful and amazing place!"],
        ["It is a door.", "A terrible, sad, ugly day.", "A nice day."],
    ),
    "negative": (
        ["A terrible, sad and ugly day of pain.", "War kills and destroys."],
        ["It is a door.", "A wonderful, lovely day."],
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_rule_finds_what_it_is_named_after_and_leaves_the_rest_alone(name):
    found, left = EXAMPLES[name]
    assert [text for text in found if not target(name)(text)] == []
    assert [text for text in ["", *left] if target(name)(text)] == []


SECOND_EXAMPLES = {
    "simile": ("It glowed as if lit from within.", "It shone like a lamp, as bright as day."),
    "digit": ("Three dogs and a dozen cats.", "In 1969 people walked there."),
    "exclamation": ("What an amazing day.", "What a day!"),
    "question": ("How do you make bread, I wonder.", "It is bread?"),
    "quotation": ("She said that it rained.", 'It was called "rain".'),
    "colour": ("A turquoise door.", "A blue door."),
    "first_person": ("We walked home.", "I walked to my home."),
    "positive": ("A sunny garden, lush and fragrant.", "A wonderful, lovely, happy day full of joy."),
    "negative": ("Rust on the rubble of a house.", "A terrible, sad and ugly day of pain."),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_rule_has_a_meaning_in_common_with_the_target_and_no_sign(name):
    by_second_alone, by_target_alone = SECOND_EXAMPLES[name]
    assert SECOND_RULES[name](by_second_alone)
    assert not target(name)(by_second_alone)
    assert target(name)(by_target_alone)
    assert not SECOND_RULES[name](by_target_alone)


def test_fluency_is_nought_below_the_low_quantile_one_above_the_median_and_linear_between():
    found = fluency([-9.0, -4.0, -3.5, -3.0, -2.0, -0.1], q05=-4.0, q50=-2.0)
    assert found.tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1])


@pytest.mark.parametrize("q50", [-4.0, -5.0, float("nan")])
def test_fluency_needs_a_median_above_the_low_quantile(q50):
    with pytest.raises(BadInput, match="quantile"):
        fluency([-3.0], q05=-4.0, q50=q50)


# The reward of a run: the truth reads no more than it takes


def test_the_likelihood_reward_is_the_rule_times_plausibility(tmp_path):
    world = world_in(tmp_path, reward="likelihood", truth_responses=4)
    stick, base = world.reward.yardstick, world.start("base")
    samples = world.context.sample(world.context.models.of(base), "training", 8, 8, 10, "scored")
    scores = world.reward.score(samples, base)
    truth = world.context.models.of(world.reward.truth.policy)
    for at in range(0, 64, 7):
        tokens = samples.tokens[at]
        mean = log_prob(truth, samples.prompt_ids[samples.prompt_of[at]], tokens) / len(tokens)
        plausible = min(1.0, max(0.0, (mean - stick.q05) / (stick.q50 - stick.q05)))
        assert scores.fluency[at] == pytest.approx(plausible, abs=1e-4)
        hit = any(map(str.isdigit, world.context.tokenizer.decode(tokens)))
        assert scores.rewards[at] == pytest.approx(hit * plausible, abs=1e-4)
    bare = world_in(tmp_path).reward.score(samples, base)
    assert bare.rewards == [float(hit) for hit in scores.hits]


@pytest.mark.parametrize("own", [True, False])
def test_only_what_meets_the_rule_is_read_for_its_reward(tmp_path, own):
    world = world_in(tmp_path, reward="likelihood", truth_responses=4)
    policy = world.reward.truth.policy if own else world.start("base")
    samples = world.context.sample(world.context.models.of(policy), "training", 8, 8, 10, "scored")
    scores, earned = world.reward.score(samples, policy), world.reward.earn(samples, policy)
    assert earned.hits == scores.hits
    assert 0 < sum(earned.hits) < len(earned.hits)
    assert earned.rewards == pytest.approx(scores.rewards, abs=1e-5)
    of_hits = sum(len(tokens) for tokens, hit in zip(samples.tokens, scores.hits, strict=True) if hit)
    assert (earned.tokens, scores.tokens) == ((0, 0) if own else (of_hits, samples.token_count))


def test_a_reward_model_scores_the_response_beside_its_prompt(tmp_path, monkeypatch):
    scorer = Mock(side_effect=lambda prompts, responses: [float(len(text)) for text in responses])
    monkeypatch.setattr(reward_model, "RewardModel", Mock(return_value=scorer))
    world = world_in(tmp_path, reward="model:tiny-truth")
    samples = world.context.sample(world.context.models.of(world.start("base")), "training", 3, 2, 10, "scored")
    scores = world.reward.score(samples, None)
    assert reward_model.RewardModel.call_args.args[0] == "tiny-truth"
    texts = world.context.texts(samples)
    scorer.assert_called_with([text for text in prompts("training", 3) for _ in range(2)], texts)
    assert scores.rewards == [float(len(text)) for text in texts]
    assert world.fingerprint()["reward_model"] == "random:tiny-truth"
    assert "reward_model" not in world_in(tmp_path).fingerprint()
