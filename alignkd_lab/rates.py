"""How fast this machine does what a run or a training does, measured on random weights in a few seconds.

Each kind of work is the package's own code on texts of the run's lengths: sampling, scoring, a step of training by the
run's loss, a teacher's reading. The models have the run's width and vocabulary and few layers; what one more layer
takes, with a small vocabulary, tells what all of them do.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, collate, token_counts
from alignkd_lab.lm.models import in_dtype
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import response_log_probs
from alignkd_lab.lm.shapes import build, with_layers
from alignkd_lab.lm.teachers import LiveTeacher, log_norm
from alignkd_lab.lm.trainer import train, with_lora
from alignkd_lab.provenance import resolve_dtype

FEW = 4  # layers that are measured whole
SMALL = 512  # tokens of a vocabulary that costs next to nothing
READ = {"cpu": 256, "cuda": 16384}  # tokens of the texts that are trained on to measure
FORWARD = 3  # times as many where they are only read
ROWS = {"cpu": (12, 96), "cuda": (64, 1536)}  # responses that are sampled together
TEACHERS = {"kd": ["teacher"], "gkd": ["teacher"], "dckd": ["teacher"], "adpa": ["teacher", "reference"]}


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
        self.device, self.dtype = device, resolve_dtype(dtype, device)
        self._torch_dtype = getattr(torch, self.dtype)
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
        model = in_dtype(model, self._torch_dtype)
        prompt = shape.prompt + shape.response // 2
        prompts = [_words(prompt, model)] * (shape.at_once // shape.responses)

        def write(tokens: int) -> None:
            sample(model, prompts, shape.responses, tokens, eos=-1, seed=0, batch=shape.at_once)

        first, three = self._seconds(partial(write, 1)), self._seconds(partial(write, 3))
        return Cost(first / len(prompts) * shape.prompt / prompt, 0.0, max(0.0, three - first) / 2)

    def _scored(self, model, shape: Shape, _) -> Cost:
        examples = self._examples(model, shape, "", FORWARD)
        took = self._seconds(lambda: response_log_probs(model, examples, self._torch_dtype))
        return Cost(took / token_counts(examples)["tokens"])

    def _read(self, model, shape: Shape, _) -> Cost:
        teacher = LiveTeacher(model, dtype=self._torch_dtype)
        examples = self._examples(model, shape, "", FORWARD)

        def read() -> None:
            said = teacher.signal(collate(examples))
            log_norm(said.hidden, said.head)  # which is kept, too

        took = self._seconds(read)
        return Cost(took / token_counts(examples)["tokens"])

    def _trained(self, model, shape: Shape, how: How) -> Cost:
        examples = self._examples(model, shape, how.loss)
        model = with_lora(model, how.rank) if how.rank else model
        carried = training_losses.carried(head_of(model).detach())
        loss = training_losses.asking(how.loss, carried)
        kept, times = _Kept(model), []

        def watched(*given):
            if times:
                return loss(*given)
            with kept:
                return loss(*given)

        train(model, examples, watched, learning_rate=1e-5, steps=2, batch=len(examples), seed=0,
              dtype=self._torch_dtype, gradient_checkpointing=how.checkpointing,
              on_step=lambda _: times.append(self._now()))  # fmt: skip
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer = torch.optim.AdamW(weights)
        step = self._seconds(optimizer.step, 0.1)
        took = times[1] - times[0] - step
        tokens = token_counts(examples)["tokens"]
        return Cost(max(took, 0.0) / tokens, kept.bytes / tokens, step)

    def _count(self, shape: Shape, times: int = 1) -> int:
        """Prompts that make as many tokens as are read to measure."""
        return max(1, times * READ[self.device] // (shape.prompt + shape.responses * shape.response))

    def _examples(self, model, shape: Shape, loss: str, times: int = 1) -> list[Example]:
        roles = {"dpo": ["chosen", "rejected"], "dckd": ["chosen", "rejected"],
                 "adpa": ["chosen", *["sampled"] * (shape.responses - 1)]}.get(loss, [])  # fmt: skip
        made = []
        for _ in range(self._count(shape, times)):
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


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Bytes that are kept for the backward pass beside the weights, each storage once."""

    def __init__(self, model) -> None:
        self.bytes, self._seen = 0, {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _words(count: int, model) -> list[int]:
    """Token ids that end nothing."""
    most = model.get_input_embeddings().num_embeddings
    return [3 + 7 * at % (most - 3) for at in range(count)]
