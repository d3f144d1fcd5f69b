"""Runs that are killed with SIGKILL and resumed: each must end in the record of an undisturbed run, to the digit.

    python tests/kills.py --kills 50 --scenes gaussians language training

Half of the kills fall at a random time, half at a random operation on a file below the out folder. Every run is a fork
of one process that has imported all, so that a kill costs a run of the tiny preset and no import.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}

from alignkd_lab import cli

# What two runs of one seed may differ in: how long they took, when, and how much memory the process held.
MEASURED = re.compile(r'"(seconds|created|peak_memory_bytes)": ("[^"]*"|[-+.\de]+)')
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def gaussians(out: Path) -> int:
    """Both orders in a cell of each algorithm, two seeds in a batch."""
    smaller = "beta=0.5 sharpening=2.0 dpo_pairs=100 evaluation_draws=100 restarts=2 rlhf_steps=10 dpo_steps=10"
    return cli.main(f"run --world mog --preset tiny --pipelines orders --seeds 0-1 --out {out} --set {smaller}".split())


def language(out: Path) -> int:
    """Both orders and ADPA, with the trials of a learning rate."""
    smaller = "align_learning_rates=[0.01,0.02] truth_responses=2 curve_points=1 validation_responses=1 max_tokens=6"
    smaller += " distil_prompts=4 test_prompts=4 align_steps=2"
    pipelines = "kd_then_align,align_then_kd,adpa"
    command = f"run --world lm --preset tiny --device cpu --pipelines {pipelines} --out {out} --set {smaller}"
    return cli.main(command.split())


def training(out: Path) -> int:
    """`alignkd train` with a checkpoint every other step; its record is what every step told, and the weights."""
    rows = [{"prompt": f"Name {at}.", "chosen": f"It is {at}!", "rejected": f"No {at}."} for at in range(9)]
    pairs = out.with_name("pairs.jsonl")
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--max-steps 8 --save-steps 2 --eval-steps 4 --logging-steps 1 --max-length 128 --heldout 0.2 --use-cpu"
    command = f"train dpo --student tiny-student --data {pairs} --out {out / 'model'} {options}"
    if code := cli.main(command.split()):
        return code
    kept = json.loads((out / "model" / "record.json").read_text())["files"]
    (out / "runs").mkdir(exist_ok=True)
    (out / "runs" / "training.json").write_text(json.dumps([(out / "model" / "curves.csv").read_text(), kept]))
    return 0


WORLDS: dict[str, Callable[[Path], int]] = {"gaussians": gaussians, "language": language, "training": training}


def result(out: Path) -> dict[str, str]:
    """Every record as text, without what is measured."""
    return {path.name: MEASURED.sub(r'"\1": 0', path.read_text()) for path in sorted(out.glob("runs/*.json"))}


def count_writes(out: Path, at: int) -> list[int]:
    """Counts operations on files below `out` from now on; kills this process at number `at`."""
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(out)):
            if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def start(work: Callable[[], object]) -> tuple[int, int]:
    """Work in a child, whose words go nowhere: its process, and where what it returns can be read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            told = work()
            os.write(writing, json.dumps(told).encode())
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            os.write(writing, json.dumps(repr(error)).encode())
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading


def end(child: tuple[int, int], after: float = 600, number: int = signal.SIGKILL) -> tuple[int, object]:
    """Waits for a child, for `after` seconds, then sends it a signal: its exit code, -9 if killed, and what it told."""
    (pid, reading), until = child, time.monotonic() + after
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(pid, number)
            found = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    with os.fdopen(reading) as told:
        text = told.read()
    return os.waitstatus_to_exitcode(found[1]), json.loads(text) if text else None


def run(world: str, out: Path, at: int = 0) -> Callable[[], int]:
    """One run, for a child; it returns how many operations on files it had."""

    def work() -> int:
        count = count_writes(out, at)
        if code := WORLDS[world](out):
            raise SystemExit(code)
        return count[0]

    return work


def resume(world: str, out: Path) -> dict[str, str]:
    """The result of a run that must come to its end."""
    code, told = end(start(run(world, out)))
    assert code == 0, f"{world}: a run in {out} ended with {code}: {told}"
    return result(out)


def harness(world: str, kills: int, seed: int = 0, scenes: bool = False) -> dict:
    """What came of one world; `failed` names the scenes that did not end in the record of an undisturbed run."""
    from mishaps import SCENES  # which imports this module

    draw, started = random.Random(f"{world} {seed}"), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            WORLDS[world](whole)  # here, so that all is imported before the first fork
        expected, began = result(whole), time.monotonic()
        again = Path(scratch) / "again"
        code, writes = end(start(run(world, again)))
        took = time.monotonic() - began
        assert (code, result(again)) == (0, expected), f"{world}: the same seed gave another record"
        row = {"world": world, "at a time": 0, "at a write": 0, "over before": 0, "lost": 0, "scenes": 0, "failed": ""}
        while row["at a time"] + row["at a write"] < kills:
            number = row["at a time"] + row["at a write"] + row["over before"]
            out = Path(scratch) / f"killed-{number}"
            at, after = (draw.randint(1, writes), 600) if number % 2 else (0, draw.uniform(0, took))
            killed = end(start(run(world, out, at)), after)[0] == -signal.SIGKILL
            row[("at a write" if at else "at a time") if killed else "over before"] += 1
            if resume(world, out) != expected:
                row["lost"] += 1
                print(f"{world}: killed {at=} {after=}, and resumed to another record in {out}", file=sys.stderr)
        for scene in SCENES[world] if scenes else ():
            out = Path(scratch) / scene.__name__
            try:
                row["scenes"] += scene(world, out, expected, draw.uniform(0.1, 0.9) * took) is not False
            except AssertionError as error:
                row["failed"] += f"{scene.__name__} "
                print(f"{world}, {scene.__name__}: {error}", file=sys.stderr)
    return {**row, "seconds": round(time.monotonic() - started)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, nargs="+", default=[5], help="in each world, or in all (default: 5)")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--scenes", nargs="*", default=[], help="worlds that meet other mishaps, too")
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    arguments = parser.parse_args()
    failed = False
    for place, world in enumerate(arguments.worlds):
        kills = arguments.kills[min(place, len(arguments.kills) - 1)]
        row = harness(world, kills, arguments.seed, world in arguments.scenes)
        print(json.dumps(row), flush=True)
        failed = failed or bool(row["lost"] or row["failed"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
