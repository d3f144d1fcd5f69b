"""The script that runs the registered study in the language world (`data/records/PLAN.md`; as data in `study.plan`).

`python -m alignkd_lab.study.run FOLDER` runs what is left of it, in the plan's order, and keeps stages and records in
FOLDER as `alignkd run` does: a finished seed is never run again, and stages are picked up where a run stopped. Matrix
products are float32 on every CPU, also on one that is faster in bfloat16: in another type a seed is another draw.
Where a GPU is lent for a while, `--preset gpu --minutes N` begins no seed after N minutes. Finished seeds carry over
from one loan to the next: copy the folders `runs` of earlier loans, or what `records.pack` made of them, into FOLDER,
wherever below it. Several processes with the same FOLDER and other `--seeds` can share a large GPU: begin one, and the
others when its trials are kept. Their seconds are then no cost of a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from alignkd_lab.errors import AlignkdError, BadInput, UnknownName
from alignkd_lab.experiment import run_experiment
from alignkd_lab.provenance import best_device
from alignkd_lab.records import load, record_files
from alignkd_lab.study import plan
from alignkd_lab.study.lab import parse, say
from alignkd_lab.study.plan import Cell


def left(
    folder: Path, preset: str = "laptop", arms: Sequence[str] = tuple(plan.ARMS), device: str = "cpu"
) -> list[tuple[Cell, list[int]]]:
    """Cells of these arms in the plan's order, and of each the registered seeds that no record below `folder` holds."""
    records = load(folder) if record_files(folder) else None
    cells = [cell for cell in plan.cells() if cell.arm in arms]
    held = [plan.seeds_of(records, cell, preset, device) for cell in cells]
    return [
        (cell, [seed for seed in cell.seeds if not run or seed not in run.seeds])
        for cell, run in zip(cells, held, strict=True)
    ]


def run_study(
    folder: Path,
    preset: str = "laptop",
    arms: Sequence[str] = tuple(plan.ARMS),
    seeds: Sequence[int] = plan.SEEDS,
    device: str = "cpu",
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Runs what is left, cell by cell and seed by seed; ends early where `until` says so before a seed is begun.

    Raises:
        BadInput: a damaged record, or an unknown preset.
        CannotContinue: weights are missing.
    """
    for cell, seed in [(cell, seed) for cell, missing in left(folder, preset, arms, device) for seed in missing]:
        if until():
            return
        if seed not in seeds:
            continue
        say(f"{cell.arm}, {cell.value}, seed {seed}")
        run_experiment(
            world="lm",
            preset=preset,
            pipelines=cell.pipelines,
            seeds=(seed,),
            out=folder,
            algorithm=cell.algorithm,
            # All of them, so that the registered settings stay where the preset would take others.
            overrides=dataclasses.asdict(plan.settings_of(cell, preset)),
            device=device,
            yardsticks=cell.yardsticks,
            arm=(cell.arm, cell.value),
        )


def table(todo: list[tuple[Cell, list[int]]]) -> str:
    """What is done and what is left: a line a cell with the seeds held of those registered, and a sum."""
    wide, done, count = max(len(cell.value) for cell, _ in todo), 0, 0
    lines = [f"{'arm':<22}{'value':<{wide}}  seeds"]
    for cell, missing in todo:
        held = len(cell.seeds) - len(missing)
        lines.append(f"{cell.arm:<22}{cell.value:<{wide}}  {held} of {len(cell.seeds)}")
        done, count = done + held, count + len(cell.seeds)
    return "\n".join([*lines, f"{done} of {count} seeds done, {count - done} left"])


def parse_arms(text: str) -> tuple[str, ...]:
    """`"main,beta"` -> ("main", "beta"). Raises ArgumentTypeError for an arm that the plan does not have."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in plan.ARMS:
            raise argparse.ArgumentTypeError(str(UnknownName("arm", name, plan.ARMS)))
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is left and says what is done; 0 done, 1 an expected error, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m alignkd_lab.study.run", description=__doc__)
    option = parser.add_argument
    option("--preset", default="laptop", choices=tuple(plan.MAIN), help="how large (default: laptop)")
    option("--arms", metavar="A,B", type=parse_arms, default=tuple(plan.ARMS), help="default: all, in order")
    option("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    option("--list", action="store_true", help="only say what is done and what is left")
    code = 0
    try:
        asked, until = parse(parser, argv, plan.SEEDS)
        device = best_device(asked.device)
        if not asked.list:
            run_study(asked.folder, asked.preset, asked.arms, asked.seeds, device, until)
    except BadInput as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except AlignkdError as error:
        print(f"study: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\nStopped. Finished stages are kept; the same command goes on.", file=sys.stderr)
        code = 130
    print(table(left(asked.folder, asked.preset, asked.arms, device)))
    return code


if __name__ == "__main__":
    sys.exit(main())
