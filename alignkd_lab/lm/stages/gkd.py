"""On-policy distillation: the student writes, and at each of its tokens learns the teacher's whole distribution.

Agarwal et al. 2024 (GKD). Under the budget of `lm.stages.distil`: as many responses of at most as many tokens, though
here the student writes them, so what the teacher would never write is corrected too.
"""

from __future__ import annotations

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Context, Policy
from alignkd_lab.lm.rollouts import Rollouts
from alignkd_lab.lm.settings import GkdSettings
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 2


def gkd(context: Context, teacher: Policy, init: Policy, settings: GkdSettings, name: str) -> Result:
    """The student learns `teacher` on its own responses to the distillation's prompts, both at temperature 1.

    `info` holds the learning rate, the divergence, the responses, and the loss of each step in nats per token.

    Raises:
        BadInput: teacher and student have vocabularies of different sizes.
    """
    dtype = context.models.dtype
    live = LiveTeacher(context.models.of(teacher), dtype=dtype)
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    seed = context.seed_for("sample", "on policy")
    rollouts = Rollouts(context.tokenizer, 1, settings.max_tokens, seed, dtype)
    # The responses to a prompt are spread over the steps, so that those of a step are to many prompts.
    prompts = [Example(prompt, []) for prompt in context.prompts("training", settings.distil_prompts)]
    batch = min(settings.distil_batch, settings.distil_prompts) * settings.distil_responses
    infos = context.train(
        model,
        prompts * settings.distil_responses,
        training_losses.asking(
            "gkd", lambda batch: {"teacher": live.signal(batch)}, divergence=settings.gkd_divergence
        ),
        learning_rate=settings.distil_learning_rate,
        steps=max(1, settings.distil_passes * settings.distil_prompts // settings.distil_batch),
        batch=batch,
        kind="on policy",
        name=name,
        write=lambda model, prompts, step: rollouts.write(model, prompts, step)[0],
    )
    tokens = sum(len(told.divergence) for _, told in infos)
    info = {
        "learning_rate": settings.distil_learning_rate,
        "divergence": settings.gkd_divergence,
        "responses": len(infos) * batch,
        "losses": [value for value, _ in infos],
    }
    cost = Cost(sampled=tokens, trained=tokens, scored=tokens)  # scored by the teacher
    return Result(init.with_adapter(adapter_tensors(model)), info, cost)
