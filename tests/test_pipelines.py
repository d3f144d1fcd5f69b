"""The orders as data, and the one function that runs them: in a toy world whose policies are sentences."""

import json
import mmap
import time
from collections import Counter
from unittest.mock import Mock

import psutil
import pytest

from alignkd_lab import pipelines
from alignkd_lab import store as store_module
from alignkd_lab.errors import BadInput, CannotContinue, UnknownName
from alignkd_lab.memory import peak_memory
from alignkd_lab.pipelines import ORDERS, PIPELINES, Align, Distil, Needs, needs, run_pipelines
from alignkd_lab.results import Cost, Result
from alignkd_lab.store import Store


class ToyWorld:
    """A policy is the story of how it was made; every call is noted."""

    algorithm, seeds = "dpo", (0,)

    def __init__(self, seed=0, steps=5, draws=10, temperatures=None):
        self.seeds, self.steps, self.draws = (seed,), steps, draws
        self.temperatures = temperatures or {"kd": 0.7, "high": 1.3}
        self.calls, self.prepared = [], []

    def fingerprint(self):
        return {"world": "toy", "seed": self.seeds[0]}

    def stage_settings(self, stage):
        if isinstance(stage, Distil):
            return {"temperature": self.temperatures[stage.temperature]}
        if isinstance(stage, Align):
            return {"steps": self.steps}
        return {"method": getattr(stage, "method", None), "share": getattr(stage, "share", 1.0)}

    def evaluation_settings(self):
        return {"draws": self.draws}

    def start(self, name):
        return name

    def prepare(self, stage):
        self.prepared.append(stage.name)

    def run(self, stage, policies):
        self.calls.append(stage.name)
        if isinstance(stage, Distil):
            temperature = self.temperatures[stage.temperature]
            made = f"distil({policies[stage.teacher]}, {policies[stage.init]}, {temperature})"
        elif isinstance(stage, pipelines.PreferenceDistil):
            read = ", ".join(policies[role] for role in (stage.teacher, stage.reference, stage.sampler, stage.init))
            made = f"{stage.method}({read}, {stage.share:g})"
        elif isinstance(stage, pipelines.Gkd):
            made = f"gkd({policies[stage.teacher]}, {policies[stage.init]})"
        else:
            made = f"align({policies[stage.init]}, {policies[stage.reference]}, {policies[stage.sampler]})"
        return Result(made, {"note": stage.name}, Cost(sampled=7))

    def evaluate(self, policy):
        self.calls.append(f"evaluate {policy}")
        return {"metrics": {"length": [float(len(policy))]}, "view": ["seen"]}

    def save(self, policy, folder):
        (folder / "policy.txt").write_text(policy)

    def load(self, folder):
        return (folder / "policy.txt").read_text()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stages")


# What the pipelines are ---------------------------------------------------------------------------------


KD = "distil(base, student, 0.7)"
ALIGNED = "align(base, base, base)"
HALF = f"dckd({ALIGNED}, base, base, student, 0.5)"


def test_a_pipeline_makes_what_its_name_says(store):
    made = {name: outcome.policy for name, outcome in run_pipelines(ToyWorld(), tuple(PIPELINES), store)[0].items()}
    assert made == {
        "base": "base",
        "base_aligned": "align(base, base, base)",
        "kd_only": KD,
        "kd_then_align": f"align({KD}, {KD}, {KD})",
        "align_then_kd": "distil(align(base, base, base), student, 0.7)",
        "kd_then_align_base_reference": f"align({KD}, base, {KD})",
        "kd_then_align_base_preferences": f"align({KD}, {KD}, base)",
        "kd_then_align_high_temperature": f"align({KD}, {KD}, {KD})".replace("0.7", "1.3"),
        "dckd": f"dckd({ALIGNED}, base, base, student, 1)",
        "adpa": f"adpa({ALIGNED}, base, base, student, 1)",
        "adpa_plus": f"adpa({ALIGNED}, base, base, {HALF}, 0.5)",
        "gkd": f"gkd({ALIGNED}, student)",
        "align_student_only": "align(student, student, student)",
    }


