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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.settings import HEALED, SHIPPED, LmSettings
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import make_folder
from alignkd_lab.pipelines import METHODS, PIPELINES, YARDSTICKS, Outcome, planned_steps, run_pipelines, unknown
from alignkd_lab.presets import Preset, default_pipelines, names_of, override, preset
from alignkd_lab.progress import tell
from alignkd_lab.provenance import best_device, device_label, provenance, resolve_dtype
from alignkd_lab.recording import ALGORITHMS, SCHEMA, find, plain_settings, read_json, run_key, write
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
    check_names(world, pipelines, algorithm, device)
    run = _run_mog if world == "mog" else _run_lm
    return run(preset, pipelines, yardsticks, seeds, Path(out), algorithm, target, overrides or {}, device, arm)


def parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of `run_experiment` that together are these, and that may run at once and on several machines.

    A part is a cell of the Gaussian world with all of its seeds, which are computed in one batch, or one seed of the
    language world with all of its pipelines, which share stages.

    Raises:
        BadInput: what `run_experiment` refuses without a model.
    """
    check_names(*(request.get(name) for name in ("world", "pipelines", "algorithm", "device")))
    chosen, overrides = preset(request.get("preset", "laptop")), request.get("overrides") or {}
    algorithm, target, seeds = (request.get(name) for name in ("algorithm", "target", "seeds"))
    if request["world"] == "lm":
        return [{**request, "seeds": (seed,)} for seed in check_lm(chosen, overrides, target, seeds)[1]]
    check_mog(chosen.mog, overrides, target)
    return [{**request, "algorithm": name, "overrides": cell} for name, cell in mog_cells(chosen, algorithm, overrides)]


def check_names(world: str, pipelines: Sequence[str] | None, algorithm: str | None, device: str | None) -> None:
    if world not in ("mog", "lm"):
        raise UnknownName("world", world, ("mog", "lm"))
    if algorithm not in (None, *ALGORITHMS):
        raise UnknownName("algorithm", algorithm, ALGORITHMS)
    if device not in (None, "cpu") and not device.startswith("cuda"):
        raise UnknownName("device", device, ("cpu", "cuda"))
    check_pipelines(world, pipelines, algorithm)


def check_pipelines(world: str, pipelines: Sequence[str] | None, algorithm: str | None) -> None:
    """Raises BadInput for an unknown pipeline, or one that means nothing in this world or under this algorithm."""
    if strange := [name for name in pipelines or () if name not in PIPELINES]:
        raise unknown("pipeline", strange[0], PIPELINES)
    methods = [name for name in pipelines or () if name in METHODS]
    if methods and world == "mog":
        raise BadInput(f"pipeline: {methods[0]!r} teaches by next-token distributions; run it with world 'lm'")
    if methods and algorithm == "rlhf":
        raise BadInput(f"pipeline: {methods[0]!r} is compared under DPO; run it with algorithm 'dpo'")


# Gaussians --------------------------------------------------------------------------------------------


def _run_mog(name, pipelines, yardsticks, seeds, out, algorithm, target, overrides, device, arm) -> list[Path]:
    chosen = preset(name)
    found = check_mog(chosen.mog, overrides, target)
    device = best_device(device)
    make_folder(out)
    import torch

    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    seeds = tuple(seeds if seeds is not None else chosen.mog_seeds)
    cells = mog_cells(chosen, algorithm, overrides)
    files: list[Path] = []
    for number, (which, cell) in enumerate(cells, 1):
        settings = override(chosen.mog, cell)
        names = names_of("mog", which, pipelines, yardsticks)
        head = _head("mog", name, which, found, settings, device)
        held = _held(out, head, seeds, names)
        missing = [seed for seed in seeds if seed not in held]
        if missing:
            text = f"{which}, beta {settings.beta:g}, sharpening {settings.sharpening:g}"
            _say(f"mog {number}/{len(cells)}: {text}")
            tell("part", name=text, number=number, parts=len(cells), units=planned_steps(names))
            note = out / "stages" / f"batch-{run_key(head)}.json"
            batch = _batch(note, missing)
            made = run_gaussians(settings, which, batch, names, Store(out / "stages"), _tell_unit, device, head)
            for record in made:
                if record["seed"] in missing:
                    held[record["seed"]] = write(out, _under(record, arm), first_wins=True)
            note.unlink(missing_ok=True)
        files += [held[seed] for seed in seeds]
    _say("")
    return files


def check_mog(settings: MogSettings, overrides: dict[str, Any], target: str | None) -> str:
    """The target of the settings."""
    found = override(settings, overrides).target_name
    if target not in (None, found):
        raise BadInput(f"target: these settings have {found!r}, not {target!r}; choose modes with --set targets=[3]")
    return found


def mog_cells(chosen: Preset, algorithm: str | None, overrides: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Algorithm and overrides of each cell: the preset's, but where one of them is named."""
    sharpenings = (overrides["sharpening"],) if "sharpening" in overrides else chosen.sharpenings
    betas = (overrides["beta"],) if "beta" in overrides else chosen.betas
    return [
        (which, {**overrides, "beta": float(beta), "sharpening": float(sharpening)})
        for which, beta, sharpening in itertools.product((algorithm,) if algorithm else ALGORITHMS, betas, sharpenings)
    ]


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
    with tempfile.TemporaryDirectory() as scratch:
        outcomes, stages = run_pipelines(world, names, store or Store(Path(scratch)), on_step)
    seconds = (time.perf_counter() - started) / len(world.seeds)
    head = head or _head("mog", "laptop", algorithm, settings.target_name, settings, device)
    return [
        _rounded(
            {
                **head,
                "seed": seed,
                "pipelines": {name: pipeline_entry(outcome, place) for name, outcome in outcomes.items()},
                "stages": {key: _stage_of_seed(stage, place) for key, stage in stages.items()},
                "provenance": {**provenance(device), "seconds": seconds},
            }
        )
        for place, seed in enumerate(world.seeds)
    ]


