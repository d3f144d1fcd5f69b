"""A policy is a start and its adapters: what it hashes to, how it is kept, and which model it becomes."""

import dataclasses

import pytest
import torch
from tiny_lm import random_adapter, watch

from alignkd_lab.lm import weights
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.models import Models
from alignkd_lab.lm.sampling import in_dtype
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.presets import preset
from alignkd_lab.store import Store


def adapter(seed):
    return random_adapter(Policy("tiny-base"), seed).adapters[0]


def weight(model):
    return model.model.layers[0].self_attn.o_proj.weight


def test_a_policys_model_is_its_start_with_every_adapter_added():
    found = Models().of(Policy("tiny-base", [adapter(1), adapter(2)]))
    name = "model.layers.0.self_attn.o_proj"
    change = sum(adapter(seed)[f"{name}.B"] @ adapter(seed)[f"{name}.A"] for seed in (1, 2))
    torch.testing.assert_close(weight(found), weight(weights.load("tiny-base")[0]) + change)
    assert not found.training


def test_starting_weights_are_read_once_and_training_one_policys_model_touches_no_other(monkeypatch):
    policies = Policy("tiny-base"), Policy("tiny-base", [adapter(1)]), Policy("tiny-truth"), Policy("tiny-base")
    read, models = watch(monkeypatch, weights, "load"), Models()
    for policy in policies:
        found = weight(models.of(policy))
        assert found.any()
        with torch.no_grad():
            found.zero_()
    assert [call.args[0] for call in read.call_args_list] == ["tiny-base", "tiny-truth"]


def test_the_digest_follows_start_adapters_and_their_order():
    one, two = adapter(1), adapter(2)
    policies = [
        Policy("tiny-base"),
        Policy("tiny-truth"),
        Policy("tiny-base", [one]),
        Policy("tiny-base", [two]),
        Policy("tiny-base", [one, two]),
    ]
    assert len({policy.digest for policy in policies}) == len(policies)
    again = {name: tensor.clone() for name, tensor in reversed(one.items())}
    assert Policy("tiny-base", [again]).digest == policies[2].digest


@pytest.mark.parametrize("adapters", [0, 1, 2])
def test_a_saved_policy_reads_back_as_the_same_policy(adapters, tmp_path):
    policy = Policy("tiny-base", [adapter(seed) for seed in range(adapters)])
    policy.save(tmp_path)
    assert Policy.read(tmp_path).digest == policy.digest


def test_sampling_in_another_dtype_runs_on_a_copy():
    model = Models().of(Policy("tiny-base"))
    assert in_dtype(model, torch.float32) is model
    assert in_dtype(model, torch.bfloat16).dtype == torch.bfloat16
    assert model.dtype == torch.float32


def test_in_16_bits_what_a_policy_wrote_is_at_no_distance_from_itself(tmp_path):
    settings = dataclasses.replace(preset("tiny").lm, dtype="bfloat16")
    context = LmWorld(settings, "dpo", 0, Store(tmp_path)).context
    model = context.models.of(Policy("tiny-base"))
    samples = context.sample(model, "training", 4, 2, 6, "any")
    for own, read in zip(samples.log_probs, context.score(model, samples), strict=True):
        torch.testing.assert_close(own, read, rtol=0, atol=0)
