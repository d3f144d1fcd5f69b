"""The "two orders" explorer: what is shown is the record's, a live run's, or predicted, and it says which."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from alignkd_lab.course.explorers import cells, orders
from alignkd_lab.course.explorers.orders import METRICS, START, compute
from alignkd_lab.course.recorded import recorded_gaussians
from alignkd_lab.errors import BadInput
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS
from alignkd_lab.plots import plane
from alignkd_lab.recording import plain_settings

HIGH = "kd_then_align_high_temperature"


def state(**changes):
    return {**START, **changes}


def as_if_run(settings, algorithm, seeds, on_step=lambda text: None):
    """A recorded run under the name of another cell: what a live run looks like, without its seconds."""
    run = recorded_gaussians(algorithm).select(seed=range(len(seeds)))
    for step in range(3):
        on_step(f"step {step}")
    held = {
        name: getattr(run, name).assign(seed=getattr(run, name)["seed"] + seeds[0]) for name in ("metrics", "mixtures")
    }
    return dataclasses.replace(run, **held, runs=run.runs.assign(settings=json.dumps(plain_settings(settings))))


@pytest.fixture
def explorer(monkeypatch):
    monkeypatch.setattr(cells, "run_cell", as_if_run)
    return orders.show(beta=0.3)


# compute


@pytest.mark.parametrize("algorithm", ["rlhf", "dpo"])
def test_a_recorded_cell_shows_its_record(algorithm):
    data = compute(state(algorithm=algorithm, seed=4.0))
    run = recorded_gaussians(algorithm)
    for order, middle in ((K_A, "kd_only"), (A_K, "base_aligned")):
        for metric in METRICS:
            values = run.table(metric)
            assert [step[metric] for step in data.metrics[order]] == values.loc[4, ["base", middle, order]].tolist()
            assert data.others[order][metric].shape == (3, 20)
            assert list(data.others[order][metric][2]) == values[order].tolist()
    assert (data.depth, data.seeds, data.seed) == ("record", 20, 4)


def test_a_density_is_that_of_the_recorded_mixture():
    data = compute(state())
    mixtures = recorded_gaussians().mixtures.query("seed == 0 and pipeline == @A_K")
    left, right, bottom, top = plane.window(data.settings)
    x, y = np.meshgrid(np.linspace(left, right, 115), np.linspace(bottom, top, 115))
    expected = np.zeros_like(x)
    for one in mixtures.itertuples():
        across, up = (x - one.x) / one.sd_x, (y - one.y) / one.sd_y
        expected += one.weight * np.exp(-0.5 * (across**2 + up**2)) / (2 * np.pi * one.sd_x * one.sd_y)
    assert data.fields[A_K][2] == pytest.approx(expected)
    assert data.fields["truth"][0].sum() * ((right - left) / 114) ** 2 == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_stands_beside_the_orders(control):
    data = compute(state(control=control, algorithm="dpo"))
    assert data.routes == (*ORDERS, control)
    for metric in METRICS:
        assert data.metrics[control][2][metric] == recorded_gaussians("dpo").table(metric).at[0, control]
    if control != HIGH:
        assert data.metrics[control][1] == data.metrics[K_A][1]


def test_the_student_of_high_temperature_is_fitted_again_and_still_shows_the_target():
    data = compute(state(control=HIGH))
    base, student, last = (step["target_rate"] for step in data.metrics[HIGH])
    assert base > student > 100 * data.metrics[K_A][1]["target_rate"]
    assert last > 0.9
    assert np.isnan(data.others[HIGH]["reward"][1]).all()


def test_pairs_of_the_base_mean_nothing_under_rlhf():
    data = compute(state(control="kd_then_align_base_preferences"))
    assert data.routes == ORDERS
    assert "has no pairs" in orders.caption(data)


def test_another_setting_is_foretold_by_closed_forms():
    data = compute(state(beta=0.3, target_weight=0.02, control=HIGH))
    assert (data.depth, data.seeds) == ("predicted", 0)
    closed_form = ClosedForm(data.settings)
    for name in data.routes:
        expected = [closed_form.metrics(policy) for policy in closed_form.route(name)]
        assert data.metrics[name] == [pytest.approx(step) for step in expected]
    assert data.settings.truth_weights[3] == pytest.approx(0.02)


def test_foretold_and_recorded_densities_lie_the_same_way_round():
    recorded_truth = compute(state()).fields["truth"][0]
    predicted = compute(state(beta=0.3)).fields[K_A][0]
    assert np.unravel_index(recorded_truth[:57, 57:].argmax(), (57, 58))[0] < 57
    quarters = [
        [
            field[rows, columns].mean()
            for rows in (slice(50), slice(-50, None))
            for columns in (slice(50), slice(-50, None))
        ]
        for field in (recorded_truth, predicted)
    ]
    assert quarters[1] == pytest.approx(quarters[0], rel=0.1)
    assert np.argmin(quarters[0]) == np.argmin(quarters[1]) == 1


def test_a_slider_that_stops_beside_a_recorded_value_means_it():
    assert compute(state(beta=10**-0.3, target_weight=0.0398)).depth == "record"
    assert compute(state(beta=0.52)).depth == "predicted"
    with pytest.raises(BadInput, match="sharpening must be"):
        compute(state(sharpening=0.0))


def test_a_live_run_is_found_again():
    asked = state(beta=0.3, seed=1.0)
    run = as_if_run(orders.settings_of(asked), "rlhf", (0, 1, 2))
    assert compute(asked, [run]).depth == "live"
    assert compute(asked, [run]).seeds == 3
    assert compute({**asked, "seed": 3.0}, [run]).depth == "predicted"
    assert compute({**asked, "algorithm": "dpo"}, [run]).depth == "predicted"


# caption


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Alignment did not add it later. Recorded: seed 0 of 20 seeds (RLHF, β = 0.5, s = 2, m₀ = 4 %)"),
        ({"stage": 0.0}, "Both orders begin at the same base"),
        ({"stage": 1.0}, "K-A has distilled"),
        ({"sharpening": 1.0, "seed": 1.0}, "K-A showed the target in"),
        ({"control": HIGH}, "K-A, KD at high temperature"),
        ({"beta": 0.3}, "no run of this setting is at hand"),
    ],
)
def test_the_caption_says_what_is_seen(changes, said):
    assert said in orders.caption(compute(state(**changes)))


def test_the_verdict_follows_the_numbers():
    said = {}
    for seed in range(20):
        data = compute(state(sharpening=1.0, seed=float(seed)))
        words = orders.caption(data)
        said.setdefault("Here alignment did add it later" in words, []).append(data.metrics[K_A][2]["target_rate"])
    assert min(said[True]) > 0.5 >= max(said[False])


# picture


@pytest.mark.parametrize("stage", [0.0, 1.0, 2.0])
def test_the_lines_go_as_far_as_the_stage(stage):
    data = compute(state(stage=stage, control=HIGH))
    figure = orders.draw(data)
    for axis, metric in zip(figure.axes[1:], METRICS, strict=True):
        lines = [line for line in axis.lines if line.get_linestyle() == "-"]
        assert [len(line.get_xdata()) for line in lines] == [stage + 1] * 3
        ends = [line.get_ydata()[-1] for line in lines]
        assert ends == [data.metrics[name][int(stage)][metric] for name in data.routes]


def test_the_axes_do_not_move_while_one_scrubs():
    figures = [orders.draw(compute(state(stage=float(stage)))) for stage in range(3)]
    limits = [[axis.get_ylim() for axis in figure.axes[1:]] for figure in figures]
    assert limits[0] == limits[1] == limits[2]
    assert orders.source(compute(state())).startswith("Recorded run, seed 0 of 20")
    assert orders.source(compute(state(beta=0.3))).startswith("Predicted by closed forms")


def test_values_beside_the_lines_do_not_overlap():
    figure = orders.draw(compute(state(beta=0.3, target_weight=0.02, control=HIGH)))
    for axis in figure.axes[1:]:
        heights = sorted(text.xy[1] for text in axis.texts[1:])
        inches = np.diff(heights) * axis.get_position().height * figure.get_figheight()
        assert (inches > 0.15).all()


# live


def test_a_setting_that_no_record_holds_can_be_run(explorer):
    assert not explorer.run.disabled
    explorer.start()
    explorer.wait()
    assert [len(run.seeds) for run in explorer.runs] == [cells.LIVE_SEEDS]
    assert "Run live" in explorer.words.value
    assert explorer.run.disabled
    assert explorer.stop.disabled
    assert not explorer.running


def test_a_recorded_setting_needs_no_run(explorer):
    explorer.controls["beta"].value = 0.5
    assert explorer.run.disabled
    assert "in the record" in explorer.status.value


def test_stop_ends_the_run_and_keeps_nothing(explorer, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(settings, algorithm, seeds, on_step):
        on_step("first stage")
        begun.set()
        assert go_on.wait(10)
        on_step("second stage")
        pytest.fail("the run went on")

    monkeypatch.setattr(cells, "run_cell", slow)
    explorer.start()
    assert begun.wait(10)
    assert explorer.running
    assert explorer.progress.value == 1
    assert not explorer.stop.disabled
    explorer.start()  # a second press changes nothing
    explorer.stop.click()
    go_on.set()
    explorer.wait()
    assert explorer.runs == []
    assert "Stopped" in explorer.status.value
    assert not explorer.run.disabled


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_a_run_is_written_beside_the_button(explorer, monkeypatch):
    def broken(settings, algorithm, seeds, on_step):
        raise BadInput("no room <left>")

    monkeypatch.setattr(cells, "run_cell", broken)
    explorer.start()
    explorer.wait()
    assert "no room &lt;left&gt;" in explorer.status.value
    assert not explorer.run.disabled


def test_the_real_run_is_one_that_the_record_could_hold(monkeypatch):
    held = []
    monkeypatch.setattr(cells, "run_cell", lambda *given, **named: held.append((given, named)) or as_if_run(*given))
    explorer = orders.show(beta=0.3, seed=7)
    explorer.start()
    explorer.wait()
    (settings, algorithm, seeds), _ = held[0]
    assert (settings.beta, algorithm, tuple(seeds)) == (0.3, "rlhf", (7, 8, 9))


# page


def test_the_still_shows_all_three_stages_of_every_route(explorer):
    explorer.controls["beta"].value = 0.5
    explorer.controls["stage"].value = 0
    bundle, _ = explorer._repr_mimebundle_()
    assert "after aligning" in bundle["text/plain"]
    figure = orders.strip(compute(state(control=HIGH)))
    assert len(figure.axes[0].images) == 9
