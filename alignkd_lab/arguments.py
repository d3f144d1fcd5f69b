"""What people write on a command line or in a field, read: seeds, pipelines, settings, and what is evaluated."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.engines import ENGINES
from alignkd_lab.pipelines import ALGORITHMS, CONTROLS, METHODS, ORDERS, PIPELINES, WORLDS, unknown
from alignkd_lab.presets import PRESETS
from alignkd_lab.provenance import DTYPES

FORMATS = ("jsonl", "mt-bench", "alpaca-eval")  # of answers (`answering`)
MOST_SEEDS = 100_000
DEVICE = {"choices": ("cpu", "cuda"), "help": "default: cuda where there is one"}
_SOURCE = {"metavar": "SOURCE", "help": "id@commit of the hub, folder, adapter or built-in name"}


def parse_seeds(text: str) -> tuple[int, ...]:
    """`"0-2,5"` -> (0, 1, 2, 5), sorted, each once. Raises ArgumentTypeError for anything else than that."""
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is no seed and no range; write 0, 0-4 or 0,2,5-7")
        start, stop = int(first), int(last or first)
        if stop < start:
            raise argparse.ArgumentTypeError(f"the range {part!r} runs backwards; write {stop}-{start}")
        if stop - start >= MOST_SEEDS or stop >= 2**32:
            raise argparse.ArgumentTypeError(f"{part!r} is too much: at most {MOST_SEEDS:,} seeds, each below 2**32")
        seeds.update(range(start, stop + 1))
    return tuple(sorted(seeds))


def parse_count(text: str) -> int:
    """`"3"` -> 3. Raises ArgumentTypeError for anything but a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; write a whole number of at least 1")
    return int(text)


def parse_lengths(text: str) -> tuple[int, ...]:
    """`"32,128"` -> (32, 128). Raises ArgumentTypeError for anything but whole numbers of at least 2."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or int(part) < 2:
            raise argparse.ArgumentTypeError(f"{part!r} is no length; write numbers of at least 2, such as 32,128")
    return tuple(map(int, parts))


def parse_words(text: str) -> tuple[str, ...]:
    """`"a, b"` -> ("a", "b"), without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_pipelines(text: str) -> tuple[str, ...]:
    """`"a,b"` -> ("a", "b"), each once, in the order given; `orders`, `controls` and `methods` stand for all of theirs.

    Unknown names raise ArgumentTypeError.
    """
    groups = {"orders": ORDERS, "controls": CONTROLS, "methods": METHODS}
    parts = [part.strip() for part in text.split(",")]
    for name in parts:
        if name not in PIPELINES and name not in groups:
            raise argparse.ArgumentTypeError(str(unknown("pipeline", name, (*groups, *PIPELINES))))
    return tuple(dict.fromkeys(name for part in parts for name in groups.get(part, (part,))))


