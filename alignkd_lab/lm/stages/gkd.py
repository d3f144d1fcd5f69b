"""On-policy distillation: the student writes, and at each of its tokens learns the teacher's whole distribution.

Agarwal et al. 2024 (GKD), through TRL. Under the budget of `lm.stages.distil`: as many responses of at most as many
tokens, though here the student writes them, so what the teacher would never write is corrected too.
"""

from __future__ import annotations

from functools import partial

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.context import Context, Policy
from alignkd_lab.lm.settings import GkdSettings
from alignkd_lab.lm.stages.trl_run import in_parts, prompt_rows, run_trl
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 1
# TRL's mixture: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher), between them a generalised Jensen-Shannon.
DIVERGENCES = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0}


def gkd(
    context: Context, teacher: Policy, init: Policy, settings: GkdSettings, name: str, micro_batch: int | None = None
) -> Result:
    """The student learns `teacher` on its own responses to the distillation's prompts, both at temperature 1.

    `info` holds the learning rate, the divergence, the responses, and the loss of each step in nats per token.

    Raises:
        BadInput: teacher and student have vocabularies of different sizes.
    """
    batch = min(settings.distil_batch, settings.distil_prompts) * settings.distil_responses
    if micro_batch is None:
        return in_parts(partial(gkd, context, teacher, init, settings, name), name, batch)
    teacher_model, student = context.models.of(teacher).requires_grad_(False), context.models.of(init)
    if teacher_model.config.vocab_size != student.config.vocab_size:
        raise BadInput(
            f"teacher: its vocabulary has {teacher_model.config.vocab_size} tokens and the student's "
            f"{student.config.vocab_size}; distributions over tokens can only be compared within one vocabulary"
        )
    model = with_lora(student, settings.lora_rank, context.seed_for("adapter"))

    def build(arguments: dict):
        from trl import DistillationConfig, DistillationTrainer

        return DistillationTrainer(
            model,
            teacher_model,
            DistillationConfig(beta=DIVERGENCES[settings.gkd_divergence], **arguments),
            # TRL draws one response to a row.
            train_dataset=prompt_rows(
                context.prompt_texts("training", settings.distil_prompts), settings.distil_responses
            ),
            processing_class=context.tokenizer,
        )

    logs = run_trl(
        context,
        build,
        model,
        name,
        "on policy",
        max_tokens=settings.max_tokens,
        learning_rate=settings.distil_learning_rate,
        steps=max(1, settings.distil_passes * settings.distil_prompts // settings.distil_batch),
        batch=batch,
        micro_batch=micro_batch,
    )
    tokens = sum(round(log["completions/mean_length"] * batch) for log in logs)
    info = {
        "learning_rate": settings.distil_learning_rate,
        "divergence": settings.gkd_divergence,
        "responses": len(logs) * batch,
        "losses": [log["loss"] for log in logs],
    }
    cost = Cost(sampled=tokens, trained=tokens, scored=tokens)  # scored by the teacher
    return Result(init.with_adapter(adapter_tensors(model)), info, cost)
