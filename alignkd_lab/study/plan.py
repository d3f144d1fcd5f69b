"""The study in the language world (`data/records/PLAN.md`) as data: its arms, in the order in which they are run.

`study.run` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from alignkd_lab import presets
from alignkd_lab.errors import UnknownName
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.lm.shapes import config_of, parameters
from alignkd_lab.pipelines import ORDERS, YARDSTICKS
from alignkd_lab.presets import override, preset
from alignkd_lab.recording import plain_settings
from alignkd_lab.records import Records

SEEDS = tuple(range(10))
SWEEP_SEEDS = tuple(range(3))
AS_REGISTERED = "as registered"

# The main settings, as changes of a preset.
MAIN: dict[str, dict[str, Any]] = {
    "laptop": {},
    # As registered; in the trials each of these rates left the KL budget, so the preset has smaller ones since.
    "gpu": {"target": "exclamation", "align_learning_rates": (1e-4, 3e-4, 6e-4)},
}


TARGETS = ("exclamation", "colour", "simile")  # the main one first
# As registered, whatever pipelines were added since.
METHODS = "dckd", "adpa", "adpa_plus", "gkd", "align_student_only"
CONTROLS = tuple(f"kd_then_align_{name}" for name in ("base_reference", "base_preferences", "high_temperature"))


@dataclass(frozen=True)
class Times:
    """A count relative to that of the main settings, which differs between presets."""

    factor: float


@dataclass(frozen=True)
class Cell:
    """One value of an arm's setting.

    value: what is shown of it.
    pipelines: those that the plan names.
    changes: of the main settings; a `Times` multiplies.
    yardsticks: what runs beside them.
    beside: the arm that holds the order which this cell lacks; empty where it is the registered settings (`partner`).
    """

    arm: str
    value: str
    pipelines: tuple[str, ...] = ORDERS
    seeds: tuple[int, ...] = SEEDS
    algorithm: str = "dpo"
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    yardsticks: tuple[str, ...] = YARDSTICKS
    beside: str = ""


@dataclass(frozen=True)
class Arm:
    """One question of the plan.

    label: the setting that is moved, in words, with its symbol.
    question: what is asked, in plain words.
    at_main: the value that the main settings have, written as the cells write theirs; empty where none is moved.
    """

    label: str
    question: str
    cells: tuple[Cell, ...]
    at_main: str = ""


def equal_compute() -> Times:
    """By how much K-A's preference samples and alignment steps grow until it has computed as much as A-K.

    Compute is parameters × tokens, the same per token for either model, when sampling as when training. Both orders
    distil once, from a teacher of the base's size into the same student with the same counts, so they differ in
    alignment alone: with S tokens of preference samples and T tokens of pairs, A-K spends P_base (a S + b T) and K-A
    P_student (a S + b T). Whatever a token sampled (a) or trained on (b) costs, K-A with k times as many of both spends
    as much where k = P_base / P_student: 134.5 M / 99 M parameters, a good third more. What the reward costs to compute
    is left out, and K-A pays more of that: the factor favours K-A, hence not the claim.
    """
    settings = preset("laptop").lm
    base, student = (parameters(config_of(source)) for source in (settings.base, settings.student_source))
    return Times(base / student)


def _sweep(arm: str, values: Mapping[str, Any], setting: str | None = None) -> tuple[Cell, ...]:
    return tuple(
        Cell(arm, shown, ORDERS, SWEEP_SEEDS, changes={setting or arm: value}) for shown, value in values.items()
    )


_COMPUTE = equal_compute()
_TWICE_THE_RATE = {"align_learning_rates": (6e-4,)}
_NEW_SEEDS, _PLAIN = SEEDS[len(SWEEP_SEEDS) :], {"kd_temperature": 1.0}

ARMS: dict[str, Arm] = {
    "main": Arm("main experiment", "Does A-K earn more than K-A?", (Cell("main", AS_REGISTERED),)),
    "controls": Arm(
        "controls of K-A",
        "Does giving recall back to K-A give reward back?",
        (Cell("controls", AS_REGISTERED, CONTROLS),),
    ),
    "methods": Arm(
        "other methods",
        "What do methods earn that align and distil at once, or do without one of the two?",
        (Cell("methods", AS_REGISTERED, METHODS),),
    ),
    "targets": Arm(
        "target",
        "Is the difference smaller for a common target, and what of a rarer one?",
        tuple(Cell("targets", target, changes={"target": target}) for target in TARGETS[1:]),
        at_main="exclamation",
    ),
    "rlhf": Arm(
        "alignment by RLHF",
        "Does A-K earn more under RLHF, too?",
        (Cell("rlhf", AS_REGISTERED, algorithm="rlhf"),),
    ),
    "kd_temperature": Arm(
        "KD temperature τ",
        "Does a higher temperature repair A-K's recall?",
        _sweep("kd_temperature", {f"{value:g}": value for value in (0.5, 0.85, 1.0, 1.25)}),
        at_main="0.7",
    ),
    "beta": Arm(
        "KL weight β",
        "Does the KL weight decide which order earns more?",
        _sweep("beta", {f"{value:g}": value for value in (0.03, 0.3)}),
        at_main="0.1",
    ),
    "preference_responses": Arm(
        "preference samples",
        "Does K-A gain from more preference samples?",
        _sweep("preference_responses", {"halved": Times(0.5), "doubled": Times(2)}),
        at_main=AS_REGISTERED,
    ),
    "student_layers": Arm(
        "layers of the student",
        "Does the order matter less for a larger student?",
        _sweep("student_layers", {f"{count}": f"healed-{count}" for count in (16, 24)}, "student"),
        at_main="20",
    ),
    "dpo_label_noise": Arm(
        "labels flipped",
        "Which order stands noisy preferences better?",
        _sweep("dpo_label_noise", {f"{value:g}": value for value in (0.1, 0.3)}),
        at_main="0",
    ),
    "equal_compute": Arm(
        "K-A with A-K's compute",
        "Does A-K still earn more where K-A may compute as much?",
        (
            Cell(
                "equal_compute",
                f"samples and steps × {_COMPUTE.factor:.2f}",
                ("kd_then_align",),
                changes={"preference_responses": _COMPUTE, "align_steps": _COMPUTE},
                # A base aligned with more samples and steps is no part of it: A-K is that of the main experiment.
                yardsticks=("base", "kd_only"),
            ),
        ),
    ),
    "plain_kd": Arm(
        "KD temperature τ, new seeds",
        "Does A-K lose its lead where the student learns from responses as they are drawn?",
        (Cell("plain_kd", "1", ORDERS, _NEW_SEEDS, changes=_PLAIN),),
    ),
    "learning_rate": Arm(
        "K-A's learning rate (exploratory)",
        "Does K-A reach A-K with twice the learning rate, whatever the KL, or with the base's pairs besides?",
        (
            Cell(
                "learning_rate",
                "0.0006",
                ("kd_then_align", "kd_then_align_base_preferences"),
                changes=_TWICE_THE_RATE,
            ),
            Cell(
                "learning_rate", "0.0006, simile", ("kd_then_align",), changes={**_TWICE_THE_RATE, "target": "simile"}
            ),
        ),
    ),
    "learning_rate_both": Arm(
        "learning rate of both orders (exploratory)",
        "Does A-K earn more where both take twice the learning rate, whatever the KL?",
        (Cell("learning_rate_both", "0.0006", changes=_TWICE_THE_RATE),),
    ),
    "plain_kd_rate": Arm(
        "KD temperature 1, learning rate (exploratory)",
        "Does K-A still earn more, distilled at 1, where neither order has the larger learning rate?",
        (
            Cell(
                "plain_kd_rate",
                "0.0006",
                ("align_then_kd",),
                _NEW_SEEDS,
                changes={**_PLAIN, **_TWICE_THE_RATE},
                beside="plain_kd",
            ),
            Cell(
                "plain_kd_rate",
                "0.0003",
                ("kd_then_align",),
                _NEW_SEEDS,
                changes={**_PLAIN, "align_learning_rates": (3e-4,)},
                yardsticks=("base", "kd_only"),
                beside="plain_kd",
            ),
        ),
    ),
    "gamma": Arm(
        "ADPA's weight γ (exploratory)",
        "Does ADPA earn more with less weight on the advantage?",
        tuple(Cell("gamma", f"{value:g}", ("adpa",), SWEEP_SEEDS, changes={"gamma": value}) for value in (0.15, 0.5)),
    ),
}
# Added when results were known, with date and reason in the plan: no sign, no verdict.
EXPLORATORY = ("learning_rate", "learning_rate_both", "plain_kd_rate", "gamma")


def settings_of(cell: Cell, preset: str = "laptop") -> LmSettings:
    """A cell's settings in a preset.

    Raises:
        UnknownName: a preset that the study does not have.
    """
    if preset not in MAIN:
        raise UnknownName("preset of the study", preset, MAIN)
    main = override(presets.preset(preset).lm, MAIN[preset])
    changes = {
        setting: round(getattr(main, setting) * value.factor) if isinstance(value, Times) else value
        for setting, value in cell.changes.items()
    }
    return override(main, changes)


def cells() -> list[Cell]:
    """Every cell, registered and exploratory, in the order in which they are run."""
    return [cell for arm in ARMS.values() for cell in arm.cells]


def with_main(arm: str) -> tuple[Cell, ...]:
    """An arm's cells and, where they move one setting, the main experiment between them, in the order of the values."""
    cells, at_main = ARMS[arm].cells, ARMS[arm].at_main
    if not at_main:
        return cells
    (setting,) = cells[0].changes
    both = (*cells, replace(ARMS["main"].cells[0], value=at_main))
    numbers = all(re.fullmatch(r"[\d.]+", cell.value) for cell in both)
    return tuple(sorted(both, key=lambda cell: float(cell.value) if numbers else getattr(settings_of(cell), setting)))


