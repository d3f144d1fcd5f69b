"""A policy against the base it came from: how far it went, and whether it ranks pairs that no stage has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.preferences import Pair, informative_pairs
from alignkd_lab.lm.sampling import Samples

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def against_base(
    world: LmWorld, policy: Policy, model, samples: Samples, under_truth: list[Tensor]
) -> dict[str, float | None]:
    """`kl_to_base`, nats a response, from the policy's own `samples`; `reward_accuracy` on held-out pairs.

    The pairs are the base's responses to test prompts. The accuracy is that of DPO's implicit reward, the log-ratio of
    policy and base: the share of pairs whose chosen response has the larger one, a tie counting one half; None where
    the base wrote no pair. `under_truth` are the samples' log-probabilities under the truth, which may be the base.
    """
    base = world.start("base")
    if policy.digest == base.digest:
        return {"kl_to_base": 0.0, "reward_accuracy": 0.5}
    own_truth = base.digest == world.truth.digest
    under_base = under_truth if own_truth else world.score(world.models.of(base), samples)
    kl = sum(float((own - other).sum()) for own, other in zip(samples.log_probs, under_base, strict=True))
    drawn, pairs = world.heldout
    read = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
    scored = world.score(model, drawn.only(read)) if read else []
    ratios = [float((own - drawn.log_probs[i]).sum()) for own, i in zip(scored, read, strict=True)]
    ranked = [(won > lost) + 0.5 * (won == lost) for won, lost in zip(ratios[::2], ratios[1::2], strict=True)]
    return {
        "kl_to_base": kl / len(samples.tokens),
        "reward_accuracy": sum(ranked) / len(ranked) if ranked else None,
    }


def heldout_pairs(world: LmWorld) -> tuple[Samples, list[Pair]]:
    """The base's responses to test prompts, and the informative pairs among them."""
    settings, base = world.settings, world.start("base")
    drawn = world.kept_samples(base, None, "test", settings.test_prompts, settings.heldout_responses, "held-out pairs")
    judged = world.judge.reward(drawn, base, world.yardstick())
    return drawn, informative_pairs(drawn.prompt_of, judged["reward"], world.seed_for("held-out pairs"))