def test_every_method_ends_in_the_student_and_spends_one_budget():
    for name in pipelines.METHODS:
        stages = PIPELINES[name]
        assert stages[0].init in ("student", "base")
        assert all(stage.init != "base" for stage in stages[1:])
        taught = [stage for stage in stages if not isinstance(stage, Align)]
        shares = [getattr(stage, "share", 1.0) for stage in taught]
        whole = [stage.whole_budget for stage in stages if isinstance(stage, Align)]
        # Aligning the base costs what the orders' alignment costs; the student may spend what a distillation does.
        assert (shares, whole) == ([], [True]) or (sum(shares), whole) == (1.0, [False])


# Running --------------------------------------------------------------------------------------------------


def test_pipelines_that_share_a_stage_run_it_once_and_each_leaves_its_name_kind_cost_and_info(store):
    world = ToyWorld()
    outcomes, stages = run_pipelines(world, list(PIPELINES), store)
    made = [call for call in world.calls if not call.startswith("evaluate")]
    several = {"kd_aligned": 4}  # of K-A and of three controls
    assert Counter(made) == {stage.name: several.get(stage.name, 1) for name in PIPELINES for stage in PIPELINES[name]}
    first = {outcomes[name].stages[0] for name in ("kd_only", "kd_then_align", *pipelines.CONTROLS[:2])}
    assert len(first) == 1
    assert {key for outcome in outcomes.values() for key in outcome.stages} == set(stages)
    kd, align = (stages[key] for key in outcomes["kd_then_align"].stages)
    assert (kd["name"], kd["kind"], align["name"], align["kind"]) == ("kd", "distil", "kd_aligned", "align")
    assert kd["tokens"] == {"sampled": 7, "trained": 0, "scored": 0}
    assert kd["info"] == {"note": "kd"}
    assert kd["seconds"] >= 0
    assert kd["peak_memory_bytes"] > 10_000_000


def test_the_time_of_a_stage_is_its_own_and_that_of_what_was_drawn_for_it_before_but_no_waiting(store, monkeypatch):
    world, real = ToyWorld(), ToyWorld.run

    def run(stage, policies):
        time.sleep(0.1)
        made = real(world, stage, policies)
        return Result(made.policy, made.info, Cost(seconds_before=100.0))

    monkeypatch.setattr(world, "prepare", lambda stage: time.sleep(0.3))
    monkeypatch.setattr(world, "run", run)
    (stage,) = run_pipelines(world, ["kd_only"], store)[1].values()
    assert 100.1 <= stage["seconds"] < 100.3
    assert stage["info"] == {"note": "kd"}


