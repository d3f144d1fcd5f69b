"""`alignkd run`: a world, a preset and some pipelines become records, seed by seed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.settings import HEALED, SHIPPED, LmSettings
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import make_folder
from alignkd_lab.pipelines import (
    ALGORITHMS,
    WORLDS,
    YARDSTICKS,
    Outcome,
    planned_steps,
    run_pipelines,
)
from alignkd_lab.presets import check_pipelines, default_pipelines, override, possible_pipelines, preset
from alignkd_lab.progress import tell
from alignkd_lab.provenance import best_device, commit, device_label, provenance, resolve_dtype
from alignkd_lab.recording import SCHEMA, find, plain_settings, read_json, rounded, run_key, write
from alignkd_lab.store import Store

if TYPE_CHECKING:  # what can be refused is refused before torch and pandas are loaded, which takes seconds
    from alignkd_lab.records import Records


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
    arm: tuple[str, str] = ("", ""),
) -> list[Path]:
    """Runs pipelines and keeps a record for each settings and seed below `out`; returns the records' files.

    What is None takes the preset's default: in the Gaussian world both algorithms and every cell of sharpening and
    KL weight, in the language world DPO. The yardsticks (`base`, `base_aligned`, `kd_only`) run beside them: every
    check of both orders needs them. `arm` is a study's name for what was moved, and to which value.
    A seed whose record holds all that is asked for is not run again; stages are picked up where a run stopped.

    Raises:
        BadInput: an unknown name, or a setting that cannot be used.
    """
    asked = {"world": world, "preset": preset, "pipelines": pipelines, "seeds": seeds, "algorithm": algorithm,
             "target": target, "overrides": overrides, "device": device, "yardsticks": yardsticks}  # fmt: skip
    cells, device, out = cells_of(asked), best_device(device), Path(out)
    commit()  # now: it may be another one when the first seed ends
    if left_out := set(pipelines or ()) - {name for cell in cells for name in cell.pipelines}:
        _say(f"left out, since they mean nothing under {algorithm}: {', '.join(sorted(left_out))}")
    make_folder(out)
    run, files = _gaussian_records if world == "mog" else _language_records, []
    for number, cell in enumerate(cells, 1):
        head = _head(cell.world, cell.preset, cell.algorithm, cell.settings, device)
        found = find(out, head, cell.seeds)
        kept = {seed: read_json(path) for seed, path in found.items()}
        if world == "lm" and kept:
            from alignkd_lab.lm.world import check_weights

            check_weights(cell.settings, cell.algorithm, kept)
        held = {seed: found[seed] for seed, made in kept.items() if set(cell.pipelines) <= set(made["pipelines"])}
        missing = [seed for seed in cell.seeds if seed not in held]
        for record in run(cell, missing, head, out, device, (number, len(cells))) if missing else ():
            if record["seed"] in missing:
                held[record["seed"]] = write(out, _under(record, arm), first_wins=True)
        files += [held[seed] for seed in cell.seeds]
    return files


class Cell(NamedTuple):
    """Some seeds of one setting: of the Gaussian world all are computed in one batch, of the language world each alone.

    A run has a cell for each algorithm, KL weight and sharpening in the Gaussian world, and one in the language world.
    """

    world: str
    preset: str
    algorithm: str
    settings: MogSettings | LmSettings
    pipelines: tuple[str, ...]
    seeds: tuple[int, ...]


def cells_of(request: dict[str, Any]) -> list[Cell]:
    """The cells that arguments of `run_experiment` ask for.

    Raises:
        BadInput: what can be refused without a model.
    """
    world, name = request["world"], request.get("preset", "laptop")
    pipelines, seeds, algorithm, target, device = (
        request.get(part) for part in ("pipelines", "seeds", "algorithm", "target", "device")
    )
    if world not in WORLDS:
        raise UnknownName("world", world, WORLDS)
    if algorithm not in (None, *ALGORITHMS):
        raise UnknownName("algorithm", algorithm, ALGORITHMS)
    if device not in (None, "cpu") and not device.startswith("cuda"):
        raise UnknownName("device", device, ("cpu", "cuda"))
    check_pipelines(world, pipelines, algorithm)
    chosen, overrides = preset(name), request.get("overrides") or {}

    def cell(algorithm: str, settings: Any, usual: tuple[int, ...]) -> Cell:
        possible = possible_pipelines(world, algorithm)
        chosen = [name for name in pipelines or default_pipelines(world, algorithm) if name in possible]
        names = tuple(dict.fromkeys((*request.get("yardsticks", YARDSTICKS), *chosen)))
        return Cell(world, name, algorithm, settings, names, tuple(seeds if seeds is not None else usual))

    if world == "lm":
        from alignkd_lab.lm.request import check_request

        settings = check_request(override(chosen.lm, {**overrides, **({"target": target} if target else {})}))
        if settings.trial_seed in (seeds or chosen.lm_seeds):
            raise BadInput(f"seed: {settings.trial_seed} is the seed of the learning-rate trials; choose another")
        return [cell(algorithm or "dpo", settings, chosen.lm_seeds)]
    found = override(chosen.mog, overrides).target_name
    if target not in (None, found):
        raise BadInput(f"target: these settings have {found!r}, not {target!r}; choose modes with --set targets=[3]")
    # The preset's grid, but where one of its sides is named.
    algorithms = (algorithm,) if algorithm else ALGORITHMS
    betas = (overrides["beta"],) if "beta" in overrides else chosen.betas
    sharpenings = (overrides["sharpening"],) if "sharpening" in overrides else chosen.sharpenings
    return [
        cell(which, override(chosen.mog, {**overrides, "beta": float(b), "sharpening": float(s)}), chosen.mog_seeds)
        for which, b, s in itertools.product(algorithms, betas, sharpenings)
    ]


def parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of `run_experiment` that together are these, and that may run at once and on several machines.

    A part is a cell of the Gaussian world, or one seed of the language world with all of its pipelines, which share
    stages.

    Raises:
        BadInput: what `run_experiment` refuses without a model.
    """
    cells, overrides = cells_of(request), request.get("overrides") or {}
    if request["world"] == "lm":
        return [{**request, "seeds": (seed,)} for cell in cells for seed in cell.seeds]
    named = [{"beta": cell.settings.beta, "sharpening": cell.settings.sharpening} for cell in cells]
    return [{**request, "algorithm": cell.algorithm, "overrides": {**overrides, **own}}
            for cell, own in zip(cells, named, strict=True)]  # fmt: skip


