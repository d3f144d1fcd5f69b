"""A DPO teacher in seconds: a small adapter trained on pairs that are written here, and not drawn from the model.

With its adapter the model is the DPO teacher, without it the reference teacher, so one set of weights serves ADPA as
both. It is for looking at a teacher's advantages token by token. Compared with `lm.stages.dpo` the pairs are few and
come from outside, the rate is high, no trial chooses it, and nothing is evaluated: what a recorded run aligned is
there.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import NamedTuple

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.templates import encode
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


_BETA = 0.1  # KL weight


def dpo_teacher(model, tokenizer, *, steps: int = 6, batch: int = 2, learning_rate: float = 1e-3, rank: int = 8):
    """The model as DPO teacher: a PEFT model that is the reference teacher wherever its adapter is disabled.

    Args:
        model: the reference; its weights stay as they are.
        steps, batch, learning_rate, rank: of the training; `batch` counts pairs.
    """
    prompts = encode(tokenizer, [pair.prompt for pair in PAIRS])
    tokens = [response(tokenizer, text) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    said = score(model, Samples(prompts, [index // 2 for index in range(len(tokens))], tokens))
    sums = [float(values.sum()) for values in said]
    examples = [
        Example(prompt, tokens[at : at + 2], ["chosen", "rejected"], reference_log_probs=sums[at : at + 2])
        for at, prompt in zip(range(0, len(tokens), 2), prompts, strict=True)
    ]
    how = {"learning_rate": learning_rate, "steps": steps, "batch": batch, "schedule": "constant", "warmup": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, none of the reader's
        teacher = with_lora(model, rank, seed=0)
        layers = plain(teacher).model.layers
        for layer in layers[: len(layers) // 2]:  # below the upper half nothing needs to be sent back
            layer.requires_grad_(False)
        train(teacher, examples, partial(training_losses.dpo, beta=_BETA), seed=0, **how)
    return teacher.eval()


def response(tokenizer, text: str) -> list[int]:
    """Token ids of a response, the end token among them."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
