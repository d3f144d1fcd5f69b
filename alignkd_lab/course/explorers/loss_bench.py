"""Explorer: "DPO stops when the winner leads". Four outcomes at one state, moved by the package's own losses.

The policy's four logits are its hidden states and the identity is its head, so that what trains a language
model moves them here. Token 2 beat token 1 in the only pair; no pair speaks of tokens 3 and 4. The two
teachers are those of `toy.one_state`: at a reference margin of -0.693 (twice as many losers as winners) the
reference is the one there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.toy.one_state import DPO, OPTIMISERS, REFERENCE
from alignkd_lab.course.widgets.state import begun
from alignkd_lab.errors import UnknownName
from alignkd_lab.lm import losses
from alignkd_lab.lm.losses import DIVERGENCES
from alignkd_lab.lm.teachers import Full
from alignkd_lab.plots.style import number

if TYPE_CHECKING:
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import Explorer, NumberControl

START = {
    "loss": "dpo",
    "steps": 0.0,
    "reference_margin": -0.693,
    "beta": 0.5,
    "gamma": 1.5,
    "optimiser": "gradient",
}
LOSSES = {
    "dpo": "DPO on the pair: token 2 beat token 1",
    "nll": "NLL of the winner",
    "forward": "forward KL from the DPO teacher",
    "reverse": "reverse KL to the DPO teacher",
    "jsd": "JSD between DPO teacher and policy",
    "skew": "skew KL from the DPO teacher",
    "adpa": "ADPA's advantage alone, without the NLL",
    "adpa_nll": "ADPA: NLL of the winner and the advantage",
}
DESCENTS = {"gradient": "plain gradient descent", "adam": "Adam"}
LOSER, WINNER = 0, 1
LAST = 50  # steps of a walk
SATISFIED = 0.05  # the weight below which we call DPO satisfied
SOURCE = "Live: the package's own losses and their gradients on four logits, exact; no language model."
_RATES = {"gradient": 1.0, "adam": 0.2}
_PAIRED, _BETA, _GAMMA = ("dpo", "nll", "adpa_nll"), ("dpo",), ("adpa", "adpa_nll")


@dataclass(frozen=True)
class Bench:
    """What the picture shows: the walk of `LAST` steps from the reference, and where on it the state stands.

    state: of the controls; step: the number of steps taken.
    log_probs: `[step, token]`, of the policy; losses: `[step]`; pushes: `[step, token]`, minus the gradient
        of the loss by each logit.
    weights: `[step]`, DPO's weight of the pair; None under another loss.
    log_reference: `[token]`; log_teacher: `[token]`, of the DPO teacher, None where the loss asks none.
    """

    state: dict[str, Any]
    step: int
    log_probs: np.ndarray
    losses: np.ndarray
    pushes: np.ndarray
    weights: np.ndarray | None
    log_reference: np.ndarray
    log_teacher: np.ndarray | None

    @property
    def probs(self) -> np.ndarray:
        """The policy's probabilities after the state's steps."""
        return np.exp(self.log_probs[self.step])

    @property
    def margins(self) -> np.ndarray:
        """log pi(winner) - log pi(loser) after every step."""
        return self.log_probs[:, WINNER] - self.log_probs[:, LOSER]

    @property
    def paired(self) -> bool:
        """Whether the loss knows which token won."""
        return self.state["loss"] in _PAIRED


def compute(state: Mapping[str, Any]) -> Bench:
    """Descend from the reference, and say where the policy stands after `steps`.

    Args:
        state: `loss` (one of `LOSSES`), `steps` (0 to `LAST`), `reference_margin` (Delta_ref of the pair, nats),
            `beta` (KL weight of DPO), `gamma` (weight of ADPA's advantage), `optimiser` (one of `DESCENTS`).

    Raises:
        UnknownName: another loss or optimiser.
    """
    for name, accepted in (("loss", LOSSES), ("optimiser", DESCENTS)):
        if state[name] not in accepted:
            raise UnknownName(name, state[name], accepted)
    beta = state["beta"] if state["loss"] in _BETA else START["beta"]
    gamma = state["gamma"] if state["loss"] in _GAMMA else START["gamma"]
    walked = _walk(state["loss"], float(state["reference_margin"]), beta, gamma, state["optimiser"])
    return Bench({name: state[name] for name in START}, min(LAST, max(0, round(state["steps"]))), *walked)


def log_reference(margin: float) -> Tensor:
    """The reference's log-probabilities [token]: that of `one_state`, its first two split by `margin`, in nats."""
    margin = torch.tensor(margin, dtype=torch.float64)
    pair = torch.stack([F.logsigmoid(-margin), F.logsigmoid(margin)])
    shares = torch.tensor(REFERENCE, dtype=torch.float64)
    return torch.cat([pair + shares[:2].sum().log(), shares[2:].log()])


def loss_at(name: str, reference: Tensor, beta: float, gamma: float) -> Callable[[Tensor], tuple[Tensor, Any]]:
    """The package's loss as a function of the four logits: the loss and its info.

    Args:
        name: one of `LOSSES`; reference: log-probabilities [token]; beta, gamma: as in `compute`.
    """
    head = torch.eye(len(reference), dtype=torch.float64)
    pair, both = torch.tensor([WINNER, LOSER]), torch.tensor([0, 1])
    teacher, reference_teacher = (Full(logits[None], head) for logits in (_log_teacher(), reference))
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


def controls(**state: Any) -> dict[str, NumberControl | ChoiceControl]:
    """A control for each part of the state, at `START` where `state` does not say otherwise.

    Raises:
        UnknownName: a part that the state does not have, or a choice that there is not.
    """
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

    start = begun(START, state)
    return {
        "loss": ChoiceControl("loss", start["loss"], LOSSES),
        "steps": NumberControl("training steps", start["steps"], 0.0, float(LAST), 1.0),
        "reference_margin": NumberControl(
            "winner ahead in the reference, Δ_ref (nats)", start["reference_margin"], -25.0, 5.0, 0.5
        ),
        "beta": NumberControl("KL weight of DPO, β", start["beta"], 0.05, 5.0, 0.05, True),
        "gamma": NumberControl("weight of ADPA's advantage, γ", start["gamma"], 0.0, 6.0, 0.1),
        "optimiser": ChoiceControl("steps by", start["optimiser"], DESCENTS),
    }


def caption(data: Bench) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    state = data.state
    setting = [f"Δ_ref = {number(state['reference_margin'])}"]
    if state["loss"] in _BETA:
        setting.insert(0, f"β = {state['beta']:g}")
    if state["loss"] in _GAMMA:
        setting.insert(0, f"γ = {state['gamma']:g}")
    name = LOSSES[state["loss"]]
    taken = f"after {data.step} steps of {DESCENTS[state['optimiser']]}" if data.step else "at the start"
    return f"{name[0].upper()}{name[1:]} ({', '.join(setting)}), {taken}: {_seen(data)}"


def show(*shown: str, stills: Sequence[Mapping[str, Any]] | None = None, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    `stills` are changes of the state that a page without a kernel shows below the first picture; where there are
    none, a third of the walk and its end. A slider that the chosen loss does not know is greyed out.
    """
    from alignkd_lab.course.explorers.loss_bench_view import draw
    from alignkd_lab.course.widgets.view import Explorer

    made = controls(**state)

    def grey_out() -> None:
        for name, uses in (("beta", _BETA), ("gamma", _GAMMA)):
            off = made["loss"].value not in uses
            made[name].number.disabled = made[name].slider.disabled = off

    grey_out()
    made["loss"].on_change(grey_out)
    further = [{"steps": float(steps)} for steps in (LAST // 3, LAST)] if stills is None else stills
    return Explorer(made, shown or made, compute, draw, caption, SOURCE, "loss_bench.show", further)


# The walk ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _walk(name: str, margin: float, beta: float, gamma: float, optimiser: str) -> tuple[np.ndarray | None, ...]:
    """The fields of `Bench` that no step changes; kept, so that the slider of steps waits for nothing."""
    reference = log_reference(margin)
    logits = reference.clone().requires_grad_()
    descent = OPTIMISERS[optimiser]([logits], lr=_RATES[optimiser])
    loss, found = loss_at(name, reference, beta, gamma), []
    for _ in range(LAST + 1):
        value, info = loss(logits)
        (logits.grad,) = torch.autograd.grad(value, logits)
        weight = info.weight.item() if name == "dpo" else None
        found.append((logits.detach().log_softmax(-1), value.item(), -logits.grad, weight))
        descent.step()
    log_probs, values, pushes, weights = zip(*found, strict=True)
    asks_teacher = name in DIVERGENCES or name in _GAMMA
    return (
        torch.stack(log_probs).numpy(),
        np.array(values),
        torch.stack(pushes).numpy(),
        np.array(weights) if name == "dpo" else None,
        reference.numpy(),
        _log_teacher().numpy() if asks_teacher else None,
    )


def _log_teacher() -> Tensor:
    return torch.tensor(DPO, dtype=torch.float64).log()


# In words ---------------------------------------------------------------------------------------------


def _seen(data: Bench) -> str:
    name = data.state["loss"]
    if name == "dpo":
        return _dpo_seen(data)
    if name == "nll":
        return (
            f"the winner has {percent(data.probs[WINNER])}, and is pushed on by what it lacks of 100 %, "
            "lead or no lead. Nobody asks what the reference said of it."
        )
    return _adpa_seen(data) if name in _GAMMA else _kd_seen(data)


def _dpo_seen(data: Bench) -> str:
    margin, weight = data.margins[data.step], data.weights[data.step]
    others, before = (np.exp(shares[2:]).sum() for shares in (data.log_probs[data.step], data.log_reference))
    said = f"Δ_θ = {number(margin)}, weight {number(weight, 2)}. {_belief(margin, weight, data.step)}"
    since = f" ({percent(before)} at the start)" if data.step else ""
    return f"{said} Tokens 3 and 4, of which no pair speaks, have {percent(others)}{since}."


def _belief(margin: float, weight: float, step: int) -> str:
    """Whether "DPO stops when the winner leads" holds here: pushing behind, still ahead."""
    ahead = "winner" if margin > 0 else "loser"
    lead = f"the {ahead} is {_times(abs(margin))} likelier"
    if step == 0:
        return f"The policy is the reference, and the weight is ½, although {lead}."
    if margin <= 0 and weight < SATISFIED:
        return f"The belief fails: DPO is satisfied, and {lead} still."
    if margin > 0 and weight >= SATISFIED:
        return f"The belief fails: {lead}, and DPO pushes on."
    if margin > 0:
        return f"The push has faded and {lead}, but what faded it is the distance from Δ_ref, not the lead."
    return f"So far the belief holds: {lead}, and DPO pushes on."


def _times(margin: float) -> str:
    ratio = np.exp(margin)
    if ratio < 1.05:
        return "hardly"
    return f"{float(f'{ratio:.2g}'):,.4g} times" if ratio < 1e4 else f"{float(f'{ratio:.2g}'):,.0f} times"


def _kd_seen(data: Bench) -> str:
    gaps = np.abs(data.probs - np.exp(data.log_teacher))
    worst = int(gaps.argmax())
    if gaps[worst] < 0.005:
        return "the policy is the teacher, to half a percent on every token, and no push is left."
    return (
        f"farthest from the teacher is token {worst + 1}, with {percent(data.probs[worst])} where the teacher has "
        f"{percent(np.exp(data.log_teacher[worst]))}. A whole distribution speaks of every token, compared or not, "
        "and pushes until it is matched, not until somebody leads."
    )


def _adpa_seen(data: Bench) -> str:
    advantage = data.log_teacher - data.log_reference
    best, pushed, top = int(advantage.argmax()), int(data.pushes[data.step].argmax()), int(data.probs.argmax())
    rare = max(np.exp(data.log_teacher[best]), np.exp(data.log_reference[best])) < 0.05
    ending = f" It has ended on token {best + 1}{', which both teachers find rare' if rare else ''}."
    standing = f"the likeliest is token {top + 1} ({percent(data.probs[top])})"
    if top != best:
        standing += f", and token {best + 1} has {percent(data.probs[best])}"
    return (
        f"the advantage is largest on token {best + 1} (A = {number(advantage[best])}), the push on token "
        f"{pushed + 1}; {standing}." + (ending if data.probs[best] > 0.9 else "")
    )