# Gaussians --------------------------------------------------------------------------------------------


def _gaussian_records(
    cell: Cell, missing: list[int], head: dict, out: Path, device: str, place: tuple[int, int]
) -> Iterator[dict]:
    """Those of a cell's seeds that are missing; `place` is its number of how many."""
    import torch

    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    text = f"{cell.algorithm}, beta {cell.settings.beta:g}, sharpening {cell.settings.sharpening:g}"
    _say(f"mog {place[0]}/{place[1]}: {text}")
    tell("part", name=text, number=place[0], parts=place[1], units=planned_steps(cell.pipelines))
    note = out / "stages" / f"batch-{run_key(head)}.json"
    batch, store = _batch(note, missing), Store(out / "stages")
    yield from run_gaussians(cell.settings, cell.algorithm, batch, cell.pipelines, store, _tell_unit, device, head)
    note.unlink(missing_ok=True)
    if place[0] == place[1]:
        _say("")


def _batch(note: Path, missing: list[int]) -> tuple[int, ...]:
    """The seeds to run together: those that are missing, or all of a batch that was cut off between two of its records.

    Only so are its stages found again, and its numbers the same to the last digit. `note` keeps it until it is done.
    """
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(note.read_text())
        if set(missing) <= set(noted):
            return tuple(noted)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(missing))
    return tuple(missing)


def run_gaussians(
    settings: MogSettings,
    algorithm: str,
    seeds: Sequence[int],
    pipelines: Sequence[str] | None = None,
    store: Store | None = None,
    on_step: Callable[[str], None] = lambda text: None,
    device: str = "cpu",
    head: dict | None = None,
) -> list[dict]:
    """Records of one setting, a record a seed, all seeds in one batch; both orders, controls and yardsticks by default.

    `on_step` is told of each stage and evaluation as it starts, as many as `pipelines.planned_steps` says; what it
    raises ends the run. Without a `store` nothing is kept.

    Raises:
        BadInput: unknown algorithm or pipeline, no seeds, or a seed twice.
    """
    from alignkd_lab.mog.world import MogWorld

    names, started = tuple(pipelines or default_pipelines("mog", algorithm)), time.perf_counter()
    world = MogWorld(settings, algorithm, tuple(seeds), device)
    head = head or _head("mog", "laptop", algorithm, settings, device)
    with tempfile.TemporaryDirectory() as scratch:
        return _records(world, names, store or Store(Path(scratch)), on_step, head, device, started)


def run_cell(*arguments, **options) -> Records:
    """`run_gaussians` as tables, for a notebook that draws what it runs."""
    from alignkd_lab.records import tabulate

    return tabulate(run_gaussians(*arguments, **options))


# Language ---------------------------------------------------------------------------------------------


