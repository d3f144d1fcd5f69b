"""The reward of a run: the rule times plausibility, and the truth reads no more than that takes."""

import pytest
from tiny_lm import log_prob, world_in

from alignkd_lab.lm import reward_model
from alignkd_lab.lm.prompts import prompts


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
    asked = []

    class Scorer:
        def __init__(self, source, device):
            asked.append(source)

        def __call__(self, prompts, responses):
            asked.append((prompts, responses))
            return [float(len(text)) for text in responses]

    monkeypatch.setattr(reward_model, "RewardModel", Scorer)
    world = world_in(tmp_path, reward="model:tiny-truth")
    samples = world.context.sample(world.context.models.of(world.start("base")), "training", 3, 2, 10, "scored")
    scores = world.reward.score(samples, None)
    source, (asked_prompts, responses) = asked[0], asked[-1]
    assert source == "tiny-truth"
    assert asked_prompts == [text for text in prompts("training", 3) for _ in range(2)]
    assert responses == world.context.texts(samples)
    assert scores.rewards == [float(len(text)) for text in responses]
    assert world.fingerprint()["reward_model"] == "random:tiny-truth"
    assert "reward_model" not in world_in(tmp_path).fingerprint()
