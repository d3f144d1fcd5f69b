"""What work takes where it is to run: measured there (`rates`), or estimated by rates in parameter-tokens."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, NamedTuple

import psutil
import torch

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.shapes import config_of, is_here, parameters, smollm2
from alignkd_lab.progress import busy_cores
from alignkd_lab.provenance import best_device, resolve_dtype
from alignkd_lab.rates import Cost, How, Machine, Shape
from alignkd_lab.results import KINDS

# Dense TFLOPS in 16 bits, of NVIDIA's data sheets; a card's speed is that of the recorded one times their ratio.
CARDS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX4090": 165, "T4": 65}
# Parameter-tokens a second on the recorded card, sampled and trained: least squares over the stages of
# both orders, preset gpu, in smollm2-study.zip, where training is a forward pass and as much again, scoring one alone.
RECORDED, SAMPLED, TRAINED = "H100", 6.18201e11, 2.73672e12
# Seconds for a gigabyte of weights to be read, checked, copied and written in the course of the work, on two CPUs.
HANDLING = 5.0
LOGITS = 4  # copies of a chunk's logits that a loss or a draw holds at once


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
        """As `rates.Machine` measures it."""
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


def age() -> float:
    """Seconds since this process started: what it takes to import all that a run imports, too."""
    return time.time() - psutil.Process().create_time()


class Clock:
    """The rows of a plan, a stage each, with tokens and seconds.

    Attributes:
        rates: by which seconds are estimated; None where each kind of work is measured.
        busy_cores: that other programs used when it began to measure.
        start: seconds that a process takes before it works.
        kept_bytes: for the backward pass, of a token of a response, by loss.
        resident: bytes of a process without models.

    Raises:
        BadInput: a GPU that is neither here nor named.
    """

    def __init__(self, device: str | None, dtype: str, rates: Rates | None) -> None:
        if rates is None and device == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"device: there is no GPU here to measure; name one with --card ({', '.join(CARDS)})")
        self.device, self.rates, self.start = rates.device if rates else best_device(device), rates, age()
        self.busy_cores = 0.0 if rates else busy_cores()
        self.dtype, self._machine = resolve_dtype(dtype, self.device), rates or Machine(self.device, dtype)
        self.resident = psutil.Process().memory_info().rss if self.device == "cpu" else 0
        self.kept_bytes: dict[str, float] = {}
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
        row["scored" if kind == "read" else kind] += round(tokens)

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
        """The plan as JSON."""
        downloads = {source: _download(source) for source in sorted(set(map(base_of_student, sources)))
                     if not is_here(source)}  # fmt: skip
        return {
            "what": what, "device": self.device, "dtype": self.dtype,
            "estimate": self.rates.source if self.rates else None, "busy_cores": self.busy_cores,
            "stages": list(self.rows.values()), "seconds": seconds, "memory_bytes": round(memory),
            "disk_bytes": {"at_most": round(disk), "left": round(left)}, "download_bytes": downloads, **more,
        }  # fmt: skip


def _download(source: str) -> int:
    """Bytes; of the hub's models two for each number, as they are published."""
    return weights.WHEEL_MEGABYTES * 10**6 if source == weights.BUILT_IN else 2 * parameters(config_of(source))
