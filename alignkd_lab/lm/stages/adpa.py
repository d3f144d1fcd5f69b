"""Distil with preferences: DCKD and ADPA carry an aligned teacher's preferences into the student in one stage.

A step trains on as many responses as a step of distillation, and there are `share` times as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example, token_counts
from alignkd_lab.lm.context import Context, Policy, Reward
from alignkd_lab.lm.preferences import Pair, draw_preferences, pair_examples
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.settings import AdpaSettings, DckdSettings
from alignkd_lab.lm.teacher_cache import CachedTeacher, cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher, share_head
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result
from alignkd_lab.store import scratch_folder

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 1
TEACHERS = {"dckd": ("teacher",), "adpa": ("teacher", "reference")}  # that a method asks


def preference_distil(
    context: Context,
    reward: Reward,
    teachers: dict[str, Policy],
    init: Policy,
    sampler: Policy,
    settings: DckdSettings | AdpaSettings,
    name: str,
) -> Result:
    """DCKD or ADPA, as the settings are, on the sampler's pairs; ADPA reads what `init` writes beforehand, too.

    `teachers` are the `teacher` and, for ADPA, the `reference`.
    """
    drawn = draw_preferences(context, reward, sampler, settings)
    info, cost = {**drawn.counts, "learning_rate": settings.distil_learning_rate}, drawn.cost
    if not drawn.pairs:
        return Result(init, info, cost)
    if isinstance(settings, DckdSettings):
        read, examples = ("chosen", "rejected"), pair_examples(drawn.samples, drawn.pairs)
        loss = partial(training_losses.dckd, alpha=settings.alpha)
    else:
        written = context.sample(
            context.models.of(init), "training", settings.preference_prompts, settings.student_responses,
            settings.max_tokens, "student responses",
        )  # fmt: skip
        cost += Cost(sampled=written.token_count)
        read, examples = ("sampled",), student_examples(drawn.samples, drawn.pairs, written)
        end_token = context.tokenizer.eos_token_id if settings.adpa_form == "released" else None
        loss = partial(training_losses.adpa, gamma=settings.gamma, end_token=end_token)
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    responses = settings.distil_batch * settings.distil_responses
    batch = max(1, round(responses / len(examples[0].responses)))
    steps = max(1, round(settings.share * settings.distil_passes * settings.distil_prompts / settings.distil_batch))
    infos = train_with_teachers(
        context, teachers, read, model, examples, loss, learning_rate=settings.distil_learning_rate, steps=steps,
        batch=batch, kind="preference_distil", name=name,
    )  # fmt: skip
    info["losses"] = [value for value, _ in infos]
    if "sampled" in read:
        info["expected_advantage"] = [float(diagnostics.expected_advantage.mean()) for _, diagnostics in infos]
    trained = sum(len(told.log_probs) + len(getattr(told, "expected_advantage", ())) for _, told in infos)
    tokens = token_counts(examples)
    cost += Cost(trained=trained, scored=len(teachers) * sum(tokens[role] for role in read))
    return Result(init.with_adapter(adapter_tensors(model)), info, cost)


def train_with_teachers(
    context: Context, teachers: dict[str, Policy], read: tuple[str, ...], model, examples: list[Example],
    loss: Callable, **training: Any,
) -> list:  # fmt: skip
    """`Context.train` on a loss that also takes, by its role, what a teacher says of responses of roles `read`."""
    with scratch_folder(context.store.root, "teachers-") as folder:
        kept: dict[str, CachedTeacher] = {}
        for role, policy in teachers.items():
            teacher = LiveTeacher(context.models.of(policy), dtype=context.models.dtype, digest=policy.digest)
            kept[role] = cache_teacher(teacher, examples, folder, role, roles=read, quiet=True)
        if len(kept) == 2:
            share_head(*kept.values())

        def asked(model, batch: dict, items: dict):
            return loss(model, batch, items, **{role: cached.signal(batch) for role, cached in kept.items()})

        return context.train(model, examples, asked, **training)


def student_examples(samples: Samples, pairs: list[Pair], written: Samples) -> list[Example]:
    """The chosen response, and what the initial student wrote to the same prompt, once and for all, for ADPA."""
    answers = [[written.tokens[at] for at in rows] for rows in written.by_prompt()]
    return [
        Example(
            samples.prompt_ids[pair.prompt],
            [samples.tokens[pair.chosen], *answers[pair.prompt]],
            ["chosen", *["sampled"] * len(answers[pair.prompt])],
        )
        for pair in pairs
    ]
