"""`alignkd run`: a world, a preset and some pipelines become records, seed by seed."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.settings import HEALED, resolve_dtype
from alignkd_lab.pipelines import METHODS, PIPELINES, YARDSTICKS, planned_steps, run_pipelines
from alignkd_lab.presets import default_pipelines, override, possible_pipelines, preset
from alignkd_lab.progress import tell
from alignkd_lab.provenance import best_device, provenance
from alignkd_lab.records import (
    SCHEMA,
    append_record,
    device_of,
    device_with_products,
    holds_records,
    load_records,
    pipeline_entry,
    plain_settings,
    stage_of_seed,
)
from alignkd_lab.store import Store

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def run_experiment(
    *,
    world: str,
    preset: str = "laptop",
    pipelines: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path = Path("out"),
    algorithm: str | None = None,
    target: str | None = None,
    overrides: dict[str, Any] | None = None,
    device: str | None = None,
    yardsticks: Sequence[str] = YARDSTICKS,
) -> Path:
    """Runs pipelines and appends a record per settings and seed to a file below `out`; returns the file.

    What is None takes the preset's default: in the Gaussian world both algorithms and every cell of sharpening and
    KL weight, in the language world DPO. The yardsticks (`base`, `base_aligned`, `kd_only`) run beside them: every
    check of both orders needs them.
    A seed whose record holds all that is asked for is not run again; stages are picked up where a run stopped.

    Raises:
        BadInput: an unknown name, or a setting that cannot be used.
    """
    device = device or best_device()
    out = Path(out)
    run = {"mog": _run_mog, "lm": _run_lm}.get(world)
    if run is None:
        raise BadInput(f"world: unknown {world!r}; use 'mog' or 'lm'")
    check_pipelines(world, pipelines, algorithm)
    return run(preset, pipelines, yardsticks, seeds, out, algorithm, target, overrides or {}, device)


def device_here(world: str, device: str, dtype: str = "default") -> str:
    """What `records.device_of` says of a record that is made on this device."""
    return device_with_products(device, resolve_dtype(dtype, device) if world == "lm" else None)


def check_pipelines(world: str, pipelines: Sequence[str] | None, algorithm: str | None) -> None:
    """Raises BadInput for an unknown pipeline, or one that means nothing in this world or under this algorithm."""
    unknown = [name for name in pipelines or () if name not in PIPELINES]
    if unknown:
        raise BadInput(f"pipeline: unknown {unknown[0]!r}; use some of {', '.join(PIPELINES)}")
    methods = [name for name in pipelines or () if name in METHODS]
    if methods and world == "mog":
        raise BadInput(f"pipeline: {methods[0]!r} teaches by next-token distributions; run it with world 'lm'")
    if methods and algorithm == "rlhf":
        raise BadInput(f"pipeline: {methods[0]!r} is compared under DPO; run it with algorithm 'dpo'")


def _names(world: str, algorithm: str, asked: Sequence[str] | None, yardsticks: Sequence[str]) -> tuple[str, ...]:
    possible = possible_pipelines(world, algorithm)
    chosen = [name for name in asked or default_pipelines(world, algorithm) if name in possible]
    return tuple(dict.fromkeys((*yardsticks, *chosen)))


def _run_mog(name, pipelines, yardsticks, seeds, out, algorithm, target, overrides, device) -> Path:
    from alignkd_lab.mog.world import ALGORITHMS, MogWorld

    chosen = preset(name)
    found = override(chosen.mog, overrides).target_name
    if target not in (None, found):
        raise BadInput(f"target: these settings have {found!r}, not {target!r}; choose modes with --set targets=[3]")
    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    seeds = tuple(seeds if seeds is not None else chosen.mog_seeds)
    path = out / f"mog-{name}-{found}.jsonl"
    sharpenings = (overrides["sharpening"],) if "sharpening" in overrides else chosen.sharpenings
    betas = (overrides["beta"],) if "beta" in overrides else chosen.betas
    algorithms = (algorithm,) if algorithm else ALGORITHMS
    cells = list(itertools.product(algorithms, betas, sharpenings))
    for size, (which, beta, sharpening) in enumerate(cells, 1):
        settings = override(chosen.mog, {**overrides, "beta": float(beta), "sharpening": float(sharpening)})
        names = _names("mog", which, pipelines, yardsticks)
        shown = f"mog {size}/{len(cells)}: {which}, beta {beta:g}, sharpening {sharpening:g}"
        missing = _missing(_held(path, settings, which), device, seeds, names)
        if not missing:
            continue
        world = MogWorld(settings, which, missing, device)
        _say(shown)
        tell("cell", text=shown, number=size, cells=len(cells))
        started = time.perf_counter()
        outcomes, stages = run_pipelines(world, names, Store(out / "stages"))
        seconds = time.perf_counter() - started
        for position, seed in enumerate(missing):
            append_record(
                path,
                _rounded(
                    {
                        **_header("mog", name, which, found, settings, seed),
                        "pipelines": {key: pipeline_entry(outcome, position) for key, outcome in outcomes.items()},
                        "stages": {key: stage_of_seed(stage, position) for key, stage in stages.items()},
                        "provenance": {**provenance(device), "seconds": seconds / len(missing)},
                    }
                ),
            )
    _say("")
    return path


def _run_lm(name, pipelines, yardsticks, seeds, out, algorithm, target, overrides, device) -> Path:
    from alignkd_lab.lm.student import ensure_healed_student
    from alignkd_lab.lm.world import LmWorld

    chosen = preset(name)
    settings = override(chosen.lm, {**overrides, **({"target": target} if target else {})})
    if HEALED.fullmatch(settings.student):
        ensure_healed_student(settings.base, settings.student, device)
    algorithm = algorithm or "dpo"
    seeds = tuple(seeds if seeds is not None else chosen.lm_seeds)
    names = _names("lm", algorithm, pipelines, yardsticks)
    path = out / f"lm-{name}-{algorithm}-{settings.target}.jsonl"
    missing = _missing(_held(path, settings, algorithm), device_here("lm", device, settings.dtype), seeds, names)
    for number, seed in enumerate(missing, 1):
        tell("seed", seed=seed, number=number, seeds=len(missing), units=planned_steps(names))
        store = Store(out / "stages")
        world = LmWorld(settings, algorithm, seed, store, device)
        append_record(path, _lm_record(name, world, names, store))
    return path


def _lm_record(name: str, world: LmWorld, names: Sequence[str], store: Store) -> dict:
    """The record of a world's one seed, run here and now."""
    (seed,), started = world.seeds, time.perf_counter()

    def on_step(text: str) -> None:
        _say(f"lm seed {seed}, {(time.perf_counter() - started) / 60:4.1f} min: {text}")
        pipeline, _, stage = text.partition(": ")
        tell("unit", pipeline=pipeline, stage=stage)

    outcomes, stages = run_pipelines(world, names, store, on_step)
    return _rounded(
        {
            **_header("lm", name, world.algorithm, world.settings.target, world.settings, seed),
            "pipelines": {key: pipeline_entry(outcome, 0) for key, outcome in outcomes.items()},
            "stages": stages,
            "checks": world.checks(),
            "provenance": {
                **provenance(world.device),
                "weights": world.fingerprint(),
                "seconds": time.perf_counter() - started,
            },
        }
    )


