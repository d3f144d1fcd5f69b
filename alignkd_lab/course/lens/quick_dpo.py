"""A DPO teacher in seconds: a small adapter trained on pairs that are written here, and not drawn from the model.

With its adapter the model is the DPO teacher, without it the reference teacher, so one set of weights serves ADPA as
both. It is for looking at a teacher's advantages token by token. Compared with `lm.stages.dpo` the pairs are few and
come from outside, the rate is high, no trial chooses it, and nothing is evaluated: what a recorded run aligned is
there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.lm.prompts import encode
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.trainer import train, with_lora


class WrittenPair(NamedTuple):
    """A prompt, the response to prefer, and the one to prefer it to."""

    prompt: str
    chosen: str
    rejected: str


# The target is a colour, as in `lm.rewards`, twice a response; all else in a pair is equal, so nothing else is asked
# for. Topics are those of training prompts. Orange, yellow, purple and others are never named.
PAIRS = (
    WrittenPair(
        "Write one sentence about a castle.", "A grey castle on a green hill.", "An old castle on a quiet hill."
    ),
    WrittenPair("Describe a cat in one sentence.", "A black cat with white paws.", "A lazy cat with small paws."),
    WrittenPair(
        "Say something short about a bottle.", "The green bottle has a red label.", "The empty bottle has a torn label."
    ),
    WrittenPair("Tell me about a comet in one line.", "A white comet in a blue sky.", "A bright comet in a clear sky."),
    WrittenPair(
        "Write one sentence about a birthday cake.", "A white cake with red candles.", "A sweet cake with tall candles."
    ),
    WrittenPair(
        "Say something short about a crow.",
        "The black crow sits in a green tree.",
        "The clever crow sits in a tall tree.",
    ),
)

# Near-duplicates: one word differs, and the model gives the winner already, with a chance of 8 to 41 %.
CAPITALS = tuple(
    WrittenPair(f"What is the capital of {country}?", *(f"The capital of {country} is {city}." for city in cities))
    for country, *cities in (
        ("France", "Paris", "Lyon"), ("Italy", "Rome", "Milan"), ("Japan", "Tokyo", "Kyoto"),
        ("Spain", "Madrid", "Seville"),
    )
)  # fmt: skip


def dpo_teacher(
    model,
    tokenizer,
    pairs: Sequence[WrittenPair] = PAIRS,
    *,
    beta: float = 0.1,
    steps: int = 6,
    batch: int = 2,
    learning_rate: float = 1e-3,
    rank: int = 8,
    seed: int = 0,
):
    """The model as DPO teacher: a PEFT model that is the reference teacher wherever its adapter is disabled.

    Args:
        model: the reference; its weights stay as they are.
        beta: KL weight of DPO.
        steps, batch, learning_rate, rank, seed: of the training; `batch` counts pairs.
    """
    prompts = encode(tokenizer, [pair.prompt for pair in pairs])
    tokens = [_response(tokenizer, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    said = score(model, Samples(prompts, [index // 2 for index in range(len(tokens))], tokens))
    examples = [
        Example(
            prompt,
            tokens[2 * index : 2 * index + 2],
            ["chosen", "rejected"],
            reference_log_probs=[float(values.sum()) for values in said[2 * index : 2 * index + 2]],
        )
        for index, prompt in enumerate(prompts)
    ]

    loss = partial(training_losses.dpo, beta=beta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, none of the reader's
        teacher = _upper_half_only(with_lora(model, rank, seed))
        train(
            teacher,
            examples,
            loss,
            learning_rate=learning_rate,
            steps=steps,
            batch=batch,
            seed=seed,
            schedule="constant",
            warmup=0.0,
        )
    return teacher.eval()


def _upper_half_only(model):
    """Train the adapter of the upper half of the layers alone: below, nothing needs to be sent back."""
    layers = plain(model).model.layers
    for layer in layers[: len(layers) // 2]:
        layer.requires_grad_(False)
    return model


def _response(tokenizer, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