def test_a_run_that_was_cut_off_picks_up_where_it_stopped(store, monkeypatch):
    world = ToyWorld()
    real = world.run

    def cut_off(stage, policies):
        if stage.name == "aligned_kd":
            raise KeyboardInterrupt
        return real(stage, policies)

    monkeypatch.setattr(world, "run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_pipelines(world, list(ORDERS), store)
    assert not list(store.root.glob("writing-*"))
    again = ToyWorld()
    run_pipelines(again, list(ORDERS), store)
    assert [call for call in again.calls if "evaluate" not in call] == ["aligned_kd"]


def test_an_unknown_pipeline_is_refused_before_anything_runs(store):
    world = ToyWorld()
    with pytest.raises(BadInput, match=r"'align_only'.*align_then_kd"):
        run_pipelines(world, ["kd_only", "align_only"], store)
    assert world.calls == []


# Stages that align, and those that read the aligned base as their teacher.
ALIGNED_STAGES = {"base_aligned", "kd_aligned", "student_aligned", "aligned_kd", "adpa", "adpa_half", "dckd",
                  "dckd_half", "gkd"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected", "orders"),  # in how many of K-A and its controls the alignment runs again
    [
        ({}, set(), 0),
        ({"draws": 11}, {"evaluate"}, 0),
        ({"steps": 6}, {*ALIGNED_STAGES, "evaluate"}, 4),
        ({"temperatures": {"kd": 0.7, "high": 2.0}}, {"kd_high", "kd_aligned", "evaluate"}, 1),
        ({"temperatures": {"kd": 0.5, "high": 1.3}}, {"kd", "kd_aligned", "aligned_kd", "evaluate"}, 3),
        ({"seed": 1}, {"kd", "kd_high", *ALIGNED_STAGES, "evaluate"}, 4),
    ],
)
def test_what_depends_on_a_changed_setting_runs_again_and_nothing_else(changes, expected, orders, store):
    first = run_pipelines(ToyWorld(), list(PIPELINES), store)
    world = ToyWorld(**changes)
    assert run_pipelines(world, list(PIPELINES), store) == first or changes
    assert set(world.prepared) == expected - {"evaluate"}
    again = [call.split()[0] for call in world.calls]
    assert set(again) == expected
    assert again.count("kd_aligned") == orders


# Keeping ----------------------------------------------------------------------------------------------------


def keep(store, depends, make):
    return store.keep(
        "thing",
        depends,
        make,
        lambda value, folder: (folder / "value").write_text(value),
        lambda folder: (folder / "value").read_text(),
    )


def test_a_failure_while_saving_leaves_nothing_half_written_and_is_not_taken_for_another_process(store, monkeypatch):
    def fail(value, folder):
        (folder / "half").write_text(value)
        raise OSError("disk full")

    with pytest.raises(CannotContinue, match="disk full"):
        store.keep("thing", {"a": 1}, lambda: "made", fail, lambda folder: "loaded")
    assert list(store.root.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "replace", Mock(side_effect=OSError("read-only")))
        with pytest.raises(CannotContinue, match="read-only"):
            keep(store, {"a": 1}, lambda: "made")
    assert keep(store, {"a": 1}, lambda: "again") == "again"


def test_two_processes_that_finish_the_same_thing_leave_one(store):
    # The other process finishes while this one is still making: the folder is then already there.
    def make():
        return keep(store, {"a": 1}, lambda: "the other's") and "ours"

    assert keep(store, {"a": 1}, make) == "ours"
    assert keep(store, {"a": 1}, lambda: pytest.fail("made again")) == "the other's"
    (folder,) = store.root.iterdir()
    assert json.loads((folder / "depends.json").read_text()) == {"a": 1}


def test_peak_memory_sees_what_a_stage_held_for_a_moment():
    before = psutil.Process().memory_info().rss
    # Mapped anew: an ordinary allocation may be served from memory that the process holds anyway.
    with peak_memory("cpu") as memory, mmap.mmap(-1, 80_000_000) as held:
        held.write(b"x" * 80_000_000)
        time.sleep(0.2)
    assert memory["bytes"] > before + 60_000_000


# What a pipeline asks of its teacher -------------------------------------------------------------------------

ASKED = {
    "kd_then_align": Needs(texts=True, probabilities=False, training=False),
    "kd_then_align_base_reference": Needs(texts=True, probabilities=True, training=False),
    "align_then_kd": Needs(texts=True, probabilities=False, training=True),
    "dckd": Needs(texts=True, probabilities=True, training=True),
    "adpa_plus": Needs(texts=True, probabilities=True, training=True),
    "gkd": Needs(texts=True, probabilities=True, training=True),
    "align_student_only": Needs(texts=False, probabilities=False, training=False),
    "base": Needs(texts=False, probabilities=False, training=False),
}


def test_each_pipeline_asks_for_what_its_stages_use_and_full_vocabulary_distillation_for_probabilities_too():
    assert {name: needs(name) for name in ASKED} == ASKED
    assert needs("kd_then_align", "full") == Needs(texts=True, probabilities=True, training=False)
    assert needs("align_student_only", "full") == needs("align_student_only")
    for asked, accepted in ((("a_k",), "kd_then_align"), (("dckd", "logits"), "sequence")):
        with pytest.raises(UnknownName, match=accepted):
            needs(*asked)
