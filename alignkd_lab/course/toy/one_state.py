"""One state, a handful of tokens: where ADPA ends, on paper. `toy.walk` goes there by the package's own loss.

At one state ADPA maximises gamma E_pi[A]. That is linear in pi, so that alone its optimum is a corner: all mass
on the token of the largest log-ratio, however rare both teachers find it. Each regulariser moves the optimum inside:

    entropy, weight w    pi ~ exp(gamma A / w): the teachers' own frequencies are forgotten
    KL, weight w         pi ~ pi_ref exp(gamma A / w): at w = gamma the DPO teacher itself
    NLL, weight w        pi = w p / (c - gamma A), p the chosen tokens' shares, c such that it sums to 1

The last follows from the gradient by the logits, w (pi - p) - gamma pi (A - E_pi[A]) = 0, with
c = w + gamma E_pi[A]. It tilts like 1 / (c - gamma A) where the KL tilts exponentially, and that is a weak regulariser:
a token of vanishing share runs away from gamma = w sum_a p(a) / (A_max - A(a)) on (`runaway_gamma`), however rare it
is, where under the KL it has to make up for log(1 / share) first, as in the recall threshold. Above, the other
tokens keep shares of the order of 1 / gamma. Clipping and a scale on A change A alone, and leave the corner.

The way there is long: by gradient descent pi first goes to the common token of the largest gain, and only after
thousands of such times to the corner, since a rare token's logit hardly moves. Adam moves every logit alike, and is
there in a hundredth of the steps. Nothing of this is in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignkd_lab.course.toy.sweep import Regulariser
from alignkd_lab.errors import BadInput

# Token 4 is rare in both teachers, and has the largest ratio by far.
REFERENCE = (0.6, 0.3, 0.099, 0.001)
DPO = (0.5, 0.4, 0.09, 0.01)
FREE = Regulariser(nll_weight=0.0)
OPTIMISERS = {"adam": torch.optim.Adam, "gradient": torch.optim.SGD}
_BISECTIONS = 200


def advantage(reference: Sequence[float] = REFERENCE, dpo: Sequence[float] = DPO) -> Tensor:
    """A = log pi_dpo - log pi_ref of each token, nats, float64 [token]."""
    teachers = [torch.as_tensor(probs, dtype=torch.float64) for probs in (dpo, reference)]
    for name, probs in zip(("dpo", "reference"), teachers, strict=True):
        if not ((probs > 0).all() and abs(float(probs.sum()) - 1) < 1e-6):
            raise BadInput(f"{name} must be probabilities above 0 that sum to 1, not {probs.tolist()}")
    return teachers[0].log() - teachers[1].log()


def optimum(
    gamma: float,
    regulariser: Regulariser = FREE,
    reference: Sequence[float] = REFERENCE,
    dpo: Sequence[float] = DPO,
    chosen: Sequence[int] | None = None,
) -> Tensor:
    """Where ADPA ends at this state, as probabilities [token].

    `chosen` counts the tokens of the NLL term; the reference's shares unless given.

    Raises:
        BadInput: the NLL term together with entropy or KL: no closed form here.
    """
    if regulariser.nll_weight and regulariser.weight:
        raise BadInput("one_state.optimum knows the NLL term, the entropy or the KL, one at a time")
    start = torch.as_tensor(reference, dtype=torch.float64)
    tilt = gamma * _used(advantage(reference, dpo), regulariser, start)
    if regulariser.nll_weight:
        return _nll_optimum(tilt, regulariser.nll_weight, _shares(reference, chosen))
    if not regulariser.weight:
        best = (tilt == tilt.max()).double()
        return best / best.sum()
    prior = start.log() if regulariser.kind == "kl" else torch.zeros_like(tilt)
    return torch.softmax(prior + tilt / regulariser.weight, 0)


def runaway_gamma(
    reference: Sequence[float] = REFERENCE,
    dpo: Sequence[float] = DPO,
    chosen: Sequence[float] | None = None,
    nll_weight: float = 1.0,
) -> float:
    """From which gamma on the NLL term no longer holds the token of the largest A: w sum_a p(a) / (A_max - A(a)).

    The sum runs over the other tokens, p are their shares among the chosen. Exact where the token was never chosen;
    where it is rare, its share grows by orders of magnitude around here.
    """
    ratio, shares = advantage(reference, dpo), _shares(reference, chosen)
    others = ratio < ratio.max()
    return nll_weight * float((shares[others] / shares[others].sum() / (ratio.max() - ratio[others])).sum())


def _used(ratio: Tensor, regulariser: Regulariser, reference: Tensor) -> Tensor:
    """A as the loss uses it: on one scale, then clipped, where the regulariser says so."""
    if regulariser.normalise:
        ratio = ratio / (reference @ (ratio - reference @ ratio) ** 2).sqrt().clamp_min(1e-4)
    return ratio if regulariser.clip is None else ratio.clamp(-regulariser.clip, regulariser.clip)


def _shares(reference: Sequence[float], chosen: Sequence[int] | None) -> Tensor:
    weights = torch.as_tensor(reference if chosen is None else chosen, dtype=torch.float64)
    return weights / weights.sum()


def _nll_optimum(tilt: Tensor, weight: float, shares: Tensor) -> Tensor:
    """weight * shares / (c - tilt), with c by bisection: the sum falls as c grows, and is at most 1 at the upper end.

    A best token that was never chosen has share 0, and nothing holds it: what the others leave is its own.
    """

    def held(c: Tensor) -> Tensor:
        return torch.where(shares > 0, weight * shares / (c - tilt), 0.0)

    low, high = tilt.max(), tilt.max() + weight
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle).sum() > 1 else (low, middle)
    best = ((tilt == tilt.max()) & (shares == 0)).double()
    probs = held(high)
    return probs + best * (1 - probs.sum()) / best.sum().clamp_min(1)
