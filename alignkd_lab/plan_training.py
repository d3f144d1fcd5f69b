"""What `alignkd train` would cost: the very texts are counted, the models are known by their configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from alignkd_lab.clock import Clock, Machine, Rates
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm.rewards import model_of
from alignkd_lab.lm.saved import can_be_base
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.shapes import adapter_size, config_of, is_here, parameters
from alignkd_lab.options import PAIR, Options, training_arguments
from alignkd_lab.training import texts_of

AT_ONCE = 192  # responses that are written at once (`lm.sampling.sample`)


def plan_train(options: Options, given: dict, rates: Rates | None = None, written: int | None = None) -> dict[str, Any]:
    """Of what `options.read_options` gives: stages with tokens and seconds; time, memory and disk in sum.

    Seconds are measured for the training's own sizes, or estimated by `rates`. A student writes `written` tokens, or as
    many as it may, or beside pairs as many as it is to learn.

    Raises:
        BadInput: an engine that is not ours.
        CannotContinue: a tokenizer that is not on this machine.
    """
    if options.engine == "vllm":
        raise BadInput("engine: vLLM's speed is not measured here; leave it out of the plan")
    for name, source in options.sources.items():
        if not is_here(source):
            raise CannotContinue(f"plan: texts are counted by its tokenizer, and the {name} {source} is not here yet")
    arguments = training_arguments(given, Path(options.out), options.is_measured)
    _, texts, answered = texts_of(options, arguments.seed)
    lengths = {"prompt": [len(row.prompt) for row in texts.training]}
    lengths["sampled"] = [min(written or texts.max_tokens, texts.max_tokens)] * len(texts.training)
    if not options.kind.on_policy:
        lengths |= {role: [len(row.responses[at]) for row in texts.training] for at, role in enumerate(PAIR)}
        lengths["sampled"] = lengths["sampled"] if written else lengths["chosen"]
    prompt, response = (max(2, round(mean(lengths[part]))) for part in ("prompt", "sampled"))
    speed = rates or Machine(arguments.device.type, options.dtype, prompt, response, full=options.full,
                             checkpointing=arguments.gradient_checkpointing)  # fmt: skip
    clock, heldout = Clock(speed, options.dtype), len(texts.heldout)
    asked = heldout if options.kind.on_policy else len(answered)
    parts = {"": options}
    if options.method == "adpa_plus":
        parts = {"dckd: ": replace(options, method="dckd", reference=None), "adpa: ": replace(options, method="adpa")}
    memory = most = left = 0.0
    for name, part in parts.items():
        training = _Training(name, part, arguments, clock, lengths)
        cached = training.charge(heldout, asked)
        stays = training.model_bytes + (cached if options.cache_teachers else 0)
        most, left = max(most, left + training.model_bytes + 12 * training.learnt + cached), left + stays
        memory = max(memory, training.memory())
    clock.start(sum(training.sizes) + training.base)
    sources = {*options.sources.values(), model_of(options.reward or "")} - {""}
    return clock.plan("train", clock.seconds, memory, most, left, sources, steps=training.steps,
                      response_tokens=response)  # fmt: skip


class _Training:
    """Charges a clock for one training, whose stages it names.

    `lengths` are tokens of each prompt and of each role's response to it; `of` are the roles of an example's responses,
    `written` those that the student writes; `learnt` are the numbers that are trained.
    """

    def __init__(self, name: str, options: Options, arguments, clock: Clock, lengths: dict[str, list[int]]) -> None:
        self.name, self.options, self.arguments, self.clock = name, options, arguments, clock
        self.lengths, self.count, self.method = lengths, len(lengths["prompt"]), options.kind
        self.student, *self.others = map(config_of, options.sources.values())
        self.sizes = [parameters(config) for config in (self.student, *self.others)]
        whole = base_of_student(options.student)  # which a healed student is cut out of
        self.base = parameters(config_of(whole)) if whole != options.student else 0
        self.learnt = self.sizes[0]
        if not options.full:
            self.learnt = adapter_size(self.student, options.lora_rank, options.lora_targets)
        saved = self.sizes[0] if options.merge or not can_be_base(options.student) else self.learnt
        self.model_bytes = 12 * self.learnt + 4 * saved  # with a checkpoint that holds AdamW's two moments
        self.batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        self.micro = min(options.micro_batch or arguments.per_device_train_batch_size, self.count)
        self.epoch = math.ceil(self.count / self.batch)
        self.steps = arguments.max_steps
        if self.steps <= 0:
            self.steps = math.ceil(arguments.num_train_epochs * self.epoch)
        self.written = ["sampled"] * options.responses
        self.of = [role for role in self.method.roles if role in PAIR]
        self.of += self.written if "sampled" in self.method.roles or self.method.on_policy else []
        widths = [sum(row) for row in zip(*(lengths[role] for role in ("prompt", *self.of)), strict=True)]
        parts = [widths[start : start + self.micro] for start in range(0, self.count, self.micro)]
        # By how much the longest of a micro-batch, to which the others are filled up, exceeds their mean.
        self.fill = sum(len(part) * max(part) for part in parts) / sum(widths)

    def tokens(self, of: Sequence[str]) -> float:
        """Of an example's responses of these roles, on average."""
        return sum(mean(self.lengths[role]) for role in of)

    def add(
        self, stage: str, kind: str, config, examples: int, of: Sequence[str], heads: int = 0, at_once: int = AT_ONCE
    ) -> None:
        read = mean(self.lengths["prompt"]) + self.tokens(of)
        read *= 1 if kind == "sampled" else self.fill
        self.clock.add(self.name + stage, kind, config, examples * self.tokens(of), examples * read, at_once, heads)

    def charge(self, heldout: int, asked: int) -> float:
        """All of it, with so many held-out pairs and prompts that are answered; bytes of what teachers say."""
        arguments, student, live = self.arguments, self.student, self.options.live_teachers
        whole, rest = divmod(self.steps, self.epoch)
        examples = whole * self.count + min(rest * self.batch, self.count)
        every = {"epoch": self.epoch}.get(arguments.eval_strategy, self.steps)
        if arguments.eval_strategy == "steps":
            every = math.ceil(arguments.eval_steps * (self.steps if arguments.eval_steps < 1 else 1))
        evaluations = bool(arguments.eval_on_start) + math.ceil(self.steps / max(1, every))
        teachers, cached = self.others if self.method.read else [], 0.0
        if self.method.on_policy:
            self.write("training", examples)
        else:
            cached = self.before(heldout, [] if live else teachers)
            for teacher in teachers if live else []:
                self.add("training", "scored", teacher, examples, self.of)
        self.add("training", "trained", student, examples, self.of, len(teachers))
        if asked:
            self.write("evaluation", evaluations * asked)
        if heldout and not self.method.on_policy:
            self.add("evaluation", "scored", student, evaluations * heldout, self.of)
            self.add("evaluation", "scored", student, evaluations * heldout, PAIR, 1)  # against the reference's tokens
        return cached

    def before(self, heldout: int, teachers: Sequence) -> float:
        """What is written, scored and cached before the first step; bytes of what is cached."""
        both, policy, cached = self.count + heldout, self.student, 0.0
        if "sampled" in self.of:
            self.add("the student writes", "sampled", self.student, both, self.written)
        read = [role for role in self.of if role in self.method.read]
        for teacher in teachers:
            self.add("caching teachers", "scored", teacher, both, read)
            cached += both * self.tokens(read) * 4 * (teacher.hidden_size + 1)
        if self.options.method == "dpo":
            policy = (self.others or [self.student])[0]
            self.add("the reference's scores", "scored", policy, self.count, PAIR)
        self.add("caching held-out pairs", "scored", policy, heldout, PAIR)
        return cached + heldout * self.tokens(PAIR) * 4 * (policy.hidden_size + 1)

    def write(self, stage: str, prompts: int) -> None:
        """The student writes to prompts; on-policy a teacher, or itself and the reference, read that."""
        at_once = min(AT_ONCE, self.batch * len(self.written))
        self.add(stage, "sampled", self.student, prompts, self.written, at_once=at_once)
        readers = self.others if self.options.teacher else [self.student, (self.others or [self.student])[0]]
        for config in readers if self.method.on_policy else ():
            self.add(stage, "scored", config, prompts, self.written)

    def memory(self) -> float:
        """The student, what another model took to be read, and the larger of what a step and sampling hold."""
        clock, student, size, others = self.clock, self.student, self.sizes[0], self.sizes[1:]
        held = 4 * size + 4 * max([self.base, *others])
        held += 4 * sum(others) if self.method.on_policy or self.options.live_teachers else 0
        prompt = mean(self.lengths["prompt"])
        read = self.micro * self.fill * (prompt + self.tokens(self.of))
        step = 16 * self.learnt + clock.kept_bytes(student, read, self.arguments.gradient_checkpointing)
        step += 0 if clock.dtype == "float32" else 2 * size  # both types of the weights
        rows = min(AT_ONCE, self.count * len(self.written)) if "sampled" in self.of else 0
        return clock.memory(held, step, clock.sampling_bytes(student, rows, prompt + mean(self.lengths["sampled"])))
