"""The registered studies: their cells are the plan's, and one command runs what is left of them in order."""

import dataclasses
import json
import shutil

import pytest
import torch
from synthetic_records import lm_record, without
from tiny_lm import small

from alignkd_lab import claims
from alignkd_lab.experiment import run_cell
from alignkd_lab.lm import rewards
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS
from alignkd_lab.presets import PRESETS, check_pipelines, default_pipelines, possible_pipelines
from alignkd_lab.recording import plain_settings
from alignkd_lab.records import load, pack, tabulate
from alignkd_lab.study import gaussians, plan
from alignkd_lab.study import run as study
from alignkd_lab.study.plan import ARMS, Arm, Cell, seeds_of, settings_of
from alignkd_lab.study.run import left, main, run_study

CELLS = [cell for arm in ARMS.values() for cell in arm.cells]
MAIN = ARMS["main"].cells[0]
SHIPPED = data_folder() / "records"


# What is registered -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("preset", plan.MAIN)
def test_every_cell_can_be_run_and_is_a_run_of_its_own(preset, tmp_path):
    for cell in CELLS:
        check_pipelines("lm", cell.pipelines, cell.algorithm)
        assert set(cell.pipelines) <= set(possible_pipelines("lm", cell.algorithm))
        assert settings_of(cell, preset).trial_seed not in cell.seeds
        rewards.target(settings_of(cell, preset).target)
    apart = [(cell.pipelines, cell.algorithm, settings_of(cell, preset), seed) for cell in CELLS for seed in cell.seeds]
    assert len(apart) == len(set(apart))  # no seed of one setting counts in two cells


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


def test_a_cells_record_holds_its_pipelines_beside_the_yardsticks_under_its_arm(made, quick):
    folder, code = made
    assert code == 0
    held = load(folder)
    for arm in QUICK.values():
        (cell,) = arm.cells
        run = seeds_of(held, cell, "tiny", "cpu")
        assert run.seeds == [0]
        assert set(run.pipelines) == {*cell.yardsticks, *cell.pipelines}
        assert {*zip(run.metrics["arm"], run.metrics["arm_value"], strict=True)} == {(cell.arm, cell.value)}


def test_arms_run_in_the_plans_order_and_no_seed_is_begun_once_the_minutes_are_over(tmp_path, quick, monkeypatch):
    seen = started(monkeypatch)
    assert main([str(tmp_path), *ASKED, "--list"]) == 0
    assert seen == []
    main([str(tmp_path), *ASKED, "--arms", "beta,main"])
    assert seen == [("main", 0), ("main", 1), ("beta", 0)]
    seen.clear()
    run_study(tmp_path, "tiny", tuple(QUICK), until=lambda: len(seen) == 2)
    assert seen == [("main", 0), ("main", 1)]


@pytest.mark.parametrize("brought", ["nowhere", "as files", "packed"])
def test_no_finished_seed_is_run_again_wherever_its_record_lies(made, tmp_path, quick, monkeypatch, brought):
    folder = made[0] if brought == "nowhere" else tmp_path
    if brought == "packed":
        pack(load(made[0]), tmp_path / "deep" / "earlier.zip")
    elif brought == "as files":
        shutil.copytree(made[0] / "runs", tmp_path / "earlier" / "runs")
    seen = started(monkeypatch)
    run_study(folder, "tiny", tuple(QUICK))
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
    (*_, held, total) = capsys.readouterr().out.splitlines()
    assert (held.split(), total) == (["beta", "doubled", "1", "of", "1"], "2 of 3 seeds done, 1 left")


def test_seeds_run_in_the_default_dtype_and_on_one_thread(tmp_path, quick, monkeypatch):
    used, before = [], torch.get_num_threads()
    spy = lambda **options: used.append((options["overrides"]["dtype"], torch.get_num_threads()))  # noqa: E731
    monkeypatch.setattr(study, "run_experiment", spy)
    torch.set_num_threads(2)
    main([str(tmp_path), *ASKED, "--arms", "main"])
    torch.set_num_threads(before)
    assert set(used) == {("default", 1)}


@pytest.mark.parametrize(("option", "named"), [(["--arms", "betta"], "betta"), (["--preset", "paper"], "paper")])
def test_what_the_plan_does_not_have_is_refused_by_name(option, named, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), *option])
    assert named in capsys.readouterr().err


def test_a_run_is_cut_to_its_registered_whole_seeds_and_never_taken_from_other_settings_or_nowhere(tmp_path, quick):
    (cell,) = QUICK["main"].cells
    settings = plain_settings(settings_of(cell, "tiny"))
    base = {**lm_record(0), "preset": "tiny", "target": settings["target"], "settings": settings}
    held = tabulate([base, without({**base, "seed": 1}, "pipelines", A_K), {**base, "seed": 7}])
    assert seeds_of(held, cell, "tiny").seeds == [0]
    assert seeds_of(held, cell, "tiny", "cuda") is None
    for change in ({"algorithm": "rlhf"}, {"preset": "gpu"}, {"settings": {**settings, "beta": 0.2}}):
        assert seeds_of(tabulate([{**base, **change}]), cell, "tiny") is None
    young = tabulate([{**base, "settings": {k: v for k, v in settings.items() if k != "dtype"}}])
    assert seeds_of(young, cell, "tiny").seeds == [0]
    assert [missing for _, missing in left(tmp_path / "none", "tiny", tuple(QUICK))] == [[0, 1], [0]]
    assert seeds_of(None, MAIN, "laptop") is None


