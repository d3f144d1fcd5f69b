"""What work takes where it is to run: seconds of a token, measured there or estimated by rates, and a plan's rows.

A model of P parameters that reads or writes a token has done P parameter-tokens of work. How many it does in a second
depends on the kind of work, on the model's width, on the texts' length and on how many are written at once; so each is
measured, in a second or two, on the package's own code and random weights of that width and vocabulary. Models of one
layer and of a few tell what all of them take.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

import psutil
import torch

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import training_losses, weights
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.sampling import in_dtype, sample
from alignkd_lab.lm.scoring import response_log_probs
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.shapes import build, config_of, is_here, parameters, smollm2, with_layers
from alignkd_lab.lm.trainer import train, with_lora
from alignkd_lab.progress import busy_cores
from alignkd_lab.provenance import best_device, resolve_dtype
from alignkd_lab.results import KINDS

FEW = 5  # layers that are measured whole
AT_ONCE = {"cpu": 128, "cuda": 1024}  # responses that are written together to measure, or fewer
READ = {"cpu": 256, "cuda": 16384}  # tokens that are trained on to measure; three times as many are scored
# Dense TFLOPS in 16 bits, of NVIDIA's data sheets; a card's speed is that of the recorded one times their ratio.
CARDS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX4090": 165, "T4": 65}
# Parameter-tokens a second on the recorded card, sampled and trained: least squares over the stages of
# both orders, preset gpu, in smollm2-study.zip, where training is a forward pass and as much again, scoring one alone.
RECORDED, SAMPLED, TRAINED = "H100", 6.15562e11, 2.77431e12
START = 10.0  # seconds until a process has imported all that work imports, on two CPUs
HANDLING = 5.0  # seconds for a gigabyte of weights to be read, checked, copied and written, on two CPUs
LOGITS = 4  # copies of a chunk's logits that a loss or a draw holds at once


class Rates(NamedTuple):
    """Parameter-tokens a second; attention's growth with length and what small models take for themselves left out."""

    sampled: float
    trained: float
    scored: float
    device: str
    source: str  # where they come from, in words

    def seconds(self, kind: str, config, at_once: int = 1) -> float:
        """Of a token, whatever the number that are written at once."""
        return parameters(config) / getattr(self, kind)


