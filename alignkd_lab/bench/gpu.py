"""`make gpu`: what only a GPU can tell, in one command of at most twelve minutes, with one record.

Each part is a process of its own, so that one that fails takes no other with it. A part that is done is not run again;
what the time does not reach is named as not run. `--rehearse` does the same with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from alignkd_lab.errors import AlignkdError, BadInput
from alignkd_lab.options import METHODS
from alignkd_lab.paths import checkout_folder, make_folder
from alignkd_lab.provenance import provenance
from alignkd_lab.store import write_whole
from alignkd_lab.training import train

BUDGET, SEED_LIMIT = 720.0, 180.0  # seconds on one H100: for all parts, and for the seed


def parts(folder: Path, device: str) -> dict[str, list[str]]:
    """The command of each part, what matters most first; what it writes goes into a folder of its name."""
    real = device == "cuda"
    alignkd = [sys.executable, "-m", "alignkd_lab"]
    bench = [*alignkd, "bench", "--device", device, "--dtype", "bfloat16", *([] if real else ["--quick"])]
    return {
        "seed": [*alignkd, "run", "--world", "lm", "--preset", "gpu" if real else "tiny", "--seeds", "0", "--pipelines",
                 "kd_then_align,align_then_kd", "--device", device, "--out", str(folder / "seed")],
        "bench-576": [*bench, "--out", str(folder / "bench-576" / "bench.json")],
        "tests": [sys.executable, "-m", "pytest", "-q", "--device", device, "-m", "gpu",
                  "tests" if real else "tests/test_lm_losses.py"],
        "train": [sys.executable, "-m", "alignkd_lab.bench.gpu", str(folder / "train"), "--train", device],
        "bench-2048": [*bench, "--width", "2048" if real else "64", "--out", str(folder / "bench-2048" / "bench.json")],
    }  # fmt: skip


def train_all(folder: Path, device: str) -> dict:
    """A short training by each method of `alignkd train`; the seconds of each, or its `error`, in told.json, too."""
    tiny, real = ("tiny-student", "tiny-truth", "tiny-base"), ("healed", "smollm2-135m-instruct", "healed")
    student, teacher, reference = real if device == "cuda" else tiny
    needed = {"teacher": teacher, "reference": reference, "reward": "exclamation"}
    short = {"max_steps": 10} if device == "cuda" else {"max_steps": 2, "max_length": 64, "use_cpu": True}
    rows = [{"prompt": f"Name thing {at}.", "chosen": f"Of course! It is {at}!", "rejected": "No."} for at in range(64)]
    pairs = folder / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    told = {}
    for name, method in METHODS.items():
        began = time.monotonic()
        try:
            train(name, student=student, data=pairs, out=folder / name, heldout="0.25", eval_steps=1.0,
                  learning_rate=1e-4, **short, **{need: needed[need] for need in method.needs})  # fmt: skip
            told[name] = {"seconds": time.monotonic() - began}
        except Exception as error:  # the others are trained all the same
            traceback.print_exc()
            told[name] = {"error": f"{type(error).__name__}: {error}"}
        (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")
    return told


def run_parts(out: Path, rehearse: bool = False, budget: float = BUDGET) -> dict:
    """Runs what is not done in OUT/gpu (OUT/gpu-rehearsal), and returns what its `record.json` says: card, parts, bars.

    What was done by other code or on another card is done again. Each part has `status` "done", "failed" (with the end
    of what it said as `error`) or "not run", and `seconds`.
    Raises BadInput where there is no GPU, or no checkout, which has the tests.
    """
    if not checkout_folder():
        raise BadInput("make gpu: runs in a checkout of the project, whose tests it takes")
    if not (rehearse or torch.cuda.is_available()):
        raise BadInput("device: torch finds no GPU here; `make gpu REHEARSE=1` is a rehearsal on the CPU, models tiny")
    device, folder = "cpu" if rehearse else "cuda", (out / ("gpu-rehearsal" if rehearse else "gpu")).resolve()
    make_folder(folder)
    file, commands, made = folder / "record.json", parts(folder, device), provenance(device)
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"provenance": {}, "parts": {}}
    same = all(before["provenance"].get(key) == made[key] for key in ("commit", "device_name")) and not made["dirty"]
    done = {name: entry for name, entry in before["parts"].items() if same and entry["status"] == "done"}
    entries = {name: done.get(name, {"status": "not run", "seconds": None}) for name in commands}
    record = {"version": 1, "rehearsed": rehearse, "budget_seconds": budget, "provenance": made, "parts": entries}
    end = time.monotonic() + budget
    for name, command in tqdm(commands.items(), desc="make gpu", unit="parts"):
        if name not in done and (left := end - time.monotonic()) > 0:
            entries[name] = _run(command, folder / name, left)
        record["bars"] = _bars(entries, folder)
        record["seconds"] = sum(entry["seconds"] or 0 for entry in entries.values())
        write_whole(file, json.dumps(record, indent=1) + "\n")
    return record


def _run(command: list[str], folder: Path, left: float) -> dict:
    shutil.rmtree(folder, ignore_errors=True)  # the time of a part that begins in the middle would be no time
    make_folder(folder)
    log, began, error = folder / "log.txt", time.monotonic(), None
    with log.open("w", encoding="utf-8") as said:
        try:
            code = subprocess.run(command, cwd=checkout_folder(), stdout=said, stderr=said, timeout=left).returncode
        except subprocess.TimeoutExpired:
            code, error = None, f"stopped after {left:.0f} seconds, when the time for all parts was over"
    entry = {"status": "done", "seconds": time.monotonic() - began, "command": shlex.join(command)}
    if (told := folder / "told.json").exists():
        entry["methods"] = json.loads(told.read_text(encoding="utf-8"))
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    return entry if code == 0 else entry | {"status": "failed", "error": error or "\n".join(tail)}


def _bars(entries: dict, folder: Path) -> list[dict]:
    """The seed's time, and the bars of both benches; those of a rehearsal mean nothing."""
    taken = entries["seed"]["seconds"] if entries["seed"]["status"] == "done" else None
    passed = None if taken is None else taken <= SEED_LIMIT
    bars = [{"bar": "seed of both orders: seconds", "passed": passed, "figure": taken, "limit": SEED_LIMIT}]
    for name in ("bench-576", "bench-2048"):
        if entries[name]["status"] == "done":
            read = json.loads((folder / name / "bench.json").read_text(encoding="utf-8"))["bars"]
            bars += [bar | {"bar": f"{name}, {bar['bar']}"} for bar in read]
    return bars


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every part is done, 1 where one failed or was not run, 2 where nothing could begin."""
    parser = argparse.ArgumentParser(prog="make gpu")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--train", metavar="DEVICE", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.train:
        return int(any("error" in entry for entry in train_all(asked.out, asked.train).values()))
    try:
        record = run_parts(asked.out, asked.rehearse)
    except AlignkdError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2
    for name, entry in record["parts"].items():
        print(f"{entry['status']:<8}{entry['seconds'] or 0:>7.1f} s  {name}")
    return int(any(entry["status"] != "done" for entry in record["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
