"""What both experiments of the plan's second part share: one seed's models and samples, kept, and its records."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from alignkd_lab import recording
from alignkd_lab.arguments import parse_seeds
from alignkd_lab.errors import AlignkdError, BadInput
from alignkd_lab.lm.context import Earned, Policy
from alignkd_lab.lm.models import identity
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.settings import BUILT_IN, LmSettings
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.provenance import device_label, provenance
from alignkd_lab.store import Store, key_of, read_json, write_json

CODE = 1  # raise it where a change of code changes what a stage computes
_library = torch.library.Library("aten", "IMPL")  # what is registered in it lasts as long as it


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A matrix product whose bfloat16 operands are multiplied and summed in float32, as a CPU made for them does."""
    out = torch.empty(first.shape[0], second.shape[1], dtype=torch.promote_types(first.dtype, torch.float32))
    return torch.mm(first.to(out.dtype), second.to(out.dtype), out=out).to(first.dtype)


@cache
def bfloat16_without_its_units() -> None:
    """On a CPU that lacks bfloat16 instructions, multiply by `product`: torch's own way takes eight times as long."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with warnings.catch_warnings(action="ignore"):
            _library.impl("mm", product, "CPU")


class Lab:
    """One seed on the built-in base and a student. A split's prompts go on with further frames of its topics."""

    def __init__(self, folder: Path, seed: int, dtype: str, base: str = BUILT_IN, student: str = "healed") -> None:
        if dtype == "bfloat16":
            bfloat16_without_its_units()
        self.seed, store = seed, Store(folder / "stages")
        world = LmWorld(LmSettings(base=base, truth=base, student=student, dtype=dtype), "dpo", seed, store)
        self.base, self.student = world.start("base"), world.start("student")
        self.context = replace(world.context, prompt_texts=partial(prompts, all_frames=True))
        self._origin = {**self.context.origin, "place": self.context.place}

    def keep(self, about: dict, reads: list[Policy], make: Callable[[], tuple[Policy, dict]]) -> tuple[Policy, dict]:
        """A policy and what there is to say of it, made once from `reads` and `about`."""

        def save(made: tuple[Policy, dict], folder: Path) -> None:
            made[0].save(folder)
            write_json(made[1], folder)

        inputs = [(policy.digest, identity(policy.start)) for policy in reads]
        depends = {**about, "reads": inputs, "start": self._origin, "code": CODE}
        return self.context.store.keep(
            "study", depends, make, save, lambda folder: (Policy.read(folder), read_json(folder))
        )

    @staticmethod
    def record(
        folder: Path, settings: dict, target: str, seed: int, pipeline: str, arm: str,
        make: Callable[[], tuple[dict, dict]], dtype: str,
    ) -> dict:  # fmt: skip
        """The entry of a pipeline in the record of a run and seed; `make` gives it, with a stage's info, if needed."""
        device, settings = device_label("cpu", dtype), {**settings, "dtype": dtype}
        head = {"world": "lm", "preset": "laptop", "device": device, "algorithm": "dpo", "target": target}
        head = {"schema": recording.SCHEMA, **head, "settings": settings, "seed": seed}
        held = recording.find(folder, head, [seed]).get(seed)
        if held and pipeline in (record := recording.read_json(held))["pipelines"]:
            return record["pipelines"][pipeline]
        began = time.perf_counter()
        entry, info = make()
        seconds, key = time.perf_counter() - began, key_of({"pipeline": pipeline, **settings, "seed": seed})
        stage = {"name": pipeline, "kind": "study", "seconds": info.pop("seconds", seconds), "info": info}
        # NaN stands for undefined, which JSON calls null.
        metrics = {name: None if value != value else value for name, value in entry["metrics"].items()}
        entry = {**entry, "metrics": metrics, "stages": [key], "arm": [arm, ""]}
        made = {**provenance(), "seconds": seconds}
        recording.write(folder, {**head, "pipelines": {pipeline: entry}, "stages": {key: stage}, "provenance": made})
        return entry


class ByText:
    """A reward that reads a response's text alone (`lm.context.Reward`): its `score`, and whether that `hits`."""

    def __init__(self, texts: Callable[[Samples], list[str]], score: Callable, hits: Callable[[float], bool]) -> None:
        self._texts, self._score, self._hits = texts, score, hits

    def earn(self, samples: Samples, policy: Policy | None) -> Earned:
        rewards = [float(self._score(text)) for text in self._texts(samples)]
        return Earned(rewards, list(map(self._hits, rewards)), 0)


class Over(Exception):
    """The minutes that were given are over; what is finished is kept."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def command(name: str, words: str, argv: Sequence[str] | None, seeds: Sequence[int], run: Callable) -> int:
    """An experiment's command: `run(folder, until, seeds)`.

    0 done, or the minutes are over, 1 an expected error, 130 stopped by Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog=f"python -m alignkd_lab.study.{name}", description=words)
    try:
        asked, until = parse(parser, argv, seeds)
        run(asked.folder, until, asked.seeds)
    except Over:
        say("stopped after the minutes that were given; the same command goes on")
    except KeyboardInterrupt:
        say("stopped; what is finished is kept, and the same command goes on")
        return 130
    except AlignkdError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return 0


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, seeds: Sequence[int]
) -> tuple[argparse.Namespace, Callable[[], bool]]:
    """What was asked for, with its `folder` and its `seeds`, and whether the minutes that were given are over."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where records and stages lie")
    parser.add_argument("--minutes", metavar="N", type=float, help="begin nothing after so many minutes")
    parser.add_argument("--seeds", type=parse_seeds, default=seeds, help="these alone, such as 0,2,4-6")
    asked, began = parser.parse_args(argv), time.monotonic()
    if asked.minutes is not None and asked.minutes <= 0:
        raise BadInput(f"minutes: {asked.minutes} must be positive")
    torch.set_num_threads(1)  # the plan's
    return asked, lambda: asked.minutes is not None and time.monotonic() - began > 60 * asked.minutes