class Machine:
    """Seconds of a token here, on texts of these lengths and by training of a LoRA or of all weights.

    Raises:
        BadInput: a GPU that is not here.
    """

    source = None  # of an estimate, which this is not

    def __init__(
        self, device: str | None, dtype: str = "default", prompt: int = 20, response: int = 28, *, full: bool = False,
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"device: there is no GPU here to measure; name one with --card ({', '.join(CARDS)})")
        self.device = best_device(device)
        self._dtype = getattr(torch, resolve_dtype(dtype, self.device))
        self._prompt, self._response, self._full, self._checkpointing = prompt, response, full, checkpointing
        self._known: dict[tuple, float] = {}

    def seconds(self, kind: str, config, at_once: int = 1) -> float:
        """Of a token that is written, `at_once` of them in a step, or read to be scored or trained on."""
        at_once = 1 << min(at_once, AT_ONCE[self.device]).bit_length() - 1 if kind == "sampled" else 1
        layers = config.num_hidden_layers
        few = min(layers, FEW)
        one, several = (self._measure(kind, with_layers(config, count), at_once) for count in (1, few))
        return one + max(0.0, several - one) * (layers - 1) / max(1, few - 1)

    def _measure(self, kind: str, config, at_once: int) -> float:
        key = kind, at_once, config.to_json_string(use_diff=False)
        if key not in self._known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, none of the reader's
                self._known[key] = getattr(self, f"_{kind}")(build(config, self.device), at_once)
        return self._known[key]

    def _sampled(self, model, at_once: int) -> float:
        """Of the steps after the first, which reads the prompt, too; the cache is half full."""
        model = in_dtype(model, self._dtype)
        prompt = [_words(self._prompt + self._response // 2, model)]

        def write(tokens: int) -> None:
            sample(model, prompt, at_once, tokens, eos=-1, seed=0, batch=at_once)

        first, three = self._time(partial(write, 1)), self._time(partial(write, 3))
        return max(three - first, three / 10) / 2 / at_once  # other programs may have slowed the first

    def _scored(self, model, _) -> float:
        examples, tokens = self._examples(3 * READ[self.device], model)
        return self._time(lambda: response_log_probs(model, examples, self._dtype)) / tokens

    def _trained(self, model, _) -> float:
        """Of the second step."""
        examples, tokens = self._examples(READ[self.device], model)
        times: list[float] = []
        train(model if self._full else with_lora(model, 16), examples, training_losses.nll, learning_rate=1e-5, steps=2,
              batch=len(examples), seed=0, dtype=self._dtype, gradient_checkpointing=self._checkpointing,
              on_step=lambda _: times.append(self._now()))  # fmt: skip
        return (times[1] - times[0]) / tokens

    def _examples(self, tokens: int, model) -> tuple[list[Example], int]:
        """About so many tokens to be read, and how many they are."""
        count = max(1, tokens // (self._prompt + self._response))
        row = Example(_words(self._prompt, model), [_words(self._response, model)])
        return [row] * count, count * (self._prompt + self._response)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _time(self, work: Callable[[], object], budget: float = 0.3) -> float:
        """Median seconds of as many repeats as fit into `budget`, without the first where there are more."""
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


@cache
def calibrate(device: str) -> Rates:
    """Of this machine, by the built-in model in a run of the laptop preset; in seconds. `device` is "cpu" or "cuda"."""
    machine, config = Machine(device), smollm2("135M")
    found = (parameters(config) / machine.seconds(kind, config, AT_ONCE[device]) for kind in KINDS)
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
    """

    def __init__(self, speed: Rates | Machine, dtype: str) -> None:
        self.speed, self.device, self.dtype = speed, speed.device, resolve_dtype(dtype, speed.device)
        self._busy = 0.0 if speed.source else busy_cores()
        self.parameter_tokens = dict.fromkeys(KINDS, 0)
        self.rows: dict[str, dict[str, Any]] = {}

    def add(
        self, stage: str, kind: str, config, tokens: float, read: float, at_once: int = 1, heads: float = 0
    ) -> None:
        """Tokens of responses, `read` with their prompts and what fills them up, or written `at_once` many.

        Beside them `heads` further models say what they think of every next token, from states that are kept.
        """
        if not tokens:
            return
        size, each = parameters(config), self.speed.seconds(kind, config, at_once)
        of_prompts = read - tokens if kind == "sampled" else 0.0
        of_heads = heads * tokens * config.vocab_size * config.hidden_size / size
        seconds = (read - of_prompts) * each + (of_prompts + of_heads) * self.speed.seconds("scored", config)
        self.spend(stage, seconds)[kind] += round(tokens)
        self.parameter_tokens[kind] += round(tokens) * size

    def spend(self, stage: str, seconds: float) -> dict[str, Any]:
        row = self.rows.setdefault(stage, {"stage": stage, **dict.fromkeys((*KINDS, "seconds"), 0)})
        row["seconds"] += seconds
        return row

    def start(self, numbers: int) -> float:
        """Seconds of the last row: the libraries, and weights of so many numbers that are read and copied."""
        return self.spend("start", START + HANDLING * 4 * numbers / 1e9)["seconds"]

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.rows.values())

    def memory(self, held: float, *needs: float) -> float:
        """Bytes of this process, of what it holds, and of the work that needs most beside it, with a chunk's logits."""
        resident = psutil.Process().memory_info().rss if self.device == "cpu" else 0
        return resident + held + max(needs) + LOGITS * (2**28 if self.device == "cuda" else 3 * 2**24)

    def sampling_bytes(self, config, rows: int, length: float) -> float:
        """Keys and values, twice while rows leave, logits with what a draw makes of them, and weights in 16 bits."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * rows * length * config.num_hidden_layers * 2 * heads * width
        half = self.dtype != "float32"
        return (2 if half else 4) * numbers + LOGITS * 4 * rows * config.vocab_size + half * 2 * parameters(config)

    def kept_bytes(self, config, tokens: float, checkpointing: bool = False) -> float:
        """Of so many tokens, what a step keeps for its backward pass: in each layer, and once for the head."""
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        numbers = config.hidden_size if checkpointing else 8 * config.hidden_size + 4 * inner
        return (4 if self.dtype == "float32" else 2) * tokens * config.num_hidden_layers * numbers

    def plan(self, what: str, seconds: float, memory: float, disk: float, left: float, sources, **more: Any) -> dict:
        """All of it as JSON; of the hub's models two bytes a number are fetched, as they are published."""
        wanted = sorted({base for source in sources if not is_here(base := base_of_student(source))})
        downloads = {source: weights.WHEEL_MEGABYTES * 10**6 if source == weights.BUILT_IN
                     else 2 * parameters(config_of(source)) for source in wanted}  # fmt: skip
        return {
            "what": what, "device": self.device, "dtype": self.dtype, "estimate": self.speed.source,
            "busy_cores": self._busy, "stages": list(self.rows.values()), "seconds": seconds,
            "memory_bytes": round(memory), "disk_bytes": {"at_most": round(disk), "left": round(left)},
            "download_bytes": downloads, "parameter_tokens": self.parameter_tokens, **more,
        }  # fmt: skip
