"""RLHF: what it maximises, whom it stays near, what it counts, and that it keeps to itself."""

import itertools
import socket
import tempfile
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from tiny_lm import log_prob, world_in

from alignkd_lab.lm.stages import rloo as module
from alignkd_lab.store import part

STEPS, PROMPTS, GENERATIONS = 3, 2, 4
STILL = 1e-12  # a learning rate that moves nothing
LARGE = {"rlhf_prompts": 4, "rlhf_generations": 16, "lora_rank": 8, "max_tokens": 6, "validation_responses": 4}


def rlhf_world(folder, **changes):
    sizes = {"rlhf_steps": STEPS, "rlhf_prompts": PROMPTS, "rlhf_generations": GENERATIONS, "rlhf_beta": 0.05}
    return world_in(folder, **{**sizes, **changes})


def rloo(world, init, reference, rate, name):
    settings = part(module.RlooSettings, world.settings)
    return module.rloo(world.context, world.reward, init, reference, settings, rate, name)


def watched(world):
    """What each call for a reward read and earned, from now on."""
    calls, earn = [], world.reward.earn

    def keep(samples, policy):
        earned = earn(samples, policy)
        calls.append(SimpleNamespace(samples=samples, earned=earned))
        return earned

    world.reward.earn = keep
    return calls


def drawn_in_training(calls):
    """Calls of the training steps; those of the curve read validation prompts, of which there are more."""
    return [call for call in calls if len(call.samples.tokens) == PROMPTS * GENERATIONS]


def kl_by_hand(world, policy, reference, calls):
    """Mean log π(y) - log reference(y) of each step's responses, nats a response, of a policy that does not learn."""
    own, other = world.context.models.of(policy), world.context.models.of(reference)
    means = []
    for samples in (call.samples for call in drawn_in_training(calls)):
        asked = [(samples.prompt_ids[at], tokens) for at, tokens in zip(samples.prompt_of, samples.tokens, strict=True)]
        means.append(sum(log_prob(own, *one) - log_prob(other, *one) for one in asked) / len(asked))
    return means


def test_the_reward_of_an_easy_target_rises(tmp_path):
    world = rlhf_world(tmp_path, rlhf_steps=7, **LARGE)
    base = world.start("base")
    result = rloo(world, base, base, 3e-2, "digits")
    policy, info = result.policy, result.info
    before, after = info["curve"]
    assert after["reward"] > before["reward"] + 0.3
    assert after["kl"] > 1.0
    assert info["kl"][-1] > 1.0
    assert len(policy.adapters) == 1


def test_a_policy_that_does_not_learn_stays_at_its_anchor(tmp_path):
    world = rlhf_world(tmp_path)
    student = world.start("student")
    result = rloo(world, student, student, STILL, "still")
    policy, info = result.policy, result.info
    assert info["kl"] == pytest.approx([0.0] * STEPS, abs=1e-5)
    assert [point["kl"] for point in info["curve"]] == pytest.approx([0.0, 0.0], abs=1e-4)
    assert max(tensor.abs().max() for name, tensor in policy.adapters[0].items() if name.endswith(".B")) < 1e-9


@pytest.mark.parametrize(("init", "reference"), [("student", "base"), ("base", "student")])
def test_another_anchor_is_the_reference_of_the_kl(tmp_path, init, reference):
    world = rlhf_world(tmp_path)
    calls = watched(world)
    init, reference = world.start(init), world.start(reference)
    info = rloo(world, init, reference, STILL, "far").info
    expected = kl_by_hand(world, init, reference, calls)
    assert min(expected) > 0.1
    assert info["kl"] == pytest.approx(expected, rel=1e-3)


def test_groups_that_teach_and_tokens_are_counted(tmp_path):
    world = rlhf_world(tmp_path)
    calls, base = watched(world), world.start("base")
    result = rloo(world, base, base, 1e-3, "groups")
    info, steps = result.info, drawn_in_training(calls)
    groups = []
    for call in steps:
        rows = zip(call.samples.prompt_of, call.earned.rewards, call.earned.hits, strict=True)
        groups += [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    assert [len(rows) for rows in groups] == [GENERATIONS] * STEPS * PROMPTS
    assert info["groups"] == len(groups)
    assert info["informative_groups"] == sum(len({value for _, value, _ in rows}) > 1 for rows in groups)
    assert info["target_groups"] == sum(any(hit for _, _, hit in rows) for rows in groups)
    assert info["target_responses"] == sum(hit for rows in groups for _, _, hit in rows)
    assert info["responses"] == STEPS * PROMPTS * GENERATIONS
    means = [sum(call.earned.rewards) / len(call.earned.rewards) for call in steps]
    assert info["rewards"] == pytest.approx(means, abs=1e-6)
    trained, cost = sum(call.samples.token_count for call in steps), result.cost
    curve = sum(call.samples.token_count for call in calls) - trained
    # In training the reference and the policy read, along the curve the reference; a bare rule asks no truth.
    assert (cost.trained, cost.sampled, cost.scored) == (trained, trained + curve, 2 * trained + curve)


def adapter_and_responses(folder, seed=0, noise=0):
    world = rlhf_world(folder, seed=seed, rlhf_steps=2)
    calls = watched(world)
    torch.manual_seed(noise)
    policy = rloo(world, world.start("base"), world.start("base"), 1e-2, f"run {noise}").policy
    return policy.adapters[0], drawn_in_training(calls)[0].samples.tokens


def test_the_same_seed_gives_the_same_adapter_and_another_seed_other_responses(tmp_path):
    one, first = adapter_and_responses(tmp_path / "one", noise=1)
    two, again = adapter_and_responses(tmp_path / "two", noise=2)
    _, other = adapter_and_responses(tmp_path / "other", seed=1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first == again
    assert not any(tokens in first for tokens in other)


def test_nothing_is_sent_fetched_or_left_behind(tmp_path, monkeypatch):
    world = rlhf_world(tmp_path / "store", rlhf_steps=1)
    assert world.reward.yardstick
    attempts, scratch, here = [], tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir(), here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(socket.socket, "connect", lambda *where: attempts.append(where))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)  # as on the machine of somebody who set nothing
    rloo(world, world.start("base"), world.start("base"), 1e-3, "quiet")
    assert not attempts
    assert list(scratch.iterdir()) == list(here.iterdir()) == []
