"""Distil with preferences: DCKD and ADPA carry an aligned teacher's preferences into the student in one stage."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.preferences import Pair
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.stages.dpo import pair_counts, sampled_pairs
from alignkd_lab.lm.teacher_cache import CachedTeacher, cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher, share_head
from alignkd_lab.lm.trainer import adapter_tensors, with_lora

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def preference_distil(
    world: LmWorld,
    teacher: Policy,
    reference: Policy,
    init: Policy,
    sampler: Policy,
    method: str,
    share: float,
    name: str,
) -> tuple[Policy, dict]:
    """One stage of `dckd` or `adpa` on the sampler's pairs; ADPA also on responses that `init` writes beforehand.

    A step trains on as many responses as a step of distillation, and there are `share` times as many steps.
    """
    settings = world.settings
    samples, judged, pairs = sampled_pairs(world, sampler, world.models.of(sampler))
    info = {**pair_counts(world, judged, pairs), "learning_rate": settings.distil_learning_rate}
    if not pairs:
        return init, info
    adpa = method == "adpa"
    examples = student_examples(world, init, samples, pairs) if adpa else pair_examples(samples, pairs)
    named = {"teacher": teacher, **({"reference": reference} if adpa else {})}
    read = ("sampled",) if adpa else ("chosen", "rejected")
    model = with_lora(world.models.of(init), settings.lora_rank, world.seed_for("adapter"))
    responses = settings.distil_batch * settings.distil_responses
    batch = max(1, round(responses / len(examples[0].responses)))
    steps = max(1, round(share * settings.distil_passes * settings.distil_prompts / settings.distil_batch))
    world.store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=world.store.root, prefix="teachers-") as folder:
        teachers = {
            role: _read_once(world, policy, examples, Path(folder) / role, read) for role, policy in named.items()
        }
        if adpa:
            share_head(*teachers.values())
        for role, kept in teachers.items():
            kept.attach(examples, role)

        def loss(model, batch, items):
            said = {role: kept.signal(batch, role) for role, kept in teachers.items()}
            if adpa:
                return training_losses.adpa(model, batch, items, **said, gamma=settings.gamma)
            return training_losses.dckd(model, batch, items, **said, alpha=settings.alpha)

        rate = settings.distil_learning_rate
        infos = world.train_adapter(model, examples, loss, rate, steps, batch, "preference_distil", name)
    tokens = sum(len(response) for example in examples for response in example.responses)
    world.spent["trained"] += round(steps * min(batch, len(examples)) * tokens / len(examples))
    info["losses"] = [value for value, _ in infos]
    if adpa:
        info["expected_advantage"] = [float(said.expected_advantage.mean()) for _, said in infos]
    return init.with_adapter(adapter_tensors(model)), info


def _read_once(world: LmWorld, policy: Policy, examples: list[Example], folder: Path, roles: tuple) -> CachedTeacher:
    """What a teacher says of the responses of these roles, asked once for all steps."""
    world.spent["scored"] += sum(
        len(tokens)
        for example in examples
        for tokens, role in zip(example.responses, example.roles, strict=True)
        if role in roles
    )
    teacher = LiveTeacher(world.models.of(policy), digest=policy.digest)
    return cache_teacher(teacher, examples, folder, roles=roles, progress=lambda count: None)


def pair_examples(samples: Samples, pairs: list[Pair]) -> list[Example]:
    """Chosen and rejected responses, for DCKD."""
    return [
        Example(
            samples.prompt_ids[pair.prompt],
            [samples.tokens[pair.chosen], samples.tokens[pair.rejected]],
            ["chosen", "rejected"],
        )
        for pair in pairs
    ]


def student_examples(world: LmWorld, init: Policy, samples: Samples, pairs: list[Pair]) -> list[Example]:
    """The chosen response, and what the initial student wrote to the same prompt, once and for all, for ADPA."""
    settings = world.settings
    written = world.sample(
        world.models.of(init), "training", settings.preference_prompts, settings.student_responses, "student responses"
    )
    answers: dict[int, list[list[int]]] = {}
    for prompt, tokens in zip(written.prompt_of, written.tokens, strict=True):
        answers.setdefault(prompt, []).append(tokens)
    return [
        Example(
            samples.prompt_ids[pair.prompt],
            [samples.tokens[pair.chosen], *answers[pair.prompt]],
            ["chosen", *["sampled"] * settings.student_responses],
        )
        for pair in pairs
    ]