def test_the_shipped_study_holds_the_plans_cells_under_their_names():
    held = load(SHIPPED / "smollm2-study.zip")
    cut = {("rlhf", "as registered"): 2}  # seeds
    unrun = {("preference_responses", "halved"), ("student_layers", "16"), ("student_layers", "24")}
    for cell in CELLS:
        found, place = seeds_of(held, cell, "laptop"), (cell.arm, cell.value)
        assert (found is None) is (place in unrun), place
        if found is None:
            continue
        assert len(found.seeds) == cut.get(place, len(cell.seeds))
        under = {*zip(found.metrics["arm"], found.metrics["arm_value"], strict=True)}
        assert place in under, (place, under)
    gpu = seeds_of(held, MAIN, "gpu", "cuda")
    assert len(gpu.seeds) == 5
    assert held.select(preset="laptop", arm=("main", "controls", "methods"), algorithm="dpo").runs["run"].nunique() == 1


# Gaussians --------------------------------------------------------------------------------------------

QUICK_MOG = MogSettings(rlhf_steps=8, dpo_steps=8, dpo_pairs=200, em_iterations=20, restarts=2, evaluation_draws=200)
SMALL = {
    "beta": gaussians.Arm("KL weight β", {beta: dataclasses.replace(QUICK_MOG, beta=beta) for beta in (0.5, 1.0)}),
    "noise": gaussians.Arm("flipped", {0.4: dataclasses.replace(QUICK_MOG, dpo_label_noise=0.4)}, ("dpo",)),
}
PART = gaussians.Part("small.zip", tuple(gaussians.arm_cells(SMALL)), (1000, 1001), gaussians.METRICS, None, (1001,))


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A part of five small cells with two seeds, and the folder in which its stages lie."""
    folder = tmp_path_factory.mktemp("gaussians")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gaussians.PARTS, "small", PART)
        return folder, gaussians.run_part("small", folder)


def test_a_part_packs_its_cells_as_the_runs_of_their_settings(part):
    held = load(part[1])
    assert (len(held.runs), held.seeds, set(held.metrics["study"])) == (5, [1000, 1001], {"small"})
    assert set(held.metrics["metric"]) == set(gaussians.METRICS)
    run = held.select(arm="beta", arm_value="1", algorithm="rlhf")
    cell = run_cell(dataclasses.replace(QUICK_MOG, beta=1.0), "rlhf", (1000, 1001))
    assert (run.settings, run.pipelines) == (cell.settings, cell.pipelines)
    for metric in gaussians.METRICS:
        assert run.table(metric).to_numpy() == pytest.approx(cell.table(metric).to_numpy(), rel=1e-3)
    assert set(held.mixtures["seed"]) == {1001}
    assert held.curves.empty
    assert set(held.stages["pipeline"]) == {"base_aligned", "align_then_kd", K_A, *CONTROLS}
    pairs = claims.pairs(held.select(arm="noise"), "base_aligned")
    assert pairs.index.tolist() == [1000, 1001]
    assert claims.decide(held.select(arm="noise"))["metric"].tolist()[0] == "reward"


def test_a_part_that_was_cut_off_runs_no_stage_twice_and_one_that_there_is_not_is_refused(part, tmp_path, monkeypatch):
    before = load(part[1])
    monkeypatch.setitem(gaussians.PARTS, "small", PART)
    monkeypatch.setattr(MogWorld, "run", lambda *arguments: pytest.fail("a stage was run again"))
    assert load(gaussians.run_part("small", part[0])).metrics.equals(before.metrics)
    with pytest.raises(SystemExit, match="arms, map, boundary"):
        gaussians.main([str(tmp_path), "maps"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", gaussians.PARTS)
def test_the_shipped_gaussians_are_the_plans_cells_with_its_seeds(name):
    part = gaussians.PARTS[name]
    held = load(SHIPPED / part.file)
    runs = held.metrics.drop_duplicates("run").set_index("run")
    found = {(row.arm, row.arm_value, row.algorithm, row.target, json.dumps(held.settings_of(run), sort_keys=True))
             for run, row in runs.iterrows()}  # fmt: skip
    planned = {(arm, value, algorithm, settings.target_name, json.dumps(plain_settings(settings), sort_keys=True))
               for arm, value, algorithm, settings in part.cells}  # fmt: skip
    assert found == planned
    assert len(planned) == len(part.cells)
    counts = held.metrics.groupby("run").agg(seeds=("seed", "nunique"), metrics=("metric", "nunique"))
    assert counts.drop_duplicates().to_numpy().tolist() == [[len(part.seeds), len(part.metrics)]]
    assert held.seeds == list(part.seeds)
    assert set(held.metrics["metric"]) == set(part.metrics)
    assert set(held.mixtures["seed"]) == set(part.shown_seeds)
    names = set(part.pipelines or default_pipelines("mog", "dpo"))
    assert set(held.metrics["pipeline"]) == (set(ORDERS) if name == "boundary" else names)
    assert held.metrics["value"].map(lambda value: float(f"{value:.4g}") == value).all()
