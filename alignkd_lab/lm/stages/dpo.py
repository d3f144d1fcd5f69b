"""Align: sample, score, pair, and train by DPO against the reference."""

from __future__ import annotations

from functools import partial

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.context import Context, Policy, Reward
from alignkd_lab.lm.preferences import draw_preferences, pair_examples
from alignkd_lab.lm.settings import DpoSettings
from alignkd_lab.lm.stages.curve import Curve
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 1


def dpo(
    context: Context,
    reward: Reward,
    init: Policy,
    reference: Policy,
    sampler: Policy,
    settings: DpoSettings,
    learning_rate: float,
    name: str,
) -> Result:
    """DPO from `init` on pairs of the sampler's responses, with the KL taken to `reference`."""
    samples, earned, pairs, counts, cost = draw_preferences(context, reward, sampler, settings)
    info = {
        **counts,
        "responses": len(samples.tokens),
        "target_responses": sum(earned.hits),
        "learning_rate": learning_rate,
        "curve": [],
    }
    if not pairs:  # nothing to learn from: the policy stays as it is, which is the sampling trap itself
        return Result(init, info, cost)
    reference_model = context.models.of(reference)
    in_pairs = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
    if reference.digest == sampler.digest:  # the sampler's log-probabilities were kept while it wrote
        under_reference = [float(samples.log_probs[index].sum()) for index in in_pairs]
    else:
        read = samples.only(in_pairs)
        under_reference = [float(tokens.sum()) for tokens in context.score(reference_model, read)]
        cost += Cost(scored=read.token_count)
    examples = pair_examples(samples, pairs)
    for index, example in enumerate(examples):
        example.reference_log_probs = under_reference[2 * index : 2 * index + 2]
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    curve = Curve(context, reward, model, reference_model, settings, settings.align_steps, name)
    curve.on_step(0)
    infos = context.train(
        model,
        examples,
        partial(training_losses.dpo, beta=settings.beta),
        learning_rate=learning_rate,
        steps=settings.align_steps,
        batch=settings.align_batch,
        kind="align",
        name=name,
        on_step=curve.on_step,
    )
    trained = sum(len(diagnostics.log_probs) for _, diagnostics in infos)
    info |= {
        "curve": curve.points,
        "losses": [value for value, _ in infos],
        "accuracy": [float(diagnostics.accuracy.mean()) for _, diagnostics in infos],
    }
    return Result(init.with_adapter(adapter_tensors(model)), info, cost + curve.cost + Cost(trained=trained))
