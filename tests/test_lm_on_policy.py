"""On-policy stages: GKD, towards whom, on whose text; RLOO, what it maximises, whom it stays near, what it counts."""

import itertools
import socket
import tempfile
from statistics import mean

import pytest
import torch
from huggingface_hub import constants
from naive_losses import NAIVE_DIVERGENCES
from tiny_lm import log_ratios, said_of, watch, world_in

from alignkd_lab.lm import rollouts
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.stages.gkd import GkdSettings, gkd
from alignkd_lab.lm.stages.rloo import RlooSettings, rloo
from alignkd_lab.lm.templates import encode
from alignkd_lab.store import part

STILL = 1e-12  # a learning rate that moves nothing


def run(world, teacher, init, name):
    return gkd(world.context, teacher, init, part(GkdSettings, world.settings), name)


@pytest.fixture
def written(monkeypatch):
    """What the student wrote, as `Samples`, a step each."""
    return watch(monkeypatch, rollouts, "sample").found


@pytest.mark.parametrize("divergence", ["forward", "jsd", "reverse"])
def test_the_loss_is_the_divergence_on_the_students_own_tokens(tmp_path, written, divergence):
    one_step = {"distil_responses": 24, "distil_batch": 4, "distil_learning_rate": STILL}
    world = world_in(tmp_path, gkd_divergence=divergence, **one_step)
    teacher, student = world.start("base"), world.start("student")
    info = run(world, teacher, student, "loss").info
    (samples,) = written
    # The end token is learnt as every other, so some response must have one.
    assert any(tokens[-1] == world.context.tokenizer.eos_token_id for tokens in samples.tokens)
    models = (world.context.models.of(student), world.context.models.of(teacher))
    with torch.no_grad():
        q, p = (said_of(model, samples.examples()).exp() for model in models)
    expected = float(NAIVE_DIVERGENCES[divergence](p, q, 0.5).mean())
    assert info["losses"] == pytest.approx([expected], rel=1e-4)
    assert info["divergence"] == divergence


def test_steps_prompts_and_tokens_are_those_of_the_budget(tmp_path, written):
    world = world_in(tmp_path, distil_prompts=8, distil_responses=3, distil_batch=4, distil_passes=2)
    result = run(world, world.start("base"), world.start("student"), "budget")
    assert [len(samples.tokens) for samples in written] == [12, 12, 12, 12]
    assert result.info["responses"] == 2 * 8 * 3
    asked = sorted(samples.prompt_ids[at] for samples in written for at in samples.prompt_of)
    assert asked == sorted(2 * 3 * encode(world.context.tokenizer, prompts("training", 8)))
    tokens = sum(samples.token_count for samples in written)
    assert result.cost == (tokens, tokens, tokens, 0.0)
    written.clear()
    few = world_in(tmp_path, distil_prompts=3, distil_responses=2, distil_batch=8)  # fewer than a step takes
    assert len(run(few, few.start("base"), few.start("student"), "few").info["losses"]) == 1
    assert [len(samples.tokens) for samples in written] == [6]


def test_a_model_is_sampled_whole_whatever_its_own_taste(tmp_path, written):
    world = world_in(tmp_path, distil_responses=12, distil_batch=4)
    opinionated = world.context.models.of(world.start("student"))
    # What a model may bring along as its own way to be sampled, with an end token that is not the tokenizer's.
    taste = {"top_p": 0.5, "top_k": 2, "min_p": 0.3, "repetition_penalty": 2.0, "no_repeat_ngram_size": 1}
    for name, value in {**taste, "eos_token_id": [2, 40]}.items():
        setattr(opinionated.generation_config, name, value)
    world.context.models._starts["opinionated"] = opinionated
    for student in (world.start("student"), Policy("opinionated")):
        run(world, world.start("base"), student, "whole")
    plain, taken = written
    assert plain.tokens == taken.tokens
    assert max(map(len, plain.tokens)) == world.settings.max_tokens


# RLOO ----------------------------------------------------------------------------------------------

STEPS, PROMPTS, GENERATIONS = 3, 2, 4
LARGE = {"rlhf_prompts": 4, "rlhf_generations": 16, "lora_rank": 8, "max_tokens": 6, "validation_responses": 4}


