"""What the fast path needs to know of a causal model: its backbone, its head, its attention windows, its dropout.

The fast path runs the backbone once on packed rows and multiplies by the head a chunk of rows at a time. Whether that
is what the model itself computes is not taken on trust: `lm.admission` compares it with `model(ids).logits`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from alignkd_lab.errors import BadInput

# What transformers multiplies logits by, and what it divides them by.
FACTORS, DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)


def plain(model):
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model):
    """The model without its head, whose output has the final hidden states."""
    return plain(model).base_model


class CappedHead:
    """A head [V, d] whose logits z become cap tanh(z / cap), as in Gemma-2; it has what else its weight has."""

    def __init__(self, weight: Tensor, cap: float) -> None:
        self.weight, self.cap = weight, cap

    def __getattr__(self, name: str):
        return getattr(self.__dict__["weight"], name)

    def __len__(self) -> int:
        return len(self.weight)

    def detach(self) -> CappedHead:
        return CappedHead(self.weight.detach(), self.cap)

    def clone(self) -> CappedHead:
        return CappedHead(self.weight.clone(), self.cap)

    def to(self, *args) -> CappedHead:
        return CappedHead(self.weight.to(*args), self.cap)


def parts_of(head) -> tuple[Tensor, float | None]:
    """The weight of a head, and its cap where it has one."""
    return (head.weight, head.cap) if isinstance(head, CappedHead) else (head, None)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def logits(hidden: Tensor, head: Tensor, cap: float | None = None) -> Tensor:
    """hidden headᵀ, [n, V], multiplied in the head's dtype, given in float32 (float64 stays), and capped."""
    hidden = hidden.to(head.dtype)
    if head.is_cuda and head.dtype.itemsize == 2:  # the sums are float32 there anyway, and need not be rounded
        return capped(torch.mm(hidden, head.T, out_dtype=torch.float32), cap)
    return capped(F.linear(hidden, head).to(torch.promote_types(head.dtype, torch.float32)), cap)


def cast_head(head: Tensor) -> Tensor:
    """The head in the dtype that autocast multiplies in, where that is on."""
    kind = head.device.type
    if torch.is_autocast_enabled(kind) and head.dtype != torch.float64:
        return head.to(torch.get_autocast_dtype(kind))
    return head


def head_of(model) -> Tensor | CappedHead:
    """[V, d], or [V, d + 1] where the head has a bias: logits are `to_head(model, states) @ head.T`, capped if it is.

    Of a sharded model it is to be asked for in its forward pass, where all processes gather it.

    Raises:
        BadInput: no head, or an adapter on it.
    """
    layer = plain(model).get_output_embeddings()
    if layer is None:
        raise BadInput(f"model: {type(plain(model)).__name__} has no head that predicts tokens; name a causal model")
    if hasattr(layer, "base_layer") or hasattr(layer, "modules_to_save"):
        raise BadInput("model: the adapter changes lm_head itself; merge it first with model.merge_and_unload()")
    if isinstance(layer, FSDPModule):  # apart from its model, whose forward pass would gather the rest alone
        layer.unshard()
    bias = getattr(layer, "bias", None)
    weight = layer.weight if bias is None else torch.cat([layer.weight, bias[:, None]], dim=1)
    cap = getattr(plain(model).config.get_text_config(), "final_logit_softcapping", None)
    return weight if cap is None else CappedHead(weight, cap)


def to_head(model, states: Tensor) -> Tensor:
    """Final hidden states [..., d] as the head takes them: a column of ones for its bias, then the logits' scale."""
    model = plain(model)
    config = model.config.get_text_config()
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        states = torch.cat([states, states.new_ones(*states.shape[:-1], 1)], dim=-1)
    for names, power in ((FACTORS, 1), (DIVISORS, -1)):
        for name in names:
            if getattr(config, name, None) not in (None, 1):
                states = states * getattr(config, name) ** power
    return states


def masks(model, mask: Tensor, positions: Tensor):
    """A mask of packed rows as the model's attention takes it: within its windows, and added where it is eager.

    mask bool [rows, 1, time, time], positions [rows, time]. A model whose layers differ gets a mask for each kind.
    """
    model = plain(model)
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    window = getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None

    def form(allowed: Tensor) -> Tensor:
        if config._attn_implementation != "eager" or allowed.dtype != torch.bool:
            return allowed
        dtype = model.dtype
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)

    if window is None:
        return form(mask)
    near = mask & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    by_kind = {kind: form(near if kind == "sliding_attention" else mask) for kind in kinds}
    return by_kind if len(by_kind) > 1 else next(iter(by_kind.values()))


def without_dropout(model):
    """The model with every dropout off, in training too: a loss here means the log-probabilities of one model.

    But for that of a LoRA, which whoever trains it asked for.
    """
    own = (module for name, module in model.named_modules() if ".lora_dropout." not in name)
    for owner in (*own, plain(model).config, plain(model).config.get_text_config()):
        for name, value in list(vars(owner).items()):
            if "drop" in name and isinstance(value, float) and value:
                setattr(owner, name, 0.0)
        if isinstance(owner, torch.nn.Dropout):
            owner.p = 0.0
    return model
