"""One state, four tokens: where ADPA ends, on paper. `toy.walk` goes there by the package's own loss.

At one state ADPA maximises gamma E_pi[A]. That is linear in pi, so that alone its optimum is a corner: all mass
on the token of the largest log-ratio, however rare both teachers find it. Each regulariser moves the optimum inside:

    entropy, weight w    pi ~ exp(gamma A / w): the teachers' own frequencies are forgotten
    KL, weight w         pi ~ pi_ref exp(gamma A / w): at w = gamma the DPO teacher itself
    NLL, weight w        pi = w p / (c - gamma A), p the chosen tokens' shares, c such that it sums to 1

The last follows from the gradient by the logits, w (pi - p) - gamma pi (A - E_pi[A]) = 0, with
c = w + gamma E_pi[A]. It tilts like 1 / (c - gamma A) where the KL tilts exponentially, and that is a weak regulariser:
a token of vanishing share runs away from gamma = w sum_a p(a) / (A_max - A(a)) on (`runaway_gamma`), however rare it
is, where under the KL it has to make up for log(1 / share) first, as in the recall threshold. Above, the other
tokens keep shares of the order of 1 / gamma.

The way there is long: by gradient descent pi first goes to the common token of the largest gain, and only after
thousands of such times to the corner, since a rare token's logit hardly moves. Adam moves every logit alike, and is
there in a hundredth of the steps. Nothing of this is in the paper.
"""

from __future__ import annotations

import torch
from scipy.optimize import brentq
from torch import Tensor

from alignkd_lab.errors import UnknownName, check_number

# Token 4 is rare in both teachers, and has the largest ratio by far.
REFERENCE = (0.6, 0.3, 0.099, 0.001)
DPO = (0.5, 0.4, 0.09, 0.01)
REGULARISERS = ("none", "entropy", "kl", "nll")


def advantage() -> Tensor:
    """A = log pi_dpo - log pi_ref of each token, nats, float64 [token]."""
    dpo, reference = (torch.tensor(probs, dtype=torch.float64).log() for probs in (DPO, REFERENCE))
    return dpo - reference


def optimum(gamma: float, regulariser: str = "none", weight: float = 1.0) -> Tensor:
    """Where ADPA ends at this state under one of `REGULARISERS`, as probabilities [token].

    The NLL term's chosen tokens come as often as the reference has them. gamma and weight are above 0.
    """
    check_number("gamma", gamma, above=0)
    check_number("weight", weight, above=0)
    if regulariser not in REGULARISERS:
        raise UnknownName("regulariser", regulariser, REGULARISERS)
    tilt, shares = gamma * advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    if regulariser == "none":
        return (tilt == tilt.max()).double()
    if regulariser == "nll":
        # The sum falls as c grows: it is above 1 just above the largest tilt, and at most 1 at the upper end.
        low, high = (float(tilt.max()) + weight * end for end in (0.5 * REFERENCE[-1], 1.0))
        c = brentq(lambda c: float((weight * shares / (c - tilt)).sum()) - 1, low, high, xtol=1e-14)
        return weight * shares / (c - tilt)
    prior = shares.log() if regulariser == "kl" else 0.0
    return torch.softmax(prior + tilt / weight, 0)


def runaway_gamma(weight: float = 1.0) -> float:
    """From which gamma on the NLL term no longer holds the token of the largest A: w sum_a p(a) / (A_max - A(a)).

    The sum runs over the other tokens, p are their shares. Exact where the token was never chosen; where it is rare,
    its share grows by orders of magnitude around here.
    """
    ratio, shares = advantage(), torch.tensor(REFERENCE, dtype=torch.float64)
    others = ratio < ratio.max()
    return weight * float((shares[others] / shares[others].sum() / (ratio.max() - ratio[others])).sum())
