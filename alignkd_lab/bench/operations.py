"""How many operations a training step cannot do without, and how fast this machine multiplies: together its ceiling.

Counted are matrix products, two operations to a multiply-add, over real tokens and visible pairs of positions. Not
counted is whatever a variant does on top: padding, pairs that a mask hides, logits at prompt positions, products done
twice to save memory. Checkpointing of the blocks is the bench's own setting, equal for all, so its second forward pass
is counted (`needed` is without it). Left out: rotary angles and the input gradients that the first block of a
frozen embedding needs not, less than one per cent of SmolLM2.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch

from alignkd_lab.lm.batch import Example

LORA_PRODUCTS = 3  # forward, by input and by weight: a LoRA's own products are all there


class Operations(NamedTuple):
    counted: int  # as the bench is set
    needed: int  # without the second forward pass of checkpointing


def step_operations(
    config, examples: list[Example], method: str, lora_rank: int | None = None, checkpointing: bool = False
) -> Operations:
    """Operations of one forward and backward pass of a Llama on `examples`; without `lora_rank` all weights train."""
    tokens, pairs, responses = _read(examples)
    linear, adapter = _block_weights(config, lora_rank or 0)
    width = config.num_attention_heads * _head_width(config)
    forward = config.num_hidden_layers * (2 * tokens * (linear + adapter) + 4 * pairs * width)
    # By the input, once; by the weights too where they train. Attention has two products and each has two gradients.
    backward = config.num_hidden_layers * (
        2 * tokens * linear * (1 if lora_rank else 2) + 2 * tokens * adapter * (LORA_PRODUCTS - 1) + 8 * pairs * width
    )
    product = 2 * config.hidden_size * config.vocab_size
    head = responses * product * (2 if lora_rank else 3)
    needed = forward + backward + head + _teacher_rows(examples, method) * product
    # The backward pass needs the inputs of a block's last product, and not the product.
    again = forward - config.num_hidden_layers * 2 * tokens * config.intermediate_size * config.hidden_size
    return Operations(needed + (again if checkpointing else 0), needed)


def _read(examples: list[Example]) -> tuple[int, int, int]:
    """Tokens that go through the blocks, pairs of positions that see each other, and response tokens."""
    tokens = pairs = responses = 0
    for example in examples:
        prompt = len(example.prompt)
        tokens += prompt
        pairs += prompt * (prompt + 1) // 2
        for response in example.responses:
            read = len(response) - 1  # the last token is never an input
            tokens += read
            pairs += read * prompt + read * (read + 1) // 2
            responses += len(response)
    return tokens, pairs, responses


def _block_weights(config, rank: int) -> tuple[int, int]:
    """Weights of the linear layers of one block, and of a LoRA on all of them."""
    width, inner, head = config.hidden_size, config.intermediate_size, _head_width(config)
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width), *[(width, inner)] * 3]
    return sum(a * b for a, b in shapes), rank * sum(a + b for a, b in shapes)


def _head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _teacher_rows(examples: list[Example], method: str) -> int:
    """Rows that go through the teachers' head: ADPA's two teachers share one, so their difference is one product."""
    if method not in ("kd", "dckd", "adpa"):
        return 0
    read = [kept for example in examples for kept in example.signals["teacher"] if kept]
    return sum(len(kept["hidden"]) for kept in read)


class ProductRate:
    """The fastest matrix product this machine does, in operations a second: measured again between the rows."""

    def __init__(self, device: str, dtype: torch.dtype, quick: bool = False) -> None:
        side = 128 if quick else 8192 if device == "cuda" else 1024
        shapes = [(side, side, side), (2 * side, 576, 1536), (side // 4, 576, 49152 if not quick else 1024)]
        kind = {"device": device, "dtype": dtype}
        self._factors = [
            (torch.ones(rows, inner, **kind), torch.ones(columns, inner, **kind)) for rows, inner, columns in shapes
        ]
        self._device, self.found = device, []

    def measure(self) -> None:
        self.found.append(max(self._rate(left, right) for left, right in self._factors))

    @property
    def median(self) -> float:
        return statistics.median(self.found)

    def _rate(self, left: torch.Tensor, right: torch.Tensor) -> float:
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            left @ right.T
            if self._device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return 2 * left.shape[0] * left.shape[1] * right.shape[0] / min(seconds)
