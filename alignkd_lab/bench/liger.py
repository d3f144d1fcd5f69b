"""Liger's fused losses, on the hidden states that ours get: rows of one batch differ in the loss alone.

`liger_kernel.chunked_loss` is torch code, compiled on a GPU as its trainers run it, and as it stands on a CPU. Its DPO
takes hidden states of a reference and no log-probabilities that were kept, so here it has none, which costs it less.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from alignkd_lab.bench.batch import BETA, PAIRS
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import hidden_states

METHODS = ("dpo", "kd")
TIMED = {
    "dpo": "LigerFusedLinearDPOLoss without a reference, a pair at a time",
    "kd": "LigerFusedLinearJSDLoss with beta 0, which is forward KL, 1024 rows at a time",
}


def version() -> str | None:
    """Liger's version, None where it is not installed."""
    return importlib.metadata.version("liger-kernel") if importlib.util.find_spec("liger_kernel") else None


def loss(method: str, teacher_head):
    """The loss of `method` as `LossTrainer` wants it; all responses are of one length."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss, LigerFusedLinearJSDLoss

    compiled = teacher_head.is_cuda
    dpo = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=False, compiled=compiled)
    kd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled)

    def chosen_first(rows):
        """[pairs, 2, length, ...] -> [2 pairs, length, ...]."""
        return rows.unflatten(0, (PAIRS, 2, -1)).transpose(0, 1).flatten(0, 1)

    def fused(model, batch: dict, items: dict[str, int]):
        hidden, head = hidden_states(model, batch), head_of(model)
        labels = batch["shift_labels"].to(head.device)
        if method == "dpo":
            return dpo(head, chosen_first(hidden), chosen_first(labels))[0], None
        teacher = batch["signals"]["teacher"]["hidden"].to(teacher_head)
        return kd(hidden, head, teacher.to(hidden.dtype), teacher_head, labels), None

    return fused
