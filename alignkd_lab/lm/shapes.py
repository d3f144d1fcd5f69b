"""What a model is made of, from its configuration alone: nothing is downloaded and no weights are read."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import Linear
from transformers.pytorch_utils import Conv1D

from alignkd_lab.errors import CannotContinue, refusing
from alignkd_lab.lm import weights
from alignkd_lab.lm.architecture import backbone
from alignkd_lab.lm.folders import base_of, is_adapter
from alignkd_lab.lm.settings import BUILT_IN, HEALED, base_of_student
from alignkd_lab.lm.tiny import TINY, tiny

HEALED_LAYERS = 20  # of the student that ships
# Width, layers, attention heads, heads of keys and values, width of the feed-forward.
_SMOLLM2 = {
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1.7B": (2048, 24, 32, 32, 8192),
}


def config_of(source: str):
    """The configuration of a source of weights, or of a healed student (`healed`, `healed-16`, `healed:BASE`).

    Raises:
        BadInput: a source that is none, or whose configuration transformers cannot read.
        CannotContinue: a model of the hub that was never fetched, but for those that presets name.
    """
    name, _, base = source.partition(":")
    if healed := HEALED.fullmatch(name):
        return with_layers(config_of(base or BUILT_IN), int(healed[1] or HEALED_LAYERS))
    if source in TINY:
        return tiny(source)[0].config
    if source == BUILT_IN:
        return smollm2("135M")
    folder = weights.at_hand(source)
    size = next((size for size in _SMOLLM2 if f"SmolLM2-{size}" in source), None)
    if folder is None and size:
        return smollm2(size)
    if folder is None:
        raise CannotContinue(f"plan: {source} was never fetched, so its size is not known; fetch it, or name a folder")
    if is_adapter(folder):
        return config_of(base_of(folder))
    from transformers import AutoConfig

    with refusing(f"plan: no configuration can be read from {source}", Exception):
        return AutoConfig.from_pretrained(folder, **weights.LOCAL)


def smollm2(size: str, **changes: int):
    """The configuration of SmolLM2 of that size: 135M, 360M or 1.7B."""
    from transformers import LlamaConfig

    width, layers, heads, of_keys, inner = _SMOLLM2[size]
    made = {"vocab_size": 49152, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": of_keys, "intermediate_size": inner, "max_position_embeddings": 8192,
            "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}  # fmt: skip
    return LlamaConfig(**made | changes)


def with_layers(config, layers: int, vocabulary: int | None = None):
    """The same with so many layers, and so large a vocabulary."""
    made = copy.deepcopy(config)
    made.num_hidden_layers = layers
    if kinds := getattr(config, "layer_types", None):
        made.layer_types = [kinds[at % len(kinds)] for at in range(layers)]
    if vocabulary:
        made.vocab_size = vocabulary
        made.bos_token_id, made.eos_token_id, made.pad_token_id = 1, 2, 0
    return made


def build(config, device: str = "cpu"):
    """A model of random weights in float32, in eval mode; nothing is to be learnt of it but its speed and its size."""
    from transformers import AutoModelForCausalLM

    with torch.device(device), torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.admitted = 1 << 60
    return model.eval()


def parameters(config) -> int:
    """How many numbers the weights are, each counted once."""
    return _parameters(type(config), config.to_json_string(use_diff=False))


@cache
def _parameters(kind: type, config: str) -> int:
    return sum(weight.numel() for weight in build(kind(**json.loads(config)), "meta").parameters())


def is_here(source: str) -> bool:
    """Whether the source's weights and tokenizer need no download."""
    source = base_of_student(source)
    if source in TINY:
        return True
    folder = weights.at_hand(source)
    return folder is not None and (not is_adapter(folder) or is_here(base_of(folder)))


def adapter_size(config, rank: int, targets: Sequence[str] = ("all-linear",)) -> int:
    """How many numbers a LoRA of that rank trains, on all linear layers but the head, or on those of these names."""
    model = build(config, "meta")
    layers = {name: layer for name, layer in backbone(model).named_modules() if isinstance(layer, Linear | Conv1D)}
    return sum(rank * sum(layer.weight.shape) for name, layer in layers.items()
               if "all-linear" in targets or name.split(".")[-1] in targets)  # fmt: skip
