"""A language world of tiny random models in which the target is common enough to be learnt: for tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import torch

from alignkd_lab.lm import context, weights
from alignkd_lab.lm.batch import collate, hidden_states, token_counts
from alignkd_lab.lm.models import Models
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.store import Store

SMALL = {
    "truth": "tiny-truth",
    "base": "tiny-base",
    "student": "tiny-student",
    "target": "digit",
    "reward": "rule",
    "max_tokens": 10,
    "preference_prompts": 4,
    "preference_responses": 6,
    "distil_prompts": 4,
    "distil_responses": 3,
    "distil_batch": 2,
    "align_steps": 2,
    "align_batch": 4,
    "align_learning_rates": (1e-3,),
    "lora_rank": 2,
    "curve_points": 1,
    "validation_responses": 1,
    "truth_responses": 1,
    "test_prompts": 4,
    "test_responses": 2,
}


def small(**changes) -> LmSettings:
    return LmSettings(**{**SMALL, **changes})


def world_in(folder: Path, seed: int = 0, **changes) -> LmWorld:
    return LmWorld(small(**changes), "dpo", seed, Store(folder))


def given_rate(world: LmWorld, rate: float = 1e-3) -> LmWorld:
    """The world with a learning rate that no trial had to find."""
    world.trials = lambda init: {"learning_rate": rate, "trials": []}
    return world


@cache
def smollm2():
    """The real model and its tokenizer, read once a process; whoever trains it trains a copy."""
    return weights.load(weights.BUILT_IN)


def watch(monkeypatch, module, name):
    """Every call of a module's function from now on, which does what it did; `found` holds what it gave."""
    real, found = getattr(module, name), []

    def act(*given, **options):
        found.append(real(*given, **options))
        return found[-1]

    spy = Mock(side_effect=act, found=found)
    monkeypatch.setattr(module, name, spy)
    return spy


def look_at_training(monkeypatch):
    """What a stage's trainings are given from now on, with the states and the loss of all its examples; none trains."""
    seen = []

    @torch.no_grad()
    def look(model, examples, loss, **options):
        batch, items = collate(examples), token_counts(examples)
        (value, info), states = loss(model, batch, items), hidden_states(model, batch)
        seen.append({"model": model, "examples": examples, "states": states, "value": float(value), **options})
        return [(float(value), info)]

    monkeypatch.setattr(context, "train", look)
    return seen


def log_ratios(world, policy, reference, samples):
    """log π(y) - log reference(y) of each of the samples, nats."""
    own, other = map(world.context.models.of, (policy, reference))
    asked = zip(samples.prompt_of, samples.tokens, strict=True)
    return [log_prob(own, *one) - log_prob(other, *one) for one in ((samples.prompt_ids[at], y) for at, y in asked)]


def random_adapter(policy, seed, scale=0.3):
    """The policy with an adapter that visibly changes it."""
    width = Models().of(policy).config.hidden_size
    draw, name = torch.Generator().manual_seed(seed), "model.layers.0.self_attn.o_proj"
    a, b = (scale * torch.randn(shape, generator=draw) for shape in ((2, width), (width, 2)))
    return policy.with_adapter({f"{name}.A": a, f"{name}.B": b})


def away_from_zero(model, scale=0.1, seed=0):
    """The adapted model, of which every part then has a gradient."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(scale * torch.randn(weight.shape, generator=draw))
    return model


def said(model, prompt, tokens):
    """log π over the vocabulary before each token, in float64, by the logits of one response alone: [tokens, V]."""
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


def said_of(model, examples, role=None):
    """The same before every token of the responses of a role, or of all."""
    return torch.cat([
        said(model, example.prompt, tokens)
        for example in examples
        for tokens, own in zip(example.responses, example.roles, strict=True)
        if role in (None, own)
    ])  # fmt: skip


def log_probs(model, prompt, tokens):
    """log π of each token, by the same."""
    of_all = said(model, prompt, tokens)
    return of_all.gather(1, torch.tensor([*tokens], device=of_all.device)[:, None]).squeeze(1)


def log_prob(model, prompt, tokens):
    """log π(tokens | prompt) in nats."""
    with torch.no_grad():
        return float(log_probs(model, prompt, tokens).sum())


def assert_near(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def folder_of(source, path):
    """Model and tokenizer as transformers keeps them."""
    for part in weights.load(source):
        part.save_pretrained(path)
    return path


def with_more_tokens(source, path):
    """The same with a token that no model knows."""
    tokenizer = weights.load_tokenizer(str(folder_of(source, path)))
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(path)
    return str(path)


def lines(path, rows):
    """Rows as lines of JSON."""
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prompt_ids(tokenizer, conversations):
    """The tokens of conversations that wait for an answer."""
    return [
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) for turns in conversations
    ]