def run_cell(*arguments, **options) -> Records:
    """`run_gaussians` as tables, for a notebook that draws what it runs."""
    from alignkd_lab.records import tabulate

    return tabulate(run_gaussians(*arguments, **options))


# Language ---------------------------------------------------------------------------------------------


def _run_lm(name, pipelines, yardsticks, seeds, out, algorithm, target, overrides, device, arm) -> list[Path]:
    from alignkd_lab.lm.tiny import TINY

    settings, seeds = check_lm(preset(name), overrides, target, seeds)
    device = best_device(device)
    make_folder(out)
    from alignkd_lab.lm.own_prompts import describe
    from alignkd_lab.lm.student import ensure_healed_student
    from alignkd_lab.lm.world import LmWorld

    # The trainer collects garbage after every stage; the libraries' half a million objects need not be searched then.
    gc.freeze()
    if {settings.truth, settings.base, settings.student} <= set(TINY):
        import torch

        torch.set_num_threads(1)  # as for Gaussians: beside other work a second thread costs minutes of waiting
    if HEALED.fullmatch(settings.student):
        ensure_healed_student(settings.base, settings.student, device)
    algorithm = algorithm or "dpo"
    names = names_of("lm", algorithm, pipelines, yardsticks)
    head = _head("lm", name, algorithm, settings.target, settings, device)
    files = _held(out, head, seeds, names)
    missing = [seed for seed in seeds if seed not in files]
    for number, seed in enumerate(missing, 1):
        tell("part", name=f"seed {seed}", number=number, parts=len(missing), units=planned_steps(names))
        store, started = Store(out / "stages"), time.perf_counter()
        world = LmWorld(settings, algorithm, seed, store, device)

        def on_step(text: str, seed: int = seed, started: float = started) -> None:
            _say(f"lm seed {seed}, {(time.perf_counter() - started) / 60:4.1f} min: {text}")
            _tell_unit(text)

        outcomes, stages = run_pipelines(world, names, store, on_step)
        record = {
            **head,
            "seed": seed,
            "pipelines": {key: pipeline_entry(outcome, 0) for key, outcome in outcomes.items()},
            "stages": stages,
            "checks": world.checks(),
            "provenance": {
                **provenance(device),
                "weights": world.fingerprint(),
                **({} if settings.prompts == SHIPPED else {"prompts": describe(settings.prompts)}),
                "seconds": time.perf_counter() - started,
            },
        }
        files[seed] = write(out, _under(_rounded(record), arm), first_wins=True)
    return [files[seed] for seed in seeds]


def check_lm(
    chosen: Preset, overrides: dict[str, Any], target: str | None, seeds: Sequence[int] | None
) -> tuple[LmSettings, tuple[int, ...]]:
    """Settings and seeds, those of the preset where none are named."""
    from alignkd_lab.lm.request import check_request

    settings = check_request(override(chosen.lm, {**overrides, **({"target": target} if target else {})}))
    seeds = tuple(seeds if seeds is not None else chosen.lm_seeds)
    if settings.trial_seed in seeds:
        raise BadInput(f"seed: {settings.trial_seed} is the seed of the learning-rate trials; choose another")
    return settings, seeds


# Records ----------------------------------------------------------------------------------------------


def _head(world: str, name: str, algorithm: str, target: str, settings: Any, device: str) -> dict:
    dtype = resolve_dtype(settings.dtype, device) if world == "lm" else None
    return {
        "schema": SCHEMA,
        "world": world,
        "preset": name,
        "algorithm": algorithm,
        "target": target,
        "device": device_label(device, dtype),
        "settings": plain_settings(settings),
    }


def _held(out: Path, head: dict, seeds: Sequence[int], names: Sequence[str]) -> dict[int, Path]:
    """Files of the seeds whose record holds every pipeline asked for."""
    found = find(out, head, seeds)
    return {seed: path for seed, path in found.items() if set(names) <= set(read_json(path)["pipelines"])}


def _under(record: dict, arm: tuple[str, str]) -> dict:
    """The record with a study's arm on each of its pipelines."""
    if not arm[0]:
        return record
    return {**record, "pipelines": {name: {**entry, "arm": arm} for name, entry in record["pipelines"].items()}}


def pipeline_entry(outcome: Outcome, position: int) -> dict:
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


def _rounded(value: Any) -> Any:
    """Numbers with seven significant digits, more would be noise and twice the size; but settings as they are."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: part if key == "settings" else _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _tell_unit(text: str) -> None:
    pipeline, _, stage = text.partition(": ")
    tell("unit", pipeline=pipeline, stage=stage)


def _say(text: str) -> None:
    """Where a long run stands: one line that renews itself on a terminal, plain lines in a log."""
    end = "" if sys.stderr.isatty() and text.startswith("mog") else "\n"
    print(f"\r{text:<100}" if end == "" else text, end=end, file=sys.stderr, flush=True)