def rlhf_world(folder, **changes):
    sizes = {"rlhf_steps": STEPS, "rlhf_prompts": PROMPTS, "rlhf_generations": GENERATIONS, "rlhf_beta": 0.05}
    return world_in(folder, **{**sizes, **changes})


def align(world, init, reference, rate, name):
    settings = part(RlooSettings, world.settings)
    return rloo(world.context, world.reward, init, reference, settings, rate, name)


def drawn_in_training(earn):
    """What each training step drew and earned; the curve reads validation prompts, of which there are more."""
    calls = zip((call.args[0] for call in earn.call_args_list), earn.found, strict=True)
    return [(samples, earned) for samples, earned in calls if len(samples.tokens) == PROMPTS * GENERATIONS]


def test_the_reward_of_an_easy_target_rises(tmp_path):
    world = rlhf_world(tmp_path, rlhf_steps=7, **LARGE)
    base = world.start("base")
    result = align(world, base, base, 3e-2, "digits")
    policy, info = result.policy, result.info
    before, after = info["curve"]
    assert after["reward"] > before["reward"] + 0.3
    assert after["kl"] > 1.0
    assert info["kl"][-1] > 1.0
    assert len(policy.adapters) == 1


@pytest.mark.parametrize(("init", "reference"), [("student", "base"), ("base", "student"), ("student", "student")])
def test_the_kl_is_that_from_the_anchor_and_nought_from_the_policy_itself(tmp_path, init, reference, monkeypatch):
    world = rlhf_world(tmp_path)
    earn = watch(monkeypatch, world.reward, "earn")
    init, reference = world.start(init), world.start(reference)
    info = align(world, init, reference, STILL, "far").info
    expected = [mean(log_ratios(world, init, reference, samples)) for samples, _ in drawn_in_training(earn)]
    assert (min(expected) > 0.1) == (init != reference)
    assert info["kl"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert init != reference or [point["kl"] for point in info["curve"]] == pytest.approx([0.0, 0.0], abs=1e-4)


def test_groups_that_teach_and_tokens_are_counted(tmp_path, monkeypatch):
    world = rlhf_world(tmp_path)
    earn, base = watch(monkeypatch, world.reward, "earn"), world.start("base")
    result = align(world, base, base, 1e-3, "groups")
    info, steps = result.info, drawn_in_training(earn)
    groups = []
    for samples, earned in steps:
        rows = zip(samples.prompt_of, earned.rewards, earned.hits, strict=True)
        groups += [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    assert [len(rows) for rows in groups] == [GENERATIONS] * STEPS * PROMPTS
    assert info["groups"] == len(groups)
    assert info["informative_groups"] == sum(len({value for _, value, _ in rows}) > 1 for rows in groups)
    assert info["target_groups"] == sum(any(hit for _, _, hit in rows) for rows in groups)
    assert info["target_responses"] == sum(hit for rows in groups for _, _, hit in rows)
    assert info["responses"] == STEPS * PROMPTS * GENERATIONS
    means = [sum(earned.rewards) / len(earned.rewards) for _, earned in steps]
    assert info["rewards"] == pytest.approx(means, abs=1e-6)
    trained, cost = sum(samples.token_count for samples, _ in steps), result.cost
    curve = sum(call.args[0].token_count for call in earn.call_args_list) - trained
    # In training the reference and the policy read, along the curve the reference; a bare rule asks no truth.
    assert (cost.trained, cost.sampled, cost.scored) == (trained, trained + curve, 2 * trained + curve)


def adapter_and_responses(folder, written, seed=0, noise=0):
    world = rlhf_world(folder, seed=seed, rlhf_steps=2)
    written.clear()
    torch.manual_seed(noise)
    policy = align(world, world.start("base"), world.start("base"), 1e-2, f"run {noise}").policy
    return policy.adapters[0], written[0].tokens


def test_the_same_seed_gives_the_same_adapter_and_another_seed_other_responses(tmp_path, written):
    one, first = adapter_and_responses(tmp_path / "one", written, noise=1)
    two, again = adapter_and_responses(tmp_path / "two", written, noise=2)
    _, other = adapter_and_responses(tmp_path / "other", written, seed=1)
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
    align(world, world.start("base"), world.start("base"), 1e-3, "quiet")
    assert not attempts
    assert list(scratch.iterdir()) == list(here.iterdir()) == []
