"""Four outcomes at one state, moved by the package's own losses, step by step.

The policy's four logits are its hidden states and the identity is its head, so that what trains a language
model moves them here. Token 2 beat token 1 in the only pair; no pair speaks of tokens 3 and 4. The two
teachers are those of `toy.one_state`: at a reference margin of -0.693 (twice as many losers as winners) the
reference is the one there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alignkd_lab.course.toy.one_state import DPO, REFERENCE
from alignkd_lab.errors import UnknownName
from alignkd_lab.lm import losses
from alignkd_lab.lm.losses import DIVERGENCES
from alignkd_lab.lm.teachers import Full

LOSER, WINNER = 0, 1
LAST = 50  # steps of a walk
BETA, GAMMA = 0.5, 1.5
RATES = {"gradient": 1.0, "adam": 0.2}
OPTIMISERS = {"gradient": torch.optim.SGD, "adam": torch.optim.Adam}
LOSSES = ("dpo", "nll", *DIVERGENCES, "adpa", "adpa_nll")


def log_reference(margin: float) -> Tensor:
    """The reference's log-probabilities [token]: that of `one_state`, its first two split by `margin`, in nats."""
    margin = torch.tensor(margin, dtype=torch.float64)
    pair = torch.stack([F.logsigmoid(-margin), F.logsigmoid(margin)])
    shares = torch.tensor(REFERENCE, dtype=torch.float64)
    return torch.cat([pair + shares[:2].sum().log(), shares[2:].log()])


def loss_at(name: str, reference: Tensor, beta: float, gamma: float) -> Callable[[Tensor], tuple[Tensor, Any]]:
    """The package's loss as a function of the four logits: the loss and its info.

    Args:
        name: one of `LOSSES`; reference: log-probabilities [token].
        beta: KL weight of DPO; gamma: weight of ADPA's advantage.
    """
    head = torch.eye(len(reference), dtype=torch.float64)
    pair, both = torch.tensor([WINNER, LOSER]), torch.tensor([0, 1])
    log_teacher = torch.tensor(DPO, dtype=torch.float64).log()
    teacher, reference_teacher = (Full(logits[None], head) for logits in (log_teacher, reference))
    if name == "dpo":
        return lambda logits: losses.dpo(logits.expand(2, -1), head, pair, both, reference[pair], beta)
    if name == "nll":
        return lambda logits: losses.nll(logits[None], head, pair[:1])
    if name in DIVERGENCES:
        return lambda logits: losses.kd(logits[None], head, teacher, divergence=name)
    # Of two positions at this state one has the winner's likelihood, the other the advantage.
    chosen = torch.tensor([True, False]) if name == "adpa_nll" else torch.tensor([False])
    labels, rows = pair[: len(chosen)], len(chosen)
    return lambda logits: losses.adpa(
        logits.expand(rows, -1), head, labels, teacher, reference_teacher, chosen, gamma=gamma
    )


class Walk(NamedTuple):
    """`LAST` steps from the reference.

    log_probs: `[step, token]`, of the policy; pushes: `[step, token]`, minus the gradient of the
        loss by each logit.
    weights: `[step]`, DPO's weight of the pair; None under another loss.
    """

    log_probs: np.ndarray
    pushes: np.ndarray
    weights: np.ndarray | None

    @property
    def margins(self) -> np.ndarray:
        """log pi(winner) - log pi(loser) after every step."""
        return self.log_probs[:, WINNER] - self.log_probs[:, LOSER]


def walk(name: str, margin: float, beta: float = BETA, gamma: float = GAMMA, optimiser: str = "gradient") -> Walk:
    """Descend from the reference.

    Args:
        name: one of `LOSSES`; margin: of the pair in the reference, nats; optimiser: one of `OPTIMISERS`.

    Raises UnknownName for another loss or optimiser.
    """
    for what, given, accepted in (("loss", name, LOSSES), ("optimiser", optimiser, OPTIMISERS)):
        if given not in accepted:
            raise UnknownName(what, given, accepted)
    reference = log_reference(margin)
    logits = reference.clone().requires_grad_()
    descent = OPTIMISERS[optimiser]([logits], lr=RATES[optimiser])
    loss, found = loss_at(name, reference, beta, gamma), []
    for _ in range(LAST + 1):
        value, info = loss(logits)
        (logits.grad,) = torch.autograd.grad(value, logits)
        weight = info.weight.item() if name == "dpo" else None
        found.append((logits.detach().log_softmax(-1), -logits.grad, weight))
        descent.step()
    log_probs, pushes, weights = zip(*found, strict=True)
    weights = np.array(weights) if name == "dpo" else None
    return Walk(torch.stack(log_probs).numpy(), torch.stack(pushes).numpy(), weights)
