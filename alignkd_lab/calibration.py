"""How fast this machine does a run's three kinds of work, from a few seconds of each.

Work is counted in parameter-tokens: a token sampled, trained on (forward and backward, LoRA) or scored
(forward) by a model of P parameters is P of them. Left out: attention's growth with length, loading, and
the arithmetic of rewards. The estimate is for planning an evening, not for a table.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

# The shape of SmolLM2-135M; on a CPU a few of its 30 layers tell the speed of all.
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LAYERS = {"cpu": 6, "cuda": 30}
ROWS = {"cpu": 4, "cuda": 64}
LENGTH = 45  # a short prompt and its response
LORA_RANK = 16
KINDS = ("sampled", "trained", "scored")


@dataclass(frozen=True)
class Rates:
    """Parameter-tokens a second in matrix products of `dtype`, the default of this device."""

    sampled: float
    trained: float
    scored: float
    dtype: str


def estimate(work: Iterable[Mapping[str, int]], rates: Rates) -> float:
    """Seconds for `work`: the sum over its entries of parameters × (sampled/r_s + trained/r_t + scored/r_f).

    Each entry names the `parameters` of one model and the tokens that it has `sampled`, `trained`, `scored`.
    """
    return sum(entry["parameters"] * sum(entry.get(kind, 0) / getattr(rates, kind) for kind in KINDS) for entry in work)


def calibrate(device: str) -> Rates:
    """Measures the rates on `device` ("cpu" or "cuda") with random weights of SmolLM2's shape, in seconds."""
    from alignkd_lab.lm.settings import resolve_dtype
    from alignkd_lab.lm.trainer import autocast, with_lora

    model, dtype = _random_model(device), resolve_dtype("default", device)
    parameters = sum(weight.numel() for weight in model.parameters())
    ids = torch.randint(3, SHAPE["vocab_size"], (ROWS[device], LENGTH), device=device)
    prompts, repeats, tokens = 12, 8, 2
    with autocast(device, getattr(torch, dtype)), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, none of the reader's
        sampled = _seconds(lambda: _sample(model, prompts, repeats, tokens), device)
        with torch.inference_mode():
            scored = _seconds(lambda: model(input_ids=ids).logits.float().logsumexp(-1), device)
        student = with_lora(model, LORA_RANK)
        trained = _seconds(lambda: _train_step(student, ids), device)
    return Rates(
        sampled=parameters * prompts * repeats * tokens / sampled,
        trained=parameters * ids.numel() / trained,
        scored=parameters * ids.numel() / scored,
        dtype=dtype,
    )


def _random_model(device: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=LAYERS[device], **SHAPE)).eval()


def _sample(model, prompts: int, repeats: int, tokens: int) -> None:
    from alignkd_lab.lm.sampling import sample

    sample(model, [list(range(3, 23))] * prompts, repeats, tokens, eos=-1, seed=0)


def _train_step(model, ids: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids).logits.float()
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()


def _seconds(work: Callable[[], object], device: str, budget: float = 0.5) -> float:
    """Fastest of as many repeats as fit into `budget` seconds (at least one), after one to warm up."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    times = [once()]
    while sum(times) < budget:
        times.append(once())
    return min(times)
