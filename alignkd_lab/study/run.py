"""The script that runs the registered study in the language world (`data/records/PLAN.md`; as data in `study.plan`).

`python -m alignkd_lab.study.run FOLDER` runs what is left of it, in the plan's order, and keeps stages and records in
FOLDER as `alignkd run` does: a finished seed is never run again, and stages are picked up where a run stopped. Matrix
products are float32 on every CPU, also on one that is faster in bfloat16: in another type a seed is another draw.
`--preset gpu --minutes 28` is the script for a GPU that is lent for half an hour. What carries over from one such loan
to the next is a finished seed's record, not a model: copy the folders `runs` of earlier loans into FOLDER, wherever
below it, or what `records.pack` made of them, and the study goes on with the first seed that they lack. Several
processes with the same FOLDER and other `--seeds` can share a large GPU: begin one, and the others when its trials are
kept. Their seconds are then no cost of a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from alignkd_lab.arguments import parse_seeds
from alignkd_lab.errors import AlignkdError, UnknownName
from alignkd_lab.experiment import run_experiment
from alignkd_lab.lm.settings import BUILT_IN
from alignkd_lab.provenance import best_device
from alignkd_lab.records import Records, has_records, load
from alignkd_lab.study import plan
from alignkd_lab.study.plan import Cell

_THREADS = {"cpu": 1}  # the plan's


def run_study(
    folder: Path,
    preset: str = "laptop",
    arms: Sequence[str] = tuple(plan.ARMS),
    seeds: Sequence[int] = plan.SEEDS,
    minutes: float | None = None,
    device: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs what the records below `folder` lack of the arms, cell by cell and seed by seed.

    With `minutes` no seed is begun that, by the time that the last one like it took, would not end in time: one with
    the same pipelines under the same algorithm, else the last one of all. A cell's first seed also makes what no other
    cell left it (trials of the learning rate, a student of another depth), which is not foreseen.

    Raises:
        BadInput: a damaged record, or an unknown preset.
        CannotContinue: weights are missing.
    """
    end = None if minutes is None else clock() + 60 * minutes
    records = _records(folder)
    took = _times(records, preset, device)
    last = max(took.values(), default=0.0)
    for cell, seed in _left(records, arms, seeds, preset, device):
        alike = _alike((*cell.yardsticks, *cell.pipelines), cell.algorithm)
        began = clock()
        if end is not None and began + took.get(alike, last) > end:
            print(
                f"Stopped before {cell.arm}, {cell.value}, seed {seed}: the last one like it took "
                f"{took.get(alike, last) / 60:.1f} minutes, and {max(0.0, end - began) / 60:.1f} are left.",
                file=sys.stderr,
            )
            return
        print(f"{cell.arm}, {cell.value}, seed {seed}", file=sys.stderr, flush=True)
        torch.set_num_threads(_THREADS.get(device, torch.get_num_threads()))
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
        last = took[alike] = clock() - began


def table(folder: Path, preset: str = "laptop", arms: Sequence[str] = tuple(plan.ARMS), device: str = "cpu") -> str:
    """What is done and what is left: a line a cell with the seeds held of those registered, and a sum."""
    records = _records(folder)
    rows = [(cell, len(_held(records, cell, preset, device))) for cell in _cells(arms)]
    wide = max(len(cell.value) for cell, _ in rows)
    lines = [f"{'arm':<22}{'value':<{wide}}  seeds"]
    lines += [f"{cell.arm:<22}{cell.value:<{wide}}  {held} of {len(cell.seeds)}" for cell, held in rows]
    held, count = sum(held for _, held in rows), sum(len(cell.seeds) for cell, _ in rows)
    return "\n".join([*lines, f"preset {preset} on {device}: {held} of {count} seeds done, {count - held} left"])


def _cells(arms: Sequence[str]) -> list[Cell]:
    return [cell for cell in plan.cells() if cell.arm in arms]


def _held(records: Records | None, cell: Cell, preset: str, device: str) -> list[int]:
    found = plan.seeds_of(records, cell, preset, device)
    return found.seeds if found else []


def _left(records: Records | None, arms: Sequence[str], seeds: Sequence[int], preset: str, device: str) -> Iterator:
    """(cell, seed) for every registered seed among `seeds` that no record holds, in the plan's order."""
    for cell in _cells(arms):
        held = _held(records, cell, preset, device)
        yield from ((cell, seed) for seed in cell.seeds if seed in seeds and seed not in held)


def _records(folder: Path) -> Records | None:
    """Every record below the folder; None where there is none yet."""
    return load(folder) if folder.exists() and has_records(folder) else None


def _alike(pipelines: Sequence[str], algorithm: str) -> tuple[frozenset[str], str]:
    return frozenset(pipelines), algorithm


def _times(records: Records | None, preset: str, device: str) -> dict[tuple[frozenset[str], str], float]:
    """Seconds that a seed took, where none of its stages was there yet, by its pipelines and algorithm."""
    took: dict = {}
    for run in records.each() if records else ():
        about = run.the_run()
        if (about["world"], about["preset"], about["device"]) != ("lm", preset, device):
            continue
        stages = run.stages.drop_duplicates(["seed", "stage", "seconds"]).groupby("seed")["seconds"].sum()
        for made in run.provenance.sort_values("created").itertuples():
            pipelines = run.metrics.loc[run.metrics["seed"] == made.seed, "pipeline"].unique()
            took[_alike(pipelines, about["algorithm"])] = max(stages.get(made.seed, 0.0), made.seconds)
    return took


def parse_arms(text: str) -> tuple[str, ...]:
    """`"main,beta"` -> ("main", "beta"). Raises ArgumentTypeError for an arm that the plan does not have."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in plan.ARMS:
            raise argparse.ArgumentTypeError(str(UnknownName("arm", name, plan.ARMS)))
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alignkd_lab.study.run",
        description=f"Run what is left of the registered study on {BUILT_IN}; the same command resumes it.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where records and stages lie")
    parser.add_argument("--preset", default="laptop", choices=tuple(plan.MAIN), help="how large (default: laptop)")
    parser.add_argument(
        "--arms", metavar="A,B", type=parse_arms, default=tuple(plan.ARMS), help="default: all, in order"
    )
    parser.add_argument(
        "--seeds",
        metavar="SEEDS",
        type=parse_seeds,
        default=plan.SEEDS,
        help="only these of those registered, e.g. 0-4",
    )
    parser.add_argument("--minutes", metavar="N", type=float, help="begin no seed that would not end in N minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--list", action="store_true", help="only say what is done and what is left")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is left and says what is done; 0 done, 1 an expected error, 130 stopped by Ctrl-C."""
    asked = _parser().parse_args(argv)
    device = best_device(asked.device)
    code = 0
    try:
        if not asked.list:
            run_study(asked.folder, asked.preset, asked.arms, asked.seeds, asked.minutes, device)
    except AlignkdError as error:
        print(f"study: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\nStopped. Finished stages are kept; the same command goes on.", file=sys.stderr)
        code = 130
    print(table(asked.folder, asked.preset, asked.arms, device))
    return code


if __name__ == "__main__":
    sys.exit(main())