def parse_setting(text: str) -> tuple[str, Any]:
    """`"beta=0.5"` -> ("beta", 0.5): the value is read as JSON where it parses as such, else kept as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; write name=value")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value


def evaluate_options(option: Callable) -> None:
    """Those of `alignkd evaluate`; `option` adds one."""
    option("model", **_SOURCE)
    option("--prompts", metavar="FILE", type=Path, help="prompt, instruction or turns in each row")
    option("--reward", metavar="RULE", help="a target by its name, model:SOURCE or module:function; needs --prompts")
    option("--against", metavar="SOURCE", help="another model that answers, too: win rate; needs --reward or --judge")
    option("--judge", metavar="SOURCE", help="says which answer is better: a model, or http://HOST:PORT/v1#MODEL")
    option("--pairs", metavar="FILE", help="held-out preference pairs: reward accuracy; needs --reference")
    option("--reference", metavar="SOURCE", help="what KL and reward accuracy compare with")
    option("--tasks", metavar="A,B", type=parse_words, default=(), help="of lm-evaluation-harness (the extra eval)")
    option("--limit", metavar="N", type=parse_count, help="only the first items of each task, to try it")
    option("--chat-template", action="store_true", help="render the tasks' prompts as chat")
    option("--responses", metavar="N", type=parse_count, default=1, help="to each prompt (default: %(default)s)")
    option("--max-tokens", metavar="N", type=parse_count, default=256, help="of a response (default: %(default)s)")
    option("--max-length", metavar="N", type=parse_count, default=1024, help="of a pair (default: %(default)s)")
    option("--out", metavar="DIR", type=Path, default=Path("evaluation"), help="a new folder (default: %(default)s)")
    _machine(option)


def sample_options(option: Callable) -> None:
    """Those of `alignkd sample`."""
    option("model", **_SOURCE)
    option("--prompts", metavar="FILE", type=Path, required=True, help="prompt, instruction or turns in each row")
    option("--out", metavar="FILE", type=Path, required=True, help="a new file")
    option("--format", choices=FORMATS, default="jsonl", help="default: %(default)s")
    option("--temperature", metavar="T", type=float, default=1.0, help="default: %(default)s")
    option("--max-tokens", metavar="N", type=parse_count, default=512, help="of an answer (default: %(default)s)")
    option("--engine", choices=ENGINES, default="own", help="vllm: where you have it; untried here (default: own)")
    _machine(option)


def run_options(option: Callable) -> None:
    """Those of `alignkd run`."""
    option("--world", choices=WORLDS, help="Gaussian mixtures or SmolLM2")
    option("--preset", choices=tuple(PRESETS), help="how large a run (default: laptop)")
    words = "names, or orders, controls, methods for all of them (default: orders,controls)"
    option("--pipelines", metavar="A,B", type=parse_pipelines, help=words)
    option("--seeds", metavar="SEEDS", type=parse_seeds, help="e.g. 0, 0-4 or 0,2,5-7 (default: the preset's)")
    option("--algorithm", choices=ALGORITHMS, help="how to align (default: dpo; of mog: both)")
    words = (
        "the rare, desirable behaviour: a rule's name, or a function of yours, module:function (default: the preset's)"
    )
    option("--target", metavar="NAME", help=words)
    option("--reward", metavar="NAME", help="likelihood, rule, model:SOURCE or module:function (default: the preset's)")
    option(
        "--prompts", metavar="FILE", help="your own prompts: JSON Lines or CSV with a column prompt, or a text a line"
    )
    words = "change settings of the preset; beside --from: choose among the file's runs"
    option("--set", metavar="KEY=VALUE", type=parse_setting, nargs="+", action="extend", default=[], help=words)
    words = "run what this record (*.json, *.zip) holds again"
    option("--from", dest="from_record", metavar="FILE", type=Path, help=words)
    option("--check", action="store_true", help="beside --from: compare every figure with the record")
    option("--out", metavar="DIR", type=Path, default=Path("out"), help="default: out")
    option("--device", **DEVICE)
    # By these it goes to a Ray cluster.
    option("--engine", choices=("local", "ray"), default="local", help="ray: as tasks of a cluster (the extra ray)")
    option("--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: one of this machine alone)")
    option("--num-cpus", metavar="N", type=parse_count, help="that a task reserves, and its threads (default: 1)")
    option("--num-gpus", metavar="N", type=float, help="that a task reserves, e.g. 0.5 (default: 1 if there are any)")
    option("--max-retries", metavar="N", type=int, help="of a task whose node died (default: 3)")


def run_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `experiment.run_experiment` takes, from the options of `alignkd run`.

    Raises:
        BadInput: no world, or `--check` without a record.
    """
    if arguments.check:
        raise BadInput("run: --check compares with a record; name it with --from FILE")
    if arguments.world is None:
        raise BadInput("run: name a world, --world mog or --world lm, or a record to run again, --from FILE")
    names = ("world", "pipelines", "seeds", "out", "algorithm", "target", "device")
    own = {name: getattr(arguments, name) for name in ("prompts", "reward") if getattr(arguments, name)}
    overrides = {**dict(arguments.set), **own}
    return {name: getattr(arguments, name) for name in names} | {
        "preset": arguments.preset or "laptop", "overrides": overrides,
    }  # fmt: skip


def _machine(option: Callable) -> None:
    option("--seed", metavar="N", type=int, default=0, help="default: %(default)s")
    option("--device", **DEVICE)
    option("--dtype", choices=("default", *DTYPES), default="default", help="of matrix products")


def bench_options(option: Callable) -> None:
    option("--lengths", metavar="N,N", type=parse_lengths, help="tokens of each response (default: 128,512)")
    option("--repeats", metavar="N", type=parse_count, help="timed rounds; the median counts (default: 5)")
    option("--device", **DEVICE)
    option("--dtype", choices=("default", *DTYPES), default="default", help="of matrix products")
    option("--train", choices=("lora", "full"), default="lora", help="what is trained (default: lora)")
    option("--checkpointing", choices=("on", "off"), default="on", help="of the blocks (default: on)")
    option("--student", metavar="SOURCE", help="default: smollm2-135m-instruct")
    option("--width", metavar="N", type=parse_count, help="of a random model in its place, such as 2048")
    option("--out", metavar="FILE", type=Path, help="default: bench-<device>.json here; with --quick none")
    option("--quick", action="store_true", help="a tiny model for seconds: does it all work here?")
