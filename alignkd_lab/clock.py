"""What work takes where it is to run, in seconds and bytes: measured there, or estimated by rates in parameter-tokens.

Each kind of work is the package's own code on texts of the run's lengths: sampling, scoring, a step of training by the
run's loss, a teacher's reading. It is measured in a few seconds on random weights of the run's width and vocabulary and
of few layers; what one more layer takes, with a small vocabulary, tells what all of them do.
"""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import training_losses, weights
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, collate, token_counts
from alignkd_lab.lm.models import in_dtype
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import response_log_probs
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.shapes import build, config_of, is_here, parameters, smollm2, with_layers
from alignkd_lab.lm.teachers import LiveTeacher, log_norm
from alignkd_lab.lm.trainer import train, with_lora
from alignkd_lab.progress import busy_cores
from alignkd_lab.provenance import best_device, resolve_dtype
from alignkd_lab.results import KINDS

FEW = 4  # layers that are measured whole
SMALL = 512  # tokens of a vocabulary that costs next to nothing
READ = {"cpu": 256, "cuda": 16384}  # tokens of the texts that are trained on to measure
FORWARD = 3  # times as many where they are only read
ROWS = {"cpu": (12, 96), "cuda": (64, 1536)}  # responses that are sampled together
TEACHERS = {"kd": ["teacher"], "gkd": ["teacher"], "dckd": ["teacher"], "adpa": ["teacher", "reference"]}
# Dense TFLOPS in 16 bits, of NVIDIA's data sheets; a card's speed is that of the recorded one times their ratio.
CARDS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX4090": 165, "T4": 65}
# Parameter-tokens a second on the recorded card, sampled and trained: least squares over the stages of
# both orders, preset gpu, in smollm2-study.zip, where training is a forward pass and as much again, scoring one alone.
RECORDED, SAMPLED, TRAINED = "H100", 6.18201e11, 2.73672e12
# Seconds for a gigabyte of weights to be read, checked, copied and written in the course of the work, on two CPUs.
HANDLING = 5.0
START = 7.0  # seconds until a process has imported all that a run imports, on two CPUs
LOGITS = 4  # copies of a chunk's logits that a loss or a draw holds at once


class Shape(NamedTuple):
    """Of the texts: tokens of a prompt and of a response, responses to a prompt, and how many are sampled at once."""

    prompt: int
    response: int
    responses: int = 1
    at_once: int = 192


class How(NamedTuple):
    """A step of training: the loss, the rank of the LoRA (0: all weights), and whether blocks are computed again."""

    loss: str
    rank: int = 16
    checkpointing: bool = False


class Cost(NamedTuple):
    """Seconds for a token of a response, bytes that it keeps for the backward pass, seconds of a step of AdamW.

    While sampling is measured: seconds to read a prompt, and seconds of a step.
    """

    seconds: float
    kept_bytes: float = 0.0
    step: float = 0.0