def _header(world: str, name: str, algorithm: str, target: str, settings: Any, seed: int) -> dict:
    return {
        "schema": SCHEMA,
        "world": world,
        "preset": name,
        "algorithm": algorithm,
        "target": target,
        "settings": plain_settings(settings),
        "seed": seed,
    }


def _held(path: Path, settings: Any, algorithm: str) -> list[dict]:
    """The records of these settings in a file, packed or not."""
    files = (path, path.with_name(f"{path.name}.gz"))
    wanted = plain_settings(settings)
    return [
        record
        for file in files
        if file.is_file() and holds_records(file)
        for record in load_records(file)
        if record["algorithm"] == algorithm and record["settings"] == wanted
    ]


def _missing(held: Sequence[dict], device: str, seeds: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """The seeds without a record of this device that holds every pipeline asked for."""
    done = {record["seed"] for record in held if device_of(record) == device and set(names) <= set(record["pipelines"])}
    return tuple(seed for seed in seeds if seed not in done)


def _rounded(value: Any) -> Any:
    """Numbers with seven significant digits, more would be noise and twice the size; but settings as they are."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: part if key == "settings" else _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _say(text: str) -> None:
    """Where a long run stands: one line that renews itself on a terminal, plain lines in a log."""
    end = "" if sys.stderr.isatty() and text.startswith("mog") else "\n"
    print(f"\r{text:<100}" if end == "" else text, end=end, file=sys.stderr, flush=True)
