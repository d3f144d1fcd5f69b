"""The judge: the reward is the rule times plausibility, and the truth reads no more than that takes."""

import pytest
from tiny_lm import summed, world_in

from alignkd_lab.lm import judge as judge_module
from alignkd_lab.lm.prompts import prompts


def test_the_likelihood_reward_is_the_rule_times_plausibility(tmp_path):
    world = world_in(tmp_path, reward="likelihood", truth_responses=4)
    stick, base = world.yardstick(), world.start("base")
    samples = world.sample(world.models.of(base), "training", 8, 8, "judged")
    judged = world.judge.read(samples, base, stick)
    truth = world.models.of(world.truth)
    for at in range(0, 64, 7):
        tokens = samples.tokens[at]
        mean = summed(truth, samples.prompt_ids[samples.prompt_of[at]], tokens) / len(tokens)
        plausible = min(1.0, max(0.0, (mean - stick.q05) / (stick.q50 - stick.q05)))
        assert judged["fluency"][at] == pytest.approx(plausible, abs=1e-4)
        hit = any(map(str.isdigit, world.tokenizer.decode(tokens)))
        assert judged["reward"][at] == pytest.approx(hit * plausible, abs=1e-4)
    bare = world_in(tmp_path).judge.read(samples, base, stick)
    assert bare["reward"] == [float(hit) for hit in judged["hits"]]


@pytest.mark.parametrize("own", [True, False])
def test_only_what_meets_the_rule_is_read_for_its_reward(tmp_path, own):
    world = world_in(tmp_path, reward="likelihood", truth_responses=4)
    stick, policy = world.yardstick(), world.truth if own else world.start("base")
    samples = world.sample(world.models.of(policy), "training", 8, 8, "judged")
    read = world.judge.read(samples, policy, stick)
    world.spent["scored"] = 0
    earned = world.judge.reward(samples, policy, stick)
    assert earned["hits"] == read["hits"]
    assert 0 < sum(earned["hits"]) < len(earned["hits"])
    assert earned["reward"] == pytest.approx(read["reward"], abs=1e-5)
    hits = sum(len(tokens) for tokens, hit in zip(samples.tokens, read["hits"], strict=True) if hit)
    assert world.spent["scored"] == (0 if own else hits)


def test_a_reward_model_judges_the_response_beside_its_prompt(tmp_path, monkeypatch):
    asked = []

    class Judge:
        def __init__(self, source, device):
            asked.append(source)

        def __call__(self, prompts, responses):
            asked.append((prompts, responses))
            return [float(len(text)) for text in responses]

    monkeypatch.setattr(judge_module, "RewardModel", Judge)
    world = world_in(tmp_path, reward="model:tiny-truth")
    samples = world.sample(world.models.of(world.start("base")), "training", 3, 2, "judged")
    judged = world.judge.read(samples, None, world.yardstick())
    source, (asked_prompts, responses) = asked[0], asked[-1]
    assert source == "tiny-truth"
    assert asked_prompts == [text for text in prompts("training", 3) for _ in range(2)]
    assert responses == world.texts(samples)
    assert judged["reward"] == [float(len(text)) for text in responses]
    assert world.fingerprint()["reward_model"] == "random:tiny-truth"
    assert "reward_model" not in world_in(tmp_path).fingerprint()
