"""The orders of stages, written as data, and the one function that runs them in either world.

A pipeline is a tuple of stages. Each stage names the policies that it reads, and the policy that it
makes; two policies exist before any stage: `base` (the high-recall policy) and `student` (the small
model, before it has seen a teacher; in the Gaussian world only its number of components).

A world (`alignkd_lab.mog.world.MogWorld`, `alignkd_lab.lm.world.LmWorld`) knows how to run a stage and
how to evaluate a policy; nothing here knows which world it is in. Results are kept under a hash of all
that they depend on, so a second run picks up where the first one stopped, and pipelines that share a
stage share its result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from alignkd_lab.errors import UnknownName
from alignkd_lab.memory import peak_memory, shortages
from alignkd_lab.results import Result
from alignkd_lab.store import Store, key_of, read_json, write_json


@dataclass(frozen=True)
class Distil:
    """Teacher, student -> student. `temperature` names one of the settings' two temperatures: `kd` or `high`."""

    kind: ClassVar[str] = "distil"
    name: str
    teacher: str
    init: str = "student"
    temperature: str = "kd"


@dataclass(frozen=True)
class Align:
    """Policy, reference, preferences or reward -> policy.

    `init` is where the policy starts, `reference` what its KL is taken to, `sampler` is what the
    preferences are drawn from (DPO; RLHF samples from the policy itself). With `whole_budget` it may
    train on what a distillation would have been given too.
    """

    kind: ClassVar[str] = "align"
    name: str
    init: str
    reference: str
    sampler: str
    whole_budget: bool = False


@dataclass(frozen=True)
class PreferenceDistil:
    """Aligned teacher, preferences, student -> student: aligned and distilled at once (ADPA).

    `method` is `dckd` or `adpa`; `reference` is the policy that the teacher was aligned from; the preferences are
    drawn from `sampler`; `share` is the part of a distillation's budget that the stage may train on.
    """

    kind: ClassVar[str] = "preference_distil"
    name: str
    method: str
    teacher: str
    reference: str
    sampler: str
    init: str = "student"
    share: float = 1.0


@dataclass(frozen=True)
class Gkd:
    """Teacher, student -> student, on what the student writes while it learns."""

    kind: ClassVar[str] = "gkd"
    name: str
    teacher: str
    init: str = "student"


Stage = Distil | Align | PreferenceDistil | Gkd
ROLES = ("teacher", "reference", "init", "sampler")  # the fields of a stage that name policies

_KD = Distil("kd", teacher="base")
_KD_HIGH = Distil("kd_high", teacher="base", temperature="high")
_BASE_ALIGNED = Align("base_aligned", init="base", reference="base", sampler="base")
# The DPO teacher and the reference teacher of ADPA, and where its preferences come from.
_TEACHERS = {"teacher": "base_aligned", "reference": "base", "sampler": "base"}

PIPELINES: dict[str, tuple[Stage, ...]] = {
    "base": (),
    "base_aligned": (_BASE_ALIGNED,),
    "kd_only": (_KD,),
    "kd_then_align": (_KD, Align("kd_aligned", init="kd", reference="kd", sampler="kd")),
    "align_then_kd": (_BASE_ALIGNED, Distil("aligned_kd", teacher="base_aligned")),
    "kd_then_align_base_reference": (_KD, Align("kd_aligned", init="kd", reference="base", sampler="kd")),
    "kd_then_align_base_preferences": (_KD, Align("kd_aligned", init="kd", reference="kd", sampler="base")),
    "kd_then_align_high_temperature": (
        _KD_HIGH,
        Align("kd_aligned", init="kd_high", reference="kd_high", sampler="kd_high"),
    ),
    "dckd": (_BASE_ALIGNED, PreferenceDistil("dckd", "dckd", **_TEACHERS)),
    "adpa": (_BASE_ALIGNED, PreferenceDistil("adpa", "adpa", **_TEACHERS)),
    "adpa_plus": (
        _BASE_ALIGNED,
        PreferenceDistil("dckd_half", "dckd", **_TEACHERS, share=0.5),
        PreferenceDistil("adpa_half", "adpa", **_TEACHERS, init="dckd_half", share=0.5),
    ),
    "gkd": (_BASE_ALIGNED, Gkd("gkd", teacher="base_aligned")),
    "align_student_only": (
        Align("student_aligned", init="student", reference="student", sampler="student", whole_budget=True),
    ),
}

