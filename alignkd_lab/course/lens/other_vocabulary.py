"""What happens to each distillation loss where teacher and student have different vocabularies."""

from __future__ import annotations

import torch

from alignkd_lab.lm import losses
from alignkd_lab.lm.teachers import Full

LOSSES = {
    "sequence": "sequence-level KD (likelihood of the teacher's texts)",
    "full": "full-vocabulary KD (KL(teacher ‖ student) at each token of the teacher's texts)",
    "reverse": "on-policy distillation (KL(student ‖ teacher) at each token of the student's texts)",
    "adpa": "ADPA (expected advantage at each token of the student's texts)",
}


def learn(loss: str) -> float:
    """A loss of `LOSSES` for a student of 7 tokens; the teacher has 9, and what it wrote was split up anew.

    Raises:
        BadInput: from the loss, which says why it cannot.
    """
    draw = torch.Generator().manual_seed(8)
    hidden, head, other = (torch.randn(rows, 4, generator=draw) for rows in (3, 7, 9))
    labels, teacher = torch.tensor([1, 5, 2]), Full(hidden, other)
    if loss == "sequence":
        return float(losses.nll(hidden, head, labels)[0])
    if loss == "adpa":
        written = torch.zeros(3, dtype=torch.bool)
        return float(losses.adpa(hidden, head, labels, teacher, teacher, written)[0])
    return float(losses.kd(hidden, head, teacher, divergence={"full": "forward"}.get(loss, loss))[0])
