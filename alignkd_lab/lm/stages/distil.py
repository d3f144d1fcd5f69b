"""Distil: the teacher writes, the student learns from it (sequence-level, or the full distribution on its text)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.trainer import adapter_tensors, with_lora

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def distil(world: LmWorld, teacher: Policy, init: Policy, temperature: float, name: str) -> tuple[Policy, dict]:
    """Sequence-level samples of the teacher at `temperature`; the student learns them by KL or by NLL."""
    settings = world.settings
    teacher_model = world.models.of(teacher)
    full = settings.kd_loss == "full"
    samples = world.sample(
        teacher_model, "training", settings.distil_prompts, settings.distil_responses, f"teacher at {temperature}",
        temperature, keep_hidden=full,
    )  # fmt: skip
    # The same temperature serves the samples (sequence level) and the teacher's distribution on them (token level).
    by_prompt = [
        range(i * settings.distil_responses, (i + 1) * settings.distil_responses)
        for i in range(len(samples.prompt_ids))
    ]
    examples = [
        Example(
            prompt,
            [samples.tokens[i] for i in rows],
            signals={"teacher": [{"hidden": samples.hidden[i]} for i in rows]} if full else {},
        )
        for prompt, rows in zip(samples.prompt_ids, by_prompt, strict=True)
    ]

    loss = training_losses.nll
    if full:
        head = teacher_model.lm_head.weight.detach()
        loss = partial(training_losses.kd, teacher_head=head, temperature=temperature)
    model = with_lora(world.models.of(init), settings.lora_rank, world.seed_for("adapter"))
    steps = max(1, settings.distil_passes * len(examples) // settings.distil_batch)
    infos = world.train_adapter(
        model, examples, loss, settings.distil_learning_rate, steps, settings.distil_batch, "distil", name
    )
    world.spent["trained"] += settings.distil_passes * samples.token_count
    info = {"temperature": temperature, "learning_rate": settings.distil_learning_rate,
            "losses": [value for value, _ in infos],
            "responses": len(samples.tokens)}  # fmt: skip
    return init.with_adapter(adapter_tensors(model)), info