class Machine:
    """What work costs on a device ("cpu" or "cuda") in matrix products of `dtype`; each kind is measured once."""

    def __init__(self, device: str, dtype: str = "default") -> None:
        self.device, self._dtype = device, getattr(torch, resolve_dtype(dtype, device))
        self._known: dict[tuple, Cost] = {}

    def cost(self, kind: str, config, shape: Shape, how: How | None = None) -> Cost:
        """Of a token of a response: `sampled`, `scored`, `read` by a teacher that is cached, or `trained`."""
        return self._writing(config, shape) if kind == "sampled" else self._of_layers(kind, config, shape, how)

    def _writing(self, config, shape: Shape) -> Cost:
        """Prompts are read once; a step takes so much for itself, and so much for each response."""
        sizes = ROWS[self.device]
        few, many = (self._of_layers("sampled", config, shape._replace(responses=4, at_once=size)) for size in sizes)
        each = max(0.0, many.step - few.step) / (sizes[1] - sizes[0])
        least = few.step * min(1.0, shape.at_once / sizes[0])
        step = max(least, few.step + each * (shape.at_once - sizes[0])) / shape.at_once
        return Cost((many.seconds / shape.responses + step * (shape.response - 1)) / shape.response)

    def _of_layers(self, kind: str, config, shape: Shape, how: How | None = None) -> Cost:
        layers = config.num_hidden_layers
        named = partial(self._measure, kind, config, shape, how)
        if layers <= FEW:
            return named(layers, None)
        first, one, more = named(1, None), named(1, SMALL), named(1 + FEW, SMALL)
        return Cost(*(max(a, a + (layers - 1) * (c - b) / FEW) for a, b, c in zip(first, one, more, strict=True)))

    def _measure(self, kind: str, config, shape: Shape, how: How | None, layers: int, vocabulary: int | None) -> Cost:
        key = kind, with_layers(config, 1).to_json_string(use_diff=False), shape, how, layers, vocabulary
        if key not in self._known:
            model = build(with_layers(config, layers, vocabulary), self.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, none of the reader's
                self._known[key] = getattr(self, f"_{kind}")(model, shape, how)
            del model
            gc.collect()
        return self._known[key]

    def _sampled(self, model, shape: Shape, _) -> Cost:
        """Seconds to read a prompt, and those of a step of all responses with the cache half full."""
        model = in_dtype(model, self._dtype)
        prompt = shape.prompt + shape.response // 2
        prompts = [_words(prompt, model)] * (shape.at_once // shape.responses)

        def write(tokens: int) -> None:
            sample(model, prompts, shape.responses, tokens, eos=-1, seed=0, batch=shape.at_once)

        first, three = self._seconds(partial(write, 1)), self._seconds(partial(write, 3))
        return Cost(first / len(prompts) * shape.prompt / prompt, 0.0, max(0.0, three - first) / 2)

    def _scored(self, model, shape: Shape, _) -> Cost:
        examples = self._examples(model, shape, times=FORWARD)
        took = self._seconds(lambda: response_log_probs(model, examples, self._dtype))
        return Cost(took / token_counts(examples)["tokens"])

    def _read(self, model, shape: Shape, _) -> Cost:
        teacher = LiveTeacher(model, dtype=self._dtype)
        examples = self._examples(model, shape, times=FORWARD)

        def read() -> None:
            said = teacher.signal(collate(examples))
            log_norm(said.hidden, said.head)  # which is kept, too

        return Cost(self._seconds(read) / token_counts(examples)["tokens"])

    def _trained(self, model, shape: Shape, how: How) -> Cost:
        """Of the second step; the storages that the first one keeps for its backward pass, beside the weights."""
        examples = self._examples(model, shape, how.loss)
        model = with_lora(model, how.rank) if how.rank else model
        loss = training_losses.asking(how.loss, training_losses.carried(head_of(model).detach()))
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        known, kept, times = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, {}, []

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        def watched(*given):
            with contextlib.nullcontext() if times else saved_tensors_hooks(keep, lambda tensor: tensor):
                return loss(*given)

        train(model, examples, watched, learning_rate=1e-5, steps=2, batch=len(examples), seed=0, dtype=self._dtype,
              gradient_checkpointing=how.checkpointing, on_step=lambda _: times.append(self._now()))  # fmt: skip
        for weight in learnt:
            weight.grad = torch.zeros_like(weight)
        step, tokens = self._seconds(torch.optim.AdamW(learnt).step, 0.1), token_counts(examples)["tokens"]
        of_pass = sum(size for place, size in kept.items() if place not in known)
        return Cost(max(times[1] - times[0] - step, 0.0) / tokens, of_pass / tokens, step)

    def _examples(self, model, shape: Shape, loss: str = "", times: int = 1) -> list[Example]:
        """As many as make so many times the tokens that are read to measure."""
        roles = {"dpo": ["chosen", "rejected"], "dckd": ["chosen", "rejected"],
                 "adpa": ["chosen", *["sampled"] * (shape.responses - 1)]}.get(loss, [])  # fmt: skip
        made = []
        for _ in range(max(1, times * READ[self.device] // (shape.prompt + shape.responses * shape.response))):
            responses = [_words(shape.response, model) for _ in range(shape.responses)]
            row = Example(_words(shape.prompt, model), responses, roles)
            row.reference_log_probs, row.advantages = [[-50.0] * len(responses), [1.0] * len(responses)]
            for teacher in TEACHERS.get(loss, ()):
                row.signals[teacher] = [
                    {} if loss == "adpa" and role == "chosen" else
                    {"hidden": torch.randn(len(tokens), model.config.hidden_size), "log_norm": torch.zeros(len(tokens))}
                    for role, tokens in zip(row.roles, responses, strict=True)
                ]  # fmt: skip
            made.append(row)
        return made

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _seconds(self, work: Callable[[], object], budget: float = 0.3) -> float:
        """Median of as many repeats as fit into `budget` seconds, without the first where there are more."""
        times: list[float] = []
        while not times or sum(times) < budget:
            began = self._now()
            work()
            times.append(self._now() - began)
        return median(times[1:] or times)


def _words(count: int, model) -> list[int]:
    """Token ids that end nothing."""
    most = model.get_input_embeddings().num_embeddings
    return [3 + 7 * at % (most - 3) for at in range(count)]


class Rates(NamedTuple):
    """Parameter-tokens a second: a token sampled, trained on by LoRA or scored by a model of P parameters is P of them.

    Left out are attention's growth with length, and what small models take for themselves.
    """

    sampled: float
    trained: float
    scored: float
    device: str
    source: str  # where they come from, in words

    def cost(self, kind: str, config, shape: Shape, how: How | None = None) -> Cost:
        """As `Machine` measures it."""
        return Cost(parameters(config) / getattr(self, "scored" if kind == "read" else kind))


@cache
def calibrate(device: str) -> Rates:
    """Of this machine, by the built-in model in a run of the laptop preset; in seconds. `device` is "cpu" or "cuda"."""
    machine, config, texts = Machine(device), smollm2("135M"), (20, 28)  # tokens of a prompt and of a response
    sampled = machine.cost("sampled", config, Shape(*texts, 24))
    trained = machine.cost("trained", config, Shape(*texts, 5), How("kd"))
    scored = machine.cost("scored", config, Shape(*texts, 2))
    found = (parameters(config) / cost.seconds for cost in (sampled, trained, scored))
    return Rates(*found, device, "parameters × tokens at rates measured here")


def rates_of(card: str) -> Rates:
    """Of a card by its name, or of one so many times as fast as the recorded one. Raises BadInput for anything else."""
    try:
        speed = CARDS[card] / CARDS[RECORDED] if card in CARDS else float(card)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise BadInput(f"card: {card!r} is none of {', '.join(CARDS)}, and no speed; write --card A100 or --card 0.5")
    words = f"{speed:.2g} × the recorded {RECORDED}"
    return Rates(speed * SAMPLED, speed * TRAINED, 2 * speed * TRAINED, "cuda", words)


class Clock:
    """The rows of a plan, a stage each, with tokens and seconds.

    Attributes:
        parameter_tokens: of all work, by kind; what it costs in any case, wherever it runs.
        kept_bytes: for the backward pass, of a token of a response, by loss.
        resident: bytes of a process without models.

    Raises:
        BadInput: a GPU that is neither here nor named.
    """

    def __init__(self, device: str | None, dtype: str, rates: Rates | None) -> None:
        if rates is None and device == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"device: there is no GPU here to measure; name one with --card ({', '.join(CARDS)})")
        self.device = rates.device if rates else best_device(device)
        self.dtype, self._machine = resolve_dtype(dtype, self.device), rates or Machine(self.device, dtype)
        self._about = {"device": self.device, "dtype": self.dtype, "estimate": rates.source if rates else None,
                       "busy_cores": 0.0 if rates else busy_cores()}  # fmt: skip
        self.resident = psutil.Process().memory_info().rss if self.device == "cpu" else 0
        self.kept_bytes: dict[str, float] = {}
        self.parameter_tokens = dict.fromkeys(KINDS, 0)
        self.rows: dict[str, dict[str, Any]] = {}

    def add(
        self, stage: str, kind: str, config, tokens: float, shape: Shape, how: How | None = None, *, steps: int = 0,
        weight: float = 1.0,
    ) -> None:  # fmt: skip
        """Tokens of responses; each takes `weight` times what it usually takes."""
        if not tokens:
            return
        cost = self._machine.cost(kind, config, shape, how)
        if how:
            self.kept_bytes[how.loss] = cost.kept_bytes
        row = self.spend(stage, weight * (tokens * cost.seconds + steps * cost.step))
        kind = "scored" if kind == "read" else kind
        row[kind] += round(tokens)
        self.parameter_tokens[kind] += round(tokens) * parameters(config)

    def spend(self, stage: str, seconds: float) -> dict[str, Any]:
        row = self.rows.setdefault(stage, {"stage": stage, **dict.fromkeys((*KINDS, "seconds"), 0)})
        row["seconds"] += seconds
        return row

    def handle(self, stage: str, numbers: int) -> None:
        """Weights of so many numbers are read, checked and copied."""
        self.spend(stage, HANDLING * 4 * numbers / 1e9)

    def sampling_bytes(self, config, rows: int, length: float) -> float:
        """Keys and values, twice while rows leave, and logits with what a draw makes of them."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * rows * length * config.num_hidden_layers * 2 * heads * width
        return (4 if self.dtype == "float32" else 2) * numbers + LOGITS * 4 * rows * config.vocab_size

    @property
    def logits_bytes(self) -> int:
        """Of the chunk that a loss computes at a time (`lm.chunked.default_chunk`)."""
        return LOGITS * (2**28 if self.device == "cuda" else 3 * 2**24)

    def sum_up(self, what: str, seconds: float, memory: float, disk: float, left: float, sources, **more: Any) -> dict:
        """The plan as JSON; of the hub's models two bytes a number are fetched, as they are published."""
        wanted = sorted({base for source in sources if not is_here(base := base_of_student(source))})
        downloads = {source: weights.WHEEL_MEGABYTES * 10**6 if source == weights.BUILT_IN
                     else 2 * parameters(config_of(source)) for source in wanted}  # fmt: skip
        return {
            "what": what, **self._about, "stages": list(self.rows.values()), "seconds": seconds,
            "memory_bytes": round(memory), "disk_bytes": {"at_most": round(disk), "left": round(left)},
            "download_bytes": downloads, "parameter_tokens": self.parameter_tokens, **more,
        }  # fmt: skip