def new_seeds(cell: Cell) -> tuple[Cell, ...]:
    """The cells that have this one's settings with seeds that were registered later, which are never pooled with it."""
    return tuple(
        other
        for other in cells()
        if (other.algorithm, other.changes) == (cell.algorithm, cell.changes) and not {*other.seeds} & {*cell.seeds}
    )


def registered(cell: Cell) -> Cell:
    """The cell of both orders at the registered settings, with the target of this one."""
    target = cell.changes.get("target")
    return next(
        other for arm in ("main", "targets") for other in ARMS[arm].cells if other.changes.get("target") == target
    )


def partner(cell: Cell) -> Cell:
    """The cell of both orders that one which lacks an order is compared with."""
    return ARMS[cell.beside].cells[0] if cell.beside else registered(cell)


def seeds_of(records: Records | None, cell: Cell, preset: str, device: str = "cpu") -> Records | None:
    """The records of a cell's settings, cut to its registered seeds that hold all of its pipelines; None if none do."""
    if records is None:
        return None
    target, wanted = settings_of(cell, preset).target, plain_settings(settings_of(cell, preset))
    head = (("world", "lm"), ("preset", preset), ("device", device), ("algorithm", cell.algorithm), ("target", target))
    rows = records.runs
    for name, value in head:
        rows = rows[rows[name] == value]
    found = [run for run in rows["run"] if records.settings_of(run) == wanted]
    if not found:
        return None
    held = records.select(run=found).metrics
    whole = held[held["pipeline"].isin(cell.pipelines)].groupby("seed")["pipeline"].nunique() == len(cell.pipelines)
    seeds = [seed for seed in cell.seeds if whole.get(seed, False)]
    return records.select(run=found, seed=seeds) if seeds else None
