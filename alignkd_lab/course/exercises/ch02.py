"""Solutions and data of notebook 02."""

from __future__ import annotations

import functools

import torch


def rare_weight() -> float:
    weights, s = [0.33, 0.33, 0.30, 0.04], 2
    powers = [weight**s for weight in weights]
    return powers[-1] / sum(powers)


def ring_to_rescore() -> dict:
    """The set-up of KD-MWE, seed 15: the models, the draws that they were fitted to, and fresh draws of each."""
    from alignkd_lab.mog.ring import run_ring

    ring = run_ring((15,))
    return {
        "truth": ring.truth,
        "teacher": ring.teacher,
        "direct": ring.direct,
        "distilled": ring.distilled,
        "training_draws": ring.training_draws,
        "truth_draws": ring.fresh_draws,
        "direct_draws": ring.own_draws["direct"],
        "distilled_draws": ring.own_draws["distilled"],
    }


def rescored_precision(data: dict) -> tuple[float, ...]:
    truth = data["truth"]
    return tuple(truth.log_prob(data[f"{student}_draws"]).mean().item() for student in ("direct", "distilled"))


@functools.cache  # a page asks it eight times when a learner answers
def eight_components() -> str:
    from alignkd_lab.mog.ring import RingSettings, run_ring
    from alignkd_lab.stats import paired_difference

    scores = run_ring(range(20), RingSettings(student_components=8, sharpening=100.0)).scores["true"]
    signs = []
    for metric in ("precision", "recall"):
        _, low, high = paired_difference(scores["distilled"][metric], scores["direct"][metric])
        signs.append("rises" if low > 0 else "falls" if high < 0 else "stays")
    return f"precision {signs[0]}, recall {signs[1]}"


def shared_points() -> list[tuple]:
    """Points [B, 2], and the share [B, K] of each that a component owns."""
    noise = torch.Generator().manual_seed(2)

    def call(count: int, components: int) -> tuple:
        data = 1 + 2 * torch.randn(count, 2, generator=noise, dtype=torch.float64)
        return data, (2 * torch.randn(count, components, generator=noise, dtype=torch.float64)).softmax(-1)

    return [call(40, 3), call(30, 4)]


def as_weights(found) -> tuple:
    """A mixture with its logits up to a constant, as its weights have them."""
    return (torch.as_tensor(found[0]).log_softmax(-1), *found[1:])
