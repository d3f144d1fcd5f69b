"""A language world of tiny random models in which the target is common enough to be learnt: for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.context import Models
from alignkd_lab.lm.losses import token_log_probs
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


def random_adapter(policy, seed, scale=0.3):
    """The policy with an adapter that visibly changes it."""
    model = Models().of(policy)
    draw = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    name = "model.layers.0.self_attn.o_proj"
    a, b = (scale * torch.randn(shape, generator=draw) for shape in ((2, width), (width, 2)))
    return policy.with_adapter({f"{name}.A": a, f"{name}.B": b})


def log_prob(model, prompt, tokens):
    """log π(tokens | prompt) in nats, one response at a time."""
    batch = collate([Example(prompt, [tokens])])
    with torch.inference_mode():
        return float(token_log_probs(hidden_states(model, batch), model.lm_head.weight, batch["shift_labels"]).sum())
