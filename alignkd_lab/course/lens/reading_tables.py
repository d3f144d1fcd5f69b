"""Tables of readings: where the largest advantages lie, what ADPA pushes, what its published code keeps."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from alignkd_lab.course.lens.readings import Reading, in_words, with_space
from alignkd_lab.lm.teachers import released_advantage

LIKELY = 10  # a token below this place in a model's order is not likely


def largest_advantages(readings: Mapping[str, Reading]) -> pd.DataFrame:
    """One row a reading: at how many positions the token of the largest advantage is none of the DPO teacher's ten
    likeliest, and its median and worst place in the DPO teacher's order.
    """
    rows = []
    for reading in readings.values():
        places = _places(reading.log_probs["dpo"], reading.adpa.largest_token)
        rows.append([len(places), int((places > LIKELY).sum()), int(places.median()), int(places.max())])
    columns = ["positions", "not among the ten likeliest", "median place", "worst place"]
    return pd.DataFrame(rows, index=list(readings), columns=columns)


def pushes(reading: Reading, position: int, tokenizer, count: int = 5) -> pd.DataFrame:
    """The tokens of the largest advantage before a position (from 0), and those that ADPA pushes most, up and down.

    A push is pi (A - E_pi[A]), minus the gradient by a logit for gamma / N = 1.
    """
    a = reading.advantages[position]
    pushed = _push(reading, reading.advantages)[position]
    best, up, down = a.topk(count).indices, pushed.topk(count), (-pushed).topk(count)
    return pd.DataFrame(
        {
            "largest advantage": _words(tokenizer, best),
            "pushed up most": _words(tokenizer, up.indices),
            "by": up.values.numpy(),
            "pushed down most": _words(tokenizer, down.indices),
            "by ": down.values.numpy(),
        }
    )


def against_release(reading: Reading) -> pd.DataFrame:
    """The advantage as the paper's formula and as its published code have it, side by side: means over positions."""
    formula = reading.advantages
    released = released_advantage(reading.dpo, reading.reference, slice(None))
    found = {}
    for name, a in (("formula", formula), ("as released", released)):
        found[name] = {
            "tokens with an advantage above 0": float((a > 0).sum(1).float().mean()),
            "tokens with an advantage below 0": float((a < 0).sum(1).float().mean()),
            "mean advantage under the student (nats)": float((_student(reading) * a).sum(1).mean()),
            "median place of the best token, DPO teacher": float(
                _places(reading.log_probs["dpo"], a.argmax(1)).median()
            ),
            "cosine of its gradient with the formula's": float(
                torch.cosine_similarity(_push(reading, a), _push(reading, formula), dim=1).median()
            ),
        }
    return pd.DataFrame(found)


def _push(reading: Reading, a: Tensor) -> Tensor:
    pi = _student(reading)
    return pi * (a - (pi * a).sum(1, keepdim=True))


def _student(reading: Reading) -> Tensor:
    return reading.log_probs["student"].exp()


def _places(scores: Tensor, tokens: Tensor) -> Tensor:
    """The place of a token in each row's order, 1 for the largest. scores [N, V], tokens [N] -> [N]."""
    return 1 + (scores > scores.gather(1, tokens[:, None])).sum(1)


def _words(tokenizer, tokens: Tensor) -> list[str]:
    return [with_space(in_words(tokenizer, token)) for token in tokens.tolist()]
