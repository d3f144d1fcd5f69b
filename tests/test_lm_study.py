"""The study in the language world: its cells are the plan's, and one command runs what is left of them in order."""

import dataclasses
import gzip
import json
import shutil

import pytest
import torch
from tiny_lm import small

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import check_pipelines
from alignkd_lab.lm import rewards
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, METHODS, ORDERS, YARDSTICKS
from alignkd_lab.presets import PRESETS, possible_pipelines
from alignkd_lab.records import load_records
from alignkd_lab.reproduce import threads
from alignkd_lab.runs import group_runs
from alignkd_lab.study import plan
from alignkd_lab.study import run as study
from alignkd_lab.study.plan import ARMS, Arm, Cell, run_of, seeds_held, settings_of
from alignkd_lab.study.run import main, run_study, table

CELLS = [cell for arm in ARMS.values() for cell in arm.cells]
MAIN = ARMS["main"].cells[0]


def moved(cell, preset="laptop"):
    """What a cell changes of the main settings."""
    before, after = (dataclasses.asdict(settings_of(which, preset)) for which in (MAIN, cell))
    return {name: value for name, value in after.items() if value != before[name]}


def of_arm(name, preset="laptop"):
    return [moved(cell, preset) for cell in ARMS[name].cells]


# What is registered -----------------------------------------------------------------------------------


def test_the_main_settings_are_the_plans_command():
    text = (data_folder() / "records" / "PLAN.md").read_text()
    told = " ".join(f"{name}={value}" for name, value in plan.MAIN["laptop"].items())
    assert f"preset `laptop` with `{told}`" in text
    expected = dataclasses.replace(LmSettings(), **plan.MAIN["laptop"])
    assert settings_of(MAIN) == expected
    assert settings_of(MAIN, "gpu") == dataclasses.replace(PRESETS["gpu"].lm, **plan.MAIN["gpu"])
    assert plan.MAIN["gpu"] == {"target": "exclamation", "align_learning_rates": (1e-4, 3e-4, 6e-4)}


def test_the_arms_are_the_plans_in_its_order():
    assert list(ARMS) == [
        "main", "controls", "methods", "targets", "rlhf", "kd_temperature", "beta", "preference_responses",
        "student_layers", "dpo_label_noise", "equal_compute", "plain_kd", "learning_rate", "learning_rate_both",
        "plain_kd_rate", "gamma",
    ]  # fmt: skip
    assert [cell.arm for cell in CELLS] == [name for name, arm in ARMS.items() for _ in arm.cells]
    pipelines = {
        "controls": CONTROLS,
        "methods": METHODS,
        "equal_compute": (K_A,),
        "gamma": ("adpa",),
    }
    less = [cell for cell in CELLS if cell.yardsticks != YARDSTICKS]
    assert less == [*ARMS["equal_compute"].cells, ARMS["plain_kd_rate"].cells[1]]  # K-A alone: no base is aligned
    rates = {
        "learning_rate": [(K_A, "kd_then_align_base_preferences"), (K_A,)],
        "plain_kd_rate": [(A_K,), (K_A,)],
    }
    assert {name: [cell.pipelines for cell in ARMS[name].cells] for name in rates} == rates
    others = [cell for cell in CELLS if cell.arm not in rates]
    assert all(cell.pipelines == pipelines.get(cell.arm, ORDERS) for cell in others)
    sweeps = [*list(ARMS)[5:10], "gamma"]
    later = dict.fromkeys(("plain_kd", "plain_kd_rate"), tuple(range(3, 10)))
    seeds = {cell: later.get(cell.arm, tuple(range(3 if cell.arm in sweeps else 10))) for cell in CELLS}
    assert all(cell.seeds == expected for cell, expected in seeds.items())
    assert {cell.arm for cell in CELLS if cell.algorithm == "rlhf"} == {"rlhf"}