WORLDS, ALGORITHMS = ("mog", "lm"), ("rlhf", "dpo")
ORDERS = K_A, A_K = "kd_then_align", "align_then_kd"
CONTROLS = (
    "kd_then_align_base_reference",
    "kd_then_align_base_preferences",
    "kd_then_align_high_temperature",
)
# Beside the two orders, under the same budget of trained responses; for the language world.
METHODS = ("dckd", "adpa", "adpa_plus", "gkd", "align_student_only")
# Teachers and intermediate students: shown beside the pipelines, but not pipelines of equal final size.
YARDSTICKS = ("base", "base_aligned", "kd_only")


# What older versions called pipelines and settings; an old name fails with the new one.
RENAMED = {"on_policy_distillation": "gkd", "on_policy_divergence": "gkd_divergence"}


def unknown(what: str, name: str, accepted: Iterable[str]) -> UnknownName:
    """The error for a name that is not among the accepted ones, with today's name of one that was renamed."""
    return UnknownName(what, name, [f"{RENAMED[name]}, which it is called now"] if name in RENAMED else accepted)


def reading_order(names: Iterable[str]) -> list[str]:
    """Pipelines as readers meet them: yardsticks, the two orders, controls, methods, then any others."""
    names = set(names)
    known = [name for name in (*YARDSTICKS, *ORDERS, *CONTROLS, *METHODS) if name in names]
    return known + sorted(names - set(known))


class World(Protocol):
    """What a world must offer. `seeds` are run together (Gaussians, batched) or one by one (language)."""

    seeds: tuple[int, ...]
    algorithm: str

    def fingerprint(self) -> dict:
        """All that the starting policies depend on, as JSON."""

    def stage_settings(self, stage: Stage) -> dict:
        """The settings on which this stage's result depends, with the version of its code, as JSON."""

    def evaluation_settings(self) -> dict: ...

    def start(self, name: str) -> Any:
        """The policy `base` or `student`."""

    # A world may also have `prepare(stage)`: what a stage reads and is no cost of its own, such as a learning rate.

    def run(self, stage: Stage, policies: dict[str, Any]) -> Result: ...

    def evaluate(self, policy: Any) -> dict:
        """`{"metrics": {name: [a value per seed]}, ...}`; anything else in it is kept in the record as it is."""

    def save(self, policy: Any, folder: Path) -> None: ...

    def load(self, folder: Path) -> Any: ...


@dataclass
class Outcome:
    """What a pipeline left: its last policy, the keys of its stages, and the evaluation of the policy."""

    policy: Any
    stages: list[str]
    evaluation: dict


