"""Distil: the teacher writes, the student learns from it (sequence-level, or the full distribution on its text)."""

from __future__ import annotations

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.context import Context, Policy
from alignkd_lab.lm.settings import DistilSettings
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 1


def distil(context: Context, teacher: Policy, init: Policy, settings: DistilSettings, name: str) -> Result:
    """Sequence-level samples of the teacher at `kd_temperature`; the student learns them by KL or by NLL."""
    teacher_model, temperature = context.models.of(teacher), settings.kd_temperature
    full = settings.kd_loss == "full"
    samples = context.sample(
        teacher_model, "training", settings.distil_prompts, settings.distil_responses, settings.max_tokens,
        f"teacher at {temperature}", temperature, keep_hidden=full,
    )  # fmt: skip
    # The same temperature serves the samples (sequence level) and the teacher's distribution on them (token level).
    examples = samples.examples()
    loss = training_losses.nll
    if full:
        carried = training_losses.carried(head_of(teacher_model).detach())
        loss = training_losses.asking("kd", carried, temperature=temperature)
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    infos = context.train(
        model,
        examples,
        loss,
        learning_rate=settings.distil_learning_rate,
        steps=max(1, settings.distil_passes * len(examples) // settings.distil_batch),
        batch=settings.distil_batch,
        kind="distil",
        name=name,
    )
    info = {
        "temperature": temperature,
        "learning_rate": settings.distil_learning_rate,
        "losses": [value for value, _ in infos],
        "responses": len(samples.tokens),
    }
    cost = Cost(sampled=samples.token_count, trained=sum(len(told[0]) for _, told in infos))
    return Result(init.with_adapter(adapter_tensors(model)), info, cost)