@pytest.mark.parametrize("preset", plan.MAIN)
def test_every_arm_moves_what_the_plan_says_and_nothing_else(preset):
    for name in ("main", "controls", "methods", "rlhf"):
        assert of_arm(name, preset) == [{}]
    assert of_arm("targets", preset) == [{"target": "colour"}, {"target": "simile"}]
    assert of_arm("kd_temperature", preset) == [{"kd_temperature": value} for value in (0.5, 0.85, 1.0, 1.25)]
    assert of_arm("plain_kd", preset) == [{"kd_temperature": 1.0}]
    assert of_arm("beta", preset) == [{"beta": 0.03}, {"beta": 0.3}]
    assert of_arm("student_layers", preset) == [{"student": "healed-16"}, {"student": "healed-24"}]
    assert of_arm("dpo_label_noise", preset) == [{"dpo_label_noise": 0.1}, {"dpo_label_noise": 0.3}]
    assert of_arm("learning_rate_both", preset) == [{"align_learning_rates": (6e-4,)}]
    assert of_arm("learning_rate", preset) == [
        {"align_learning_rates": (6e-4,)},
        {"align_learning_rates": (6e-4,), "target": "simile"},
    ]
    assert of_arm("plain_kd_rate", preset) == [
        {"kd_temperature": 1.0, "align_learning_rates": (6e-4,)},
        {"kd_temperature": 1.0, "align_learning_rates": (3e-4,)},
    ]
    assert of_arm("gamma", preset) == [{"gamma": 0.15}, {"gamma": 0.5}]
    samples = settings_of(MAIN, preset).preference_responses
    assert of_arm("preference_responses", preset) == [
        {"preference_responses": samples // 2},
        {"preference_responses": 2 * samples},
    ]


def test_a_cell_that_lacks_an_order_names_the_one_that_holds_it():
    lone = [cell for cell in CELLS if len({*ORDERS} & {*cell.pipelines}) == 1]
    held = {cell: plan.partner(cell) for cell in lone}
    assert {cell.arm: other.arm for cell, other in held.items() if cell.changes.get("target") is None} == {
        "equal_compute": "main", "learning_rate": "main", "plain_kd_rate": "plain_kd",
    }  # fmt: skip
    for cell, other in held.items():
        assert {*ORDERS} <= {*other.pipelines}
        assert {*cell.seeds} <= {*other.seeds}
        assert settings_of(cell).target == settings_of(other).target


def test_k_a_gets_the_compute_of_a_k_by_more_samples_and_steps():
    assert of_arm("equal_compute") == [{"preference_responses": 33, "align_steps": 33}]
    base, student = 134_515_008, 99_114_048
    more, usual = settings_of(ARMS["equal_compute"].cells[0]), settings_of(MAIN)
    for sampled, trained in ((1, 3), (2, 6), (30, 1)):  # whatever a token costs

        def spent(parameters, settings, sampled=sampled, trained=trained):
            drawn = settings.preference_prompts * settings.preference_responses
            return parameters * (sampled * drawn + trained * 2 * settings.align_batch * settings.align_steps)

        assert spent(student, more) == pytest.approx(spent(base, usual), rel=0.02)


@pytest.mark.parametrize("preset", plan.MAIN)
def test_every_cell_can_be_run_and_is_a_run_of_its_own(preset, tmp_path):
    for cell in CELLS:
        check_pipelines("lm", cell.pipelines, cell.algorithm)
        assert set(cell.pipelines) <= set(possible_pipelines("lm", cell.algorithm))
        assert settings_of(cell, preset).trial_seed not in cell.seeds
        rewards.target(settings_of(cell, preset).target)
    apart = [(cell.pipelines, cell.algorithm, settings_of(cell, preset), seed) for cell in CELLS for seed in cell.seeds]
    assert len(apart) == len(set(apart))  # no seed of one setting counts in two cells
    assert len(CELLS) == len(set(CELLS))


def test_a_preset_without_main_settings_is_refused():
    with pytest.raises(BadInput, match=r"'paper'.*laptop, gpu"):
        settings_of(MAIN, "paper")


# Running ----------------------------------------------------------------------------------------------

QUICK = {
    "main": Arm("main", "?", (Cell("main", "as registered", seeds=(0, 1)),)),
    "beta": Arm("β", "?", (Cell("beta", "doubled", (K_A,), (0,), "dpo", {"beta": 0.2}, ("base", "kd_only")),)),
}


ASKED = ("--preset", "tiny", "--device", "cpu")


def shrink(patch):
    """Two cells of tiny models, three seeds together."""
    patch.setattr(plan, "ARMS", QUICK)
    patch.setattr(plan, "MAIN", {"tiny": {"align_steps": 3}})
    patch.setitem(PRESETS, "tiny", dataclasses.replace(PRESETS["tiny"], lm=small()))


@pytest.fixture
def quick(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What one command with `--seeds 0` leaves: the folder, and its exit code."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return folder, main([str(folder), *ASKED, "--seeds", "0"])


def started(monkeypatch):
    """The (arm, seed) that are run from now on, in their order; nothing is run."""
    seen = []

    def spy(**options):
        seen.append(("beta" if options["overrides"]["beta"] == 0.2 else "main", *options["seeds"]))

    monkeypatch.setattr(study, "run_experiment", spy)
    return seen


def test_a_cells_record_holds_its_pipelines_beside_the_yardsticks(made, quick):
    folder, code = made
    assert code == 0
    runs = group_runs(load_records(folder))
    for arm in QUICK.values():
        run = run_of(runs, arm.cells[0], "tiny", "cpu")
        assert seeds_held(run, arm.cells[0]) == (0,)
        assert set(run["records"][0]["pipelines"]) == {*arm.cells[0].yardsticks, *arm.cells[0].pipelines}


def test_the_table_says_what_is_done_and_what_is_left(made, quick, monkeypatch, capsys):
    seen = started(monkeypatch)
    assert main([str(made[0]), *ASKED, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "arm                   value          seeds",
        "main                  as registered  1 of 2",
        "beta                  doubled        1 of 1",
        "preset tiny on cpu: 2 of 3 seeds done, 1 left",
    ]
    assert seen == []


def test_it_runs_what_is_left_and_no_finished_seed_again(made, quick, monkeypatch):
    seen = started(monkeypatch)
    run_study(made[0], "tiny", tuple(QUICK))
    assert seen == [("main", 1)]


def test_arms_run_in_the_plans_order_whatever_order_was_asked_for(tmp_path, quick, monkeypatch):
    seen = started(monkeypatch)
    main([str(tmp_path), *ASKED, "--arms", "beta,main"])
    assert seen == [("main", 0), ("main", 1), ("beta", 0)]


def test_records_that_were_brought_along_count_wherever_they_lie(made, tmp_path, quick, monkeypatch):
    (path,) = made[0].glob("*.jsonl")
    (tmp_path / "earlier").mkdir()
    shutil.copy(path, tmp_path / "earlier" / "brought.jsonl")
    seen = started(monkeypatch)
    run_study(tmp_path, "tiny", tuple(QUICK))
    assert seen == [("main", 1)]


def test_a_study_that_was_cut_off_takes_up_its_stages(made, tmp_path, quick, monkeypatch, capsys):
    shutil.copytree(made[0] / "stages", tmp_path / "stages")
    evaluated = list((tmp_path / "stages").glob("evaluation-*"))
    shutil.rmtree(evaluated[0])

    def cut(*given):
        raise KeyboardInterrupt

    real = LmWorld.evaluate
    monkeypatch.setattr(LmWorld, "run", lambda *given: pytest.fail("a stage was run again"))
    monkeypatch.setattr(LmWorld, "evaluate", cut)
    assert main([str(tmp_path), *ASKED, "--seeds", "0"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(LmWorld, "evaluate", real)
    assert main([str(tmp_path), *ASKED, "--seeds", "0"]) == 0
    assert "2 of 3 seeds done" in capsys.readouterr().out


@pytest.mark.parametrize(("minutes", "expected"), [(None, 3), (31, 3), (29, 2), (15, 1), (9, 1)])
def test_no_seed_is_begun_that_would_not_end_in_time(minutes, expected, tmp_path, quick, monkeypatch, capsys):
    now, seen = [0.0], []

    def ten_minutes(**options):
        seen.append(options["seeds"])
        now[0] += 600

    monkeypatch.setattr(study, "run_experiment", ten_minutes)
    run_study(tmp_path, "tiny", tuple(QUICK), minutes=minutes, clock=lambda: now[0])
    assert len(seen) == expected
    assert ("Stopped before" in capsys.readouterr().err) == (expected < 3)


def test_seeds_run_in_the_default_dtype_and_on_one_thread(tmp_path, quick, monkeypatch):
    used = []
    monkeypatch.setattr(
        study,
        "run_experiment",
        lambda **options: used.append((options["overrides"]["dtype"], torch.get_num_threads())),
    )
    with threads(2):
        run_study(tmp_path, "tiny", tuple(QUICK)[:1])
        assert torch.get_num_threads() == 2
    assert set(used) == {("default", 1)}


def test_what_an_earlier_loan_took_tells_whether_the_first_seed_ends_in_time(made, tmp_path, quick, monkeypatch):
    (path,) = made[0].glob("*.jsonl")
    record = json.loads(path.read_text().splitlines()[0])
    for stage in record["stages"].values():
        stage["seconds"] = 120.0
    (tmp_path / "earlier.jsonl").write_text(json.dumps(record) + "\n")
    seen = started(monkeypatch)
    run_study(tmp_path, "tiny", ("main",), minutes=7, clock=lambda: 0.0)  # four stages of two minutes
    assert seen == []
    run_study(tmp_path, "tiny", ("main",), minutes=9, clock=lambda: 0.0)
    assert seen == [("main", 1)]


def test_packed_records_are_done_and_a_packed_file_without_any_is_not(made, tmp_path, quick):
    (path,) = made[0].glob("*.jsonl")
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    assert " seeds done" in table(tmp_path, "tiny", tuple(QUICK))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert table(tmp_path, "tiny", tuple(QUICK)) == table(made[0], "tiny", tuple(QUICK))


def test_an_empty_folder_holds_nothing_and_that_is_no_error(tmp_path):
    assert f"0 of {sum(len(cell.seeds) for cell in CELLS)} seeds done" in table(tmp_path / "none")
    assert seeds_held(None, MAIN) == ()


@pytest.mark.parametrize(("option", "named"), [(["--arms", "betta"], "betta"), (["--preset", "paper"], "paper")])
def test_what_the_plan_does_not_have_is_refused_by_name(option, named, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), *option])
    assert named in capsys.readouterr().err


def test_a_run_is_cut_to_the_registered_seeds_and_never_taken_from_other_settings(tmp_path, quick):
    settings = json.loads(json.dumps(dataclasses.asdict(settings_of(QUICK["main"].cells[0], "tiny"))))
    shared = {"world": "lm", "preset": "tiny", "device": "cpu", "algorithm": "dpo", "target": "digit"}
    records = [{"seed": seed, "pipelines": dict.fromkeys(ORDERS)} for seed in (0, 1, 7)]
    records[1]["pipelines"].pop("align_then_kd")
    run, cell = {**shared, "settings": settings, "records": records}, QUICK["main"].cells[0]
    found = run_of([run], cell, "tiny", "cpu")
    assert [record["seed"] for record in found["records"]] == [0, 1]
    assert seeds_held(found, cell) == (0,)
    for change in ({"algorithm": "rlhf"}, {"preset": "gpu"}, {"settings": {**settings, "beta": 0.2}}):
        assert run_of([{**run, **change}], cell, "tiny", "cpu") is None
    assert run_of([run], cell, "tiny", "cuda") is None
