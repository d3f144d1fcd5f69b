"""What `alignkd train` would cost: the very texts are counted, the models are known by their configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkd_lab.clock import START, Clock, How, Rates, Shape
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm.rewards import model_of
from alignkd_lab.lm.saved import can_be_base
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.shapes import adapter_size, config_of, is_here, parameters
from alignkd_lab.lm.teacher_cache import BATCH_TOKENS
from alignkd_lab.options import PAIR, Options, training_arguments
from alignkd_lab.training import is_measured, texts_of

PICTURE = 0.3  # of the time to start: what the drawing of the curves takes to start
AGAINST = 1.5  # how much longer a held-out pair takes than to be scored, since the whole vocabulary is compared
SCORED_AT_ONCE = 96  # responses (`lm.scoring.score`)


def plan_train(
    options: Options, given: dict, rates: Rates | None = None, written: int | None = None, start: float = START
) -> dict[str, Any]:
    """Of what `options.read_options` gives: stages with tokens and seconds; time, memory and disk in sum.

    Seconds are measured for the training's own sizes, or estimated by `rates`; `start` of them pass before it works.

    Raises:
        BadInput: an engine that is not ours.
        CannotContinue: a tokenizer that is not on this machine.
    """
    if options.engine == "vllm":
        raise BadInput("engine: vLLM's speed is not measured here; leave it out of the plan")
    for name, source in options.sources.items():
        if not is_here(source):
            raise CannotContinue(f"plan: texts are counted by its tokenizer, and the {name} {source} is not here yet")
    parts = {"": options}
    if options.method == "adpa_plus":
        parts = {"dckd: ": replace(options, method="dckd", reference=None), "adpa: ": replace(options, method="adpa")}
    arguments = training_arguments(given, Path(options.out), is_measured(options))
    _, texts, answered = texts_of(options, arguments.seed)
    clock = Clock(arguments.device.type, options.dtype, rates)
    memory = most = left = 0.0
    for name, part in parts.items():
        training = _Training(name, part, arguments, texts, answered, clock, written)
        taken, of_disk, kept = training.charge()
        memory, most, left = max(memory, taken), max(most, left + of_disk), left + kept
    clock.spend("start", (1 + PICTURE) * start)
    clock.rows["start"] = clock.rows.pop("start")  # the last row, of two trainings, too
    sources = {*options.sources.values(), model_of(options.reward or "")} - {""}
    return clock.sum_up(
        "train", sum(row["seconds"] for row in clock.rows.values()), memory, most, left, sources, steps=training.steps,
        response_tokens=round(training.each["sampled"]),
    )  # fmt: skip


class _Training:
    """Charges a clock for one training, whose stages it names; `each` is the mean of tokens of a response, by role.

    `of` are the responses of each role that an example has; some other work reads others.
    """

    def __init__(
        self, name: str, options: Options, arguments, texts, answered, clock: Clock, written: int | None
    ) -> None:  # fmt: skip
        self.name, self.options, self.arguments, self.clock, self.texts = name, options, arguments, clock, texts
        self.method, self.student = options.kind, config_of(options.student)
        self.others = {name: config_of(source) for name, source in options.sources.items() if name != "student"}
        self.count, self.heldout = len(texts.training), 0 if self.method.on_policy else len(texts.heldout)
        self.answered = len(texts.heldout if self.method.on_policy else answered)
        self.batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        self.epoch = -(-self.count // self.batch)
        most = arguments.max_steps
        self.steps = most if most > 0 else math.ceil(arguments.num_train_epochs * self.epoch)
        self.lengths = {"sampled": [min(written or texts.max_tokens, texts.max_tokens)] * self.count}
        if not self.method.on_policy:
            columns = zip(*(map(len, row.responses) for row in texts.training), strict=True)
            self.lengths |= dict(zip(PAIR, map(list, columns), strict=True))
            if not written:  # the student writes as long as it is to learn
                self.lengths["sampled"] = self.lengths["chosen"]
        self.each = {role: sum(of) / len(of) for role, of in self.lengths.items()}
        self.written, self.pair = {"sampled": options.responses}, dict.fromkeys(PAIR, 1)
        self.of = {role: options.responses if role == "sampled" else 1 for role in self.method.roles} or self.written

    def tokens(self, of: dict[str, int]) -> float:
        """Of an example with so many responses of each role."""
        return sum(count * self.each[role] for role, count in of.items())

    def add(
        self, stage: str, kind: str, config, examples: int, of: dict[str, int], batch: int = 1, how: How | None = None,
        *, ordered: bool = False, **more: float,
    ) -> None:  # fmt: skip
        """Examples that are read `batch` at a time, by their lengths where they are `ordered`.

        What fills the shorter ones up to the longest of a batch is read as if it were prompt.
        """
        prompts, responses, tokens = [len(row.prompt) for row in self.texts.training], sum(of.values()), self.tokens(of)
        widths = [prompt + sum(number * self.lengths[role][at] for role, number in of.items())
                  for at, prompt in enumerate(prompts)]  # fmt: skip
        padding = _padding(sorted(widths) if ordered else widths, batch)
        shape = Shape(round(sum(prompts) / self.count + padding), max(2, round(tokens / responses)), responses,
                      min(192, responses * batch))  # fmt: skip
        self.clock.add(self.name + stage, kind, config, examples * tokens, shape, how, **more)

    def charge(self) -> tuple[float, float, float]:
        """Bytes of memory, of disk at most, and of disk that are left."""
        options, arguments = self.options, self.arguments
        whole, rest = divmod(self.steps, self.epoch)
        examples = whole * self.count + min(rest * self.batch, self.count)
        micro = min(options.micro_batch or arguments.per_device_train_batch_size, self.count)
        cached = 0 if self.method.on_policy else self.before()
        if self.method.on_policy:
            self.write("training", examples)
        how = How(options.method, 0 if options.full else options.lora_rank, arguments.gradient_checkpointing)
        self.add("training", "trained", self.student, examples, self.of, micro, how, steps=self.steps)
        if options.live_teachers and not self.method.on_policy:
            for teacher in self.others.values():
                self.add("training", "read", teacher, examples, self.of, micro)
        self.measure()
        sizes = [parameters(config) for config in (self.student, *self.others.values())]
        learnt = sizes[0] if options.full else adapter_size(self.student, options.lora_rank, options.lora_targets)
        whole = base_of_student(options.student)
        base = parameters(config_of(whole)) if whole != options.student else 0  # which a healed student is cut out of
        self.clock.handle("start", sum(sizes) + base + sizes[0])
        checkpoint = 12 * learnt  # with AdamW's two moments
        left = checkpoint + 4 * (sizes[0] if options.merge or not can_be_base(options.student) else learnt)
        most = left + checkpoint + cached
        return self.memory(sizes, learnt, 4 * base, micro), most, left + (cached if options.cache_teachers else 0)

    def before(self) -> int:
        """What is written, scored and cached before the first step; returns the caches' bytes."""
        options, held, kept = self.options, self.heldout, 0.0
        both = self.count + held
        if "sampled" in self.of:
            self.add("the student writes", "sampled", self.student, both, self.written, both)
        for name, teacher in self.others.items() if self.method.read and not options.live_teachers else ():
            read = {role: self.of[role] for role in self.method.read}
            batch = max(1, round(BATCH_TOKENS / (self.tokens(read) + 1)))
            self.add(f"caching the {name}", "read", teacher, both, read, batch, ordered=True)
            kept += both * self.tokens(read) * 4 * (teacher.hidden_size + 1)
        policy = self.student
        if options.method == "dpo":
            policy = self.others.get("reference", self.student)
            self.add("the reference's scores", "scored", policy, self.count, self.pair, SCORED_AT_ONCE // 2)
        if held:
            batch = min(held, self.arguments.per_device_eval_batch_size)
            self.add("caching held-out pairs", "read", policy, held, self.pair, batch)
        return round(kept + held * self.tokens(self.pair) * 4 * (policy.hidden_size + 1))

    def write(self, stage: str, prompts: int) -> None:
        """The student writes to prompts, and teacher, or itself and the reference, read that."""
        self.add(stage, "sampled", self.student, prompts, self.written, self.batch)
        readers = [("scored", self.student), ("scored", self.others.get("reference", self.student))]
        if "teacher" in self.others:
            readers = [("read", self.others["teacher"])]
        for kind, config in readers if self.method.on_policy else ():
            self.add(stage, kind, config, prompts, self.written, self.batch)

    def measure(self) -> None:
        """The evaluations along the way: the loss, and pairs against the reference over the whole vocabulary."""
        arguments, every = self.arguments, {"epoch": self.epoch}.get(self.arguments.eval_strategy, self.steps)
        if arguments.eval_strategy == "steps":
            every = math.ceil(arguments.eval_steps * (self.steps if arguments.eval_steps < 1 else 1))
        times = bool(arguments.eval_on_start) + math.ceil(self.steps / max(1, every))
        if self.answered:
            self.write("evaluation", times * self.answered)
        batch = min(self.heldout, arguments.per_device_eval_batch_size)
        for of, weight in ((self.of, 1.0), (self.pair, AGAINST)) if self.heldout else ():
            self.add("evaluation", "scored", self.student, times * self.heldout, of, batch, weight=weight)

    def memory(self, sizes: Sequence[int], learnt: int, base: int, micro: int) -> float:
        """The student, and the larger of what a step and sampling hold beside it.

        On a CPU what another model took to be read stays with the process; on a GPU the step takes it again.
        """
        clock, student, others = self.clock, self.student, sizes[1:]
        half = 0 if clock.dtype == "float32" else 2
        live = 4 * sum(others) if self.method.on_policy or self.options.live_teachers else 0
        heads = len(others) * student.vocab_size * student.hidden_size * (4 + half)
        kept = clock.kept_bytes.get(self.options.method, 0.0) * micro * self.tokens(self.of)
        step = 16 * learnt + half * sizes[0] + kept + heads + live + clock.logits_bytes  # both types of the weights
        read = max(4 * max(others, default=0), base)
        length = len(self.texts.training[0].prompt) + self.each["sampled"]
        rows = min(192, len(self.texts.training) * self.options.responses)
        writing = half * sizes[0] + clock.sampling_bytes(student, rows, length) if "sampled" in self.of else 0
        most = max(step, writing)
        return clock.resident + 4 * sizes[0] + (read + most if clock.device == "cpu" else max(read, most))


def _padding(widths: Sequence[int], batch: int) -> float:
    """Tokens by which a row is filled up, on average, where so many rows are read at a time."""
    parts = [widths[start : start + batch] for start in range(0, len(widths), batch)]
    return sum(len(part) * max(part) for part in parts) / len(widths) - sum(widths) / len(widths)