def run_pipelines(
    world: World,
    names: Sequence[str],
    store: Store,
    on_step: Callable[[str], None] = lambda text: None,
    known: Mapping[str, tuple[Stage, ...]] = PIPELINES,
) -> tuple[dict[str, Outcome], dict[str, dict]]:
    """Runs the named pipelines in a world; returns their outcomes and every stage that they used, by its key.

    Stages that pipelines share are run once. `on_step` is told the name of each stage and evaluation as it starts;
    `known` are the pipelines by their names.

    Raises:
        BadInput: unknown pipeline.
    """
    if strange := [name for name in names if name not in known]:
        raise unknown("pipeline", strange[0], known)
    start = world.fingerprint()
    starts = {name: key_of({"start": name, **start}) for name in ("base", "student")}
    policies = {key: world.start(name) for name, key in starts.items()}

    def save(made: tuple[Any, dict], folder: Path) -> None:
        world.save(made[0], folder)
        write_json(made[1], folder)

    def load(folder: Path) -> tuple[Any, dict]:
        return world.load(folder), read_json(folder)

    stages: dict[str, dict] = {}
    outcomes: dict[str, Outcome] = {}

    for name in names:
        keys, used = dict(starts), []
        for stage in known[name]:
            named = {role: getattr(stage, role) for role in ROLES if hasattr(stage, role)}
            reads = {role: keys[value] for role, value in named.items()}
            depends = {"kind": stage.kind, "reads": reads, "settings": world.stage_settings(stage), "start": start}
            key = key_of(depends)
            if key not in policies:
                on_step(f"{name}: {stage.name}")
                inputs = {value: policies[keys[value]] for value in named.values()}
                make = partial(_measure, world, stage, inputs)
                policies[key], entry = store.keep(stage.kind, depends, make, save, load)
                stages[key] = {"name": stage.name, "kind": stage.kind, **entry}
            keys[stage.name] = key
            used.append(key)
        last = used[-1] if used else keys["base"]
        depends = {"policy": last, "settings": world.evaluation_settings(), "start": start}
        on_step(f"{name}: evaluation")
        evaluation = store.keep_json("evaluation", depends, partial(_evaluate, world, policies[last]))
        outcomes[name] = Outcome(policies[last], used, evaluation)
    return outcomes, stages


def planned_steps(pipelines: Sequence[str]) -> int:
    """How many stages and evaluations these pipelines take; a stage that they share counts once."""
    return len({stage for name in pipelines for stage in PIPELINES[name]}) + len(pipelines)


def _measure(world: World, stage: Stage, inputs: dict[str, Any]) -> tuple[Any, dict]:
    """The stage's policy, and its entry in a record: cost and info."""
    getattr(world, "prepare", lambda stage: None)(stage)
    started = time.perf_counter()
    with peak_memory(str(getattr(world, "device", "cpu"))) as memory, shortages() as halved:
        result = world.run(stage, inputs)
    seconds = time.perf_counter() - started + result.cost.seconds_before
    cost = {"seconds": seconds, "tokens": result.cost.tokens, "peak_memory_bytes": memory["bytes"]}
    return result.policy, {**cost, "info": {**result.info, **halved}}


def _evaluate(world: World, policy: Any) -> dict:
    """The evaluation; where memory ran short, `halved` says which batches it was made with."""
    with shortages() as halved:
        found = world.evaluate(policy)
    return {**found, "halved": halved} if halved else found


KD_LOSSES = ("sequence", "full")


class Needs(NamedTuple):
    """texts: that the teacher writes. probabilities: of every next token, which one vocabulary alone can give.
    training: weights that can be aligned."""

    texts: bool
    probabilities: bool
    training: bool


def needs(pipeline: str, kd_loss: str = "sequence") -> Needs:
    """What the pipeline asks of `base`, from which all of its teachers are made.

    Args:
        kd_loss: of a distillation, `sequence` (likelihood of the teacher's texts) or `full` (KL over the vocabulary).

    Raises:
        UnknownName: no such pipeline or loss.
    """
    if pipeline not in PIPELINES:
        raise unknown("pipeline", pipeline, PIPELINES)
    if kd_loss not in KD_LOSSES:
        raise UnknownName("kd_loss", kd_loss, KD_LOSSES)
    teachers, texts, probabilities, training = {"base"}, False, False, False
    for stage in PIPELINES[pipeline]:
        match stage:
            case Align(init=init) if init in teachers:
                teachers.add(stage.name)
                training = texts = True
            case Align():
                texts |= stage.sampler in teachers
                probabilities |= stage.reference in teachers
            case Distil():
                texts = True
                probabilities |= kd_loss == "full"
            case PreferenceDistil():
                texts |= stage.sampler in teachers
                probabilities = True
            case Gkd():
                probabilities = True
    return Needs(texts, probabilities, training)
