"""On-policy distillation: which divergence, on whose text, and towards whom."""

import pytest
import torch
from naive_losses import NAIVE_DIVERGENCES
from tiny_lm import said, world_in

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import rollouts
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.stages.gkd import GkdSettings, gkd
from alignkd_lab.store import part

STILL = 1e-12  # a learning rate that moves nothing


def distil_world(folder, **changes):
    return world_in(folder, **{"distil_prompts": 4, "distil_responses": 3, "distil_batch": 4, **changes})


def run(world, teacher, init, name):
    return gkd(world.context, teacher, init, part(GkdSettings, world.settings), name)


@torch.no_grad()
def token_distributions(model, samples):
    """log π(·) before each response token, [tokens, V]."""
    asked = zip(samples.prompt_of, samples.tokens, strict=True)
    return torch.cat([said(model, samples.prompt_ids[prompt], tokens) for prompt, tokens in asked])


@pytest.fixture
def written(monkeypatch):
    """What the student wrote, as `Samples`, a step each."""
    found, sample = [], rollouts.sample

    def keep(*given, **options):
        found.append(sample(*given, **options))
        return found[-1]

    monkeypatch.setattr(rollouts, "sample", keep)
    return found


@pytest.mark.parametrize("divergence", ["forward", "jsd", "reverse"])
def test_the_loss_is_the_divergence_on_the_students_own_tokens(tmp_path, written, divergence):
    world = distil_world(tmp_path, gkd_divergence=divergence, distil_learning_rate=STILL, distil_responses=24)
    teacher, student = world.start("base"), world.start("student")
    info = run(world, teacher, student, "loss").info
    (samples,) = written
    # The end token is learnt as every other, so some response must have one.
    assert any(tokens[-1] == world.context.tokenizer.eos_token_id for tokens in samples.tokens)
    models = (world.context.models.of(student), world.context.models.of(teacher))
    q, p = (token_distributions(model, samples).exp() for model in models)
    expected = float(NAIVE_DIVERGENCES[divergence](p, q, 0.5).mean())
    assert info["losses"] == pytest.approx([expected], rel=1e-4)
    assert info["divergence"] == divergence


def test_steps_prompts_and_tokens_are_those_of_the_budget(tmp_path, written):
    world = distil_world(tmp_path, distil_prompts=8, distil_responses=3, distil_batch=4, distil_passes=2)
    result = run(world, world.start("base"), world.start("student"), "budget")
    assert [len(samples.tokens) for samples in written] == [12, 12, 12, 12]
    assert result.info["responses"] == 2 * 8 * 3
    asked = sorted(samples.prompt_ids[at] for samples in written for at in samples.prompt_of)
    assert asked == sorted(2 * 3 * encode(world.context.tokenizer, prompts("training", 8)))
    tokens = sum(samples.token_count for samples in written)
    assert result.cost == (tokens, tokens, tokens, 0.0)


def test_fewer_prompts_than_a_step_takes_are_one_step(tmp_path, written):
    world = distil_world(tmp_path, distil_prompts=3, distil_responses=2, distil_batch=8)
    info = run(world, world.start("base"), world.start("student"), "few").info
    assert [len(samples.tokens) for samples in written] == [6]
    assert len(info["losses"]) == 1


def test_a_model_is_sampled_whole_whatever_its_own_taste(tmp_path, written):
    world = distil_world(tmp_path, distil_responses=12)
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


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    world = distil_world(tmp_path)
    model = world.context.models.of(world.start("base"))
    model.resize_token_embeddings(300)
    world.context.models._starts["longer words"] = model
    with pytest.raises(BadInput, match="300"):
        run(world, Policy("longer words"), world.start("student"), "two languages")
