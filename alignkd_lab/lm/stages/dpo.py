"""Align: sample, score, pair, and train by DPO against the reference."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.preferences import Pair, informative_pairs, mislabelled
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.progress import tell

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def sampled_pairs(world: LmWorld, sampler: Policy, model) -> tuple[Samples, dict[str, list], list[Pair]]:
    """Responses of the sampler to training prompts, what they earned, and the informative pairs among them.

    Some pairs are mislabelled where the settings say so (`dpo_label_noise`).
    """
    settings, sampled = world.settings, world.spent["sampled"]
    samples = world.kept_samples(
        sampler, model, "training", settings.preference_prompts, settings.preference_responses, "preferences"
    )
    # A cost of this stage, also where another one drew them.
    world.spent["sampled"] = sampled + samples.token_count
    judged = world.judge.reward(samples, sampler, world.yardstick())
    pairs = informative_pairs(samples.prompt_of, judged["reward"], world.seed_for("pairs"))
    return samples, judged, mislabelled(pairs, settings.dpo_label_noise, world.seed_for("labels"))


def pair_counts(world: LmWorld, judged: dict[str, list], pairs: list[Pair]) -> dict[str, int]:
    """How many pairs there are, and where labels are noisy how many of them are wrong."""
    counts, rewards = {"informative_pairs": len(pairs)}, judged["reward"]
    if world.settings.dpo_label_noise:
        counts["flipped_pairs"] = sum(rewards[pair.chosen] < rewards[pair.rejected] for pair in pairs)
    return counts


def align(
    world: LmWorld, init: Policy, reference: Policy, sampler: Policy, rate: float, name: str, steps: int | None = None
) -> tuple[Policy, dict]:
    """DPO on pairs of the sampler's responses, anchored to `reference`, for `align_steps` steps unless given."""
    settings, stick = world.settings, world.yardstick()
    steps = steps or settings.align_steps
    sampler_model = world.models.of(sampler)
    samples, judged, pairs = sampled_pairs(world, sampler, sampler_model)
    world.seconds_before += samples.seconds_before
    info = {
        **pair_counts(world, judged, pairs),
        "responses": len(samples.tokens),
        "target_responses": sum(judged["hits"]),
        "learning_rate": rate,
        "curve": [],
    }
    if not pairs:  # nothing to learn from: the policy stays as it is, which is the sampling trap itself
        return init, info
    reference_model = sampler_model if reference.digest == sampler.digest else world.models.of(reference)
    chosen = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
    if reference.digest == sampler.digest:  # the sampler's log-probabilities were kept while it wrote
        under_reference = [float(samples.log_probs[index].sum()) for index in chosen]
    else:
        under_reference = [float(tokens.sum()) for tokens in world.score(reference_model, samples.only(chosen))]
    examples = [
        Example(
            samples.prompt_ids[pair.prompt],
            [samples.tokens[pair.chosen], samples.tokens[pair.rejected]],
            ["chosen", "rejected"],
            reference_log_probs=under_reference[2 * index : 2 * index + 2],
        )
        for index, pair in enumerate(pairs)
    ]

    loss = partial(training_losses.dpo, beta=settings.beta)
    model = with_lora(world.models.of(init), settings.lora_rank, world.seed_for("adapter"))
    marks = {round(steps * (i + 1) / settings.curve_points) for i in range(settings.curve_points)}

    def on_step(step: int) -> None:
        if step in marks or step == 0:
            info["curve"].append(curve_point(world, step, model, reference, reference_model, stick))
            tell("curve", stage=name, **info["curve"][-1])

    on_step(0)
    infos = world.train_adapter(model, examples, loss, rate, steps, settings.align_batch, "align", name, on_step)
    info["losses"] = [value for value, _ in infos]
    info["accuracy"] = [float(diagnostics.accuracy) for _, diagnostics in infos]
    mean_pair = sum(len(samples.tokens[i]) for i in chosen) / len(pairs)
    world.spent["trained"] += round(steps * min(settings.align_batch, len(pairs)) * mean_pair)
    return init.with_adapter(adapter_tensors(model)), info


@torch.no_grad()
def curve_point(world: LmWorld, step: int, model, reference: Policy, reference_model, stick) -> dict:
    """Reward on validation prompts, and KL from the reference in nats a response, of a model in training."""
    was_training = model.training
    model.eval().merge_adapter()
    samples = world.sample(
        model.get_base_model(), "validation", None, world.settings.validation_responses, f"step {step}"
    )
    model.unmerge_adapter()
    model.train(was_training)
    judged, anchored = world.judge.reward(samples, None, stick), world.score(reference_model, samples)
    gaps = [float((own - other).sum()) for own, other in zip(samples.log_probs, anchored, strict=True)]
    count = len(gaps)
    return {
        "step": step,
        "reward": sum(judged["reward"]) / count,
        "target_rate": sum(judged["hits"]) / count,
        "kl": sum(gaps) / count,
    }