def _language_records(
    cell: Cell, missing: list[int], head: dict, out: Path, device: str, place: tuple[int, int]
) -> Iterator[dict]:
    """One seed after another of those that are missing; `place` is the cell's."""
    from alignkd_lab.lm.prompts import describe
    from alignkd_lab.lm.student import ensure_healed_student
    from alignkd_lab.lm.tiny import TINY
    from alignkd_lab.lm.world import LmWorld

    settings, store = cell.settings, Store(out / "stages")
    # The trainer collects garbage after every stage; the libraries' half a million objects need not be searched then.
    gc.freeze()
    if {settings.truth, settings.base, settings.student} <= set(TINY):
        import torch

        torch.set_num_threads(1)  # as for Gaussians: beside other work a second thread costs minutes of waiting
    if HEALED.fullmatch(settings.student):
        ensure_healed_student(settings.base, settings.student, device)
    for number, seed in enumerate(missing, 1):
        tell("part", name=f"seed {seed}", number=number, parts=len(missing), units=planned_steps(cell.pipelines))
        started = time.perf_counter()
        world = LmWorld(settings, cell.algorithm, seed, store, device)

        def on_step(text: str, seed: int = seed, started: float = started) -> None:
            _say(f"lm seed {seed}, {(time.perf_counter() - started) / 60:4.1f} min: {text}")
            _tell_unit(text)

        (record,) = _records(world, cell.pipelines, store, on_step, head, device, started)
        prompts = {} if settings.prompts == SHIPPED else {"prompts": describe(settings.prompts)}
        yield {**record, "provenance": {**record["provenance"], "weights": world.fingerprint(), **prompts}}


# Records ----------------------------------------------------------------------------------------------


def _records(
    world: Any, names: Sequence[str], store: Store, on_step: Callable, head: dict, device: str, started: float
) -> list[dict]:
    """Runs pipelines in a world; a record for each of its seeds, which share the seconds since `started`."""
    outcomes, stages = run_pipelines(world, names, store, on_step)
    checks = {"checks": world.checks()} if hasattr(world, "checks") else {}
    made = {**provenance(device), "seconds": (time.perf_counter() - started) / len(world.seeds)}
    return [
        rounded(
            {
                **head,
                "seed": seed,
                "pipelines": {name: _entry(outcome, place) for name, outcome in outcomes.items()},
                "stages": {key: _stage_of_seed(stage, place) for key, stage in stages.items()},
                **checks,
                "provenance": made,
            }
        )
        for place, seed in enumerate(world.seeds)
    ]


def _head(world: str, name: str, algorithm: str, settings: Any, device: str) -> dict:
    dtype = resolve_dtype(settings.dtype, device) if world == "lm" else None
    return {
        "schema": SCHEMA,
        "world": world,
        "preset": name,
        "algorithm": algorithm,
        "target": settings.target if world == "lm" else settings.target_name,
        "device": device_label(device, dtype),
        "settings": plain_settings(settings),
    }


def _under(record: dict, arm: tuple[str, str]) -> dict:
    """The record with a study's arm on each of its pipelines."""
    if not arm[0]:
        return record
    return {**record, "pipelines": {name: {**entry, "arm": arm} for name, entry in record["pipelines"].items()}}


def _entry(outcome: Outcome, position: int) -> dict:
    """A pipeline's part of one seed's record; what an evaluation holds per seed is split, the rest stays.

    An undefined metric (NaN) is None.
    """
    evaluation = dict(outcome.evaluation)
    values = {name: of_seeds[position] for name, of_seeds in evaluation.pop("metrics").items()}
    metrics = {name: None if value is None or math.isnan(value) else value for name, value in values.items()}
    if "view" in evaluation:
        evaluation["view"] = evaluation["view"][position]
    return {"metrics": metrics, "stages": outcome.stages, **evaluation}


def _stage_of_seed(stage: dict, position: int) -> dict:
    """A stage's part of one seed's record: of what it left per seed, that seed's."""
    info = dict(stage["info"])
    per_seed = info.pop("per_seed", {})
    return {**stage, "info": {**info, **{name: values[position] for name, values in per_seed.items()}}}


def _tell_unit(text: str) -> None:
    pipeline, _, stage = text.partition(": ")
    tell("unit", pipeline=pipeline, stage=stage)


def _say(text: str) -> None:
    """Where a long run stands: one line that renews itself on a terminal, plain lines in a log."""
    end = "" if sys.stderr.isatty() and text.startswith("mog") else "\n"
    print(f"\r{text:<100}" if end == "" else text, end=end, file=sys.stderr, flush=True)
