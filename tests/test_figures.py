"""Figures: what is drawn is what the records hold, one look for a pipeline everywhere, honest last lines."""

import json

import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from synthetic_records import lm_record, mog_record

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plots import figures
from alignkd_lab.plots.drawing import depth_line, estimates, only, row_places
from alignkd_lab.plots.style import PIPELINE_STYLE
from alignkd_lab.runs import group_runs

SHARPENINGS = (1.0, 2.0)


@pytest.fixture(scope="module")
def sweep():
    cells = [(a, s, b) for a in ("rlhf", "dpo") for s in SHARPENINGS for b in (0.5, 1.0)]
    return group_runs(mog_record(seed, a, sharpening=s, beta=b) for seed in range(3) for a, s, b in cells)


@pytest.fixture(scope="module")
def mog(sweep):
    return sweep[0]


@pytest.fixture(scope="module")
def lm():
    return group_runs([lm_record(seed) for seed in range(3)])[0]


@pytest.fixture(scope="module")
def one_seed():
    return group_runs([lm_record(0)])[0]


@pytest.fixture(scope="module")
def drawn_densities(mog):
    return figures.densities(mog)


def texts(figure):
    found = [figure.get_suptitle(), figure.get_supxlabel()]
    for axis in figure.axes:
        found += [axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel()]
        found += [label.get_text() for label in (*axis.get_yticklabels(), *axis.texts)]
    return "\n".join(found)


def marks(figure, name):
    """The points that are drawn in a pipeline's colour with its marker."""
    style = PIPELINE_STYLE[name]
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for axis in figure.axes
        for line in axis.lines
        if line.get_marker() == style.marker and to_hex(line.get_color()).upper() == style.colour.upper()
    ]


def test_the_title_figure_marks_the_mean_of_every_pipeline(mog, lm):
    figure = figures.title_figure([mog, lm])
    for run, metric, panel in ((mog, "reward", 0), (lm, "target_rate", 5)):
        for name, ((mean, low, high), values) in estimates(run, metric).items():
            axis = figure.axes[panel]
            place = row_places(list(estimates(run, metric)))[name]
            drawn = [(line.get_xdata(), line.get_ydata()) for line in axis.lines]
            assert any(len(x) == 1 and x[0] == pytest.approx(mean) and y[0] == place for x, y in drawn)
            assert any(len(x) == 2 and list(x) == pytest.approx([low, high]) and y[0] == place for x, y in drawn)
            assert any(len(x) == 3 and list(x) == pytest.approx(list(values)) for x, y in drawn)


def test_the_title_figure_works_with_one_world_and_with_one_seed(mog, one_seed):
    assert len(figures.title_figure([mog]).axes) == 3
    assert len(figures.title_figure([one_seed]).axes) == 3
    text = texts(figures.title_figure([mog, one_seed], "live"))
    assert "20 seeds" not in text
    assert "3 seeds" in text
    assert "one seed, no interval" in text


def test_a_control_waits_until_every_seed_has_it(lm):
    control = "kd_then_align_base_reference"
    first, *others = lm["records"]
    lacking = {**first, "pipelines": {k: v for k, v in first["pipelines"].items() if k != control}}
    run = {**lm, "records": [lacking, *others]}
    names = (*ORDERS, control)
    assert set(estimates(only(lm, names, whole=True), "reward")) == set(names)
    assert set(estimates(only(run, names), "reward")) == set(names)
    assert set(estimates(only(run, names, whole=True), "reward")) == set(ORDERS)


def test_four_metrics_stand_side_by_side_for_every_run(sweep):
    runs = sweep[:2]
    figure = figures.four_metrics(runs)
    names = ("reward", "target_precision", "overall_precision", "overall_recall")
    places = row_places(list(estimates(runs[0], "reward")))
    for axis, (run, metric) in zip(figure.axes, [(run, metric) for run in runs for metric in names], strict=True):
        held = {round(float(line.get_xdata()[0]), 9) for line in axis.lines if len(line.get_xdata()) == 1}
        assert {round(mean, 9) for (mean, _, _), _ in estimates(run, metric).values()} <= held
        assert metric.replace("_", " ") in axis.get_xlabel()
        assert len(axis.get_yticks()) == len(places)


def test_a_metric_that_spans_orders_of_magnitude_says_that_it_is_logarithmic(mog):
    wide = json.loads(json.dumps(mog))
    for record in wide["records"]:
        record["pipelines"]["align_then_kd"]["metrics"]["overall_recall"] = -300.0 - record["seed"]
    assert [axis.get_xlabel() for axis in figures.four_metrics([wide]).axes][3] == "overall recall (nats, log)"
    assert "log" not in figures.four_metrics([mog]).axes[3].get_xlabel()


def test_no_interval_is_drawn_for_one_seed(one_seed):
    for figure in (figures.title_figure([one_seed]), figures.precision_recall([one_seed])):
        assert all(len(line.get_xdata()) == 1 for axis in figure.axes for line in axis.lines)


def test_every_axis_has_a_name(mog, lm, sweep):
    drawn = (
        figures.precision_recall([mog, lm]),
        figures.target_through_stages([mog, lm]),
        figures.reward_against_kl([mog, lm]),
    )
    for figure in drawn:
        assert all(axis.get_ylabel() for axis in figure.axes)
    assert all(axis.get_xlabel() for axis in figures.title_figure([mog, lm]).axes)
    assert "nats per token" in texts(figures.precision_recall([lm]))
    assert "sharpening" in texts(figures.reward_by_sharpening(sweep))


def test_precision_lies_above_recall_at_the_measured_means(mog):
    (x, y), *_ = marks(figures.precision_recall([mog]), "align_then_kd")
    assert x == pytest.approx(estimates(mog, "overall_recall")["align_then_kd"][0].estimate)
    assert y == pytest.approx(estimates(mog, "overall_precision")["align_then_kd"][0].estimate)


@pytest.mark.parametrize(
    ("order", "route"),
    [
        ("kd_then_align", ("base", "kd_only", "kd_then_align")),
        ("align_then_kd", ("base", "base_aligned", "align_then_kd")),
    ],
)
def test_each_order_passes_through_its_own_stages(lm, order, route):
    heights = [y for _, y in marks(figures.target_through_stages([lm]), order)]
    assert heights == pytest.approx([estimates(lm, "target_rate")[name][0].estimate for name in route])


def test_the_kl_figure_ends_where_training_ended(lm):
    (x, y), *_ = marks(figures.reward_against_kl([lm]), "kd_then_align")
    ends = [record["stages"]["kd_aligned-kd_then_align"]["info"]["curve"][-1] for record in lm["records"]]
    assert x == pytest.approx(np.mean([end["kl"] for end in ends]))
    assert y == pytest.approx(np.mean([end["reward"] for end in ends]))


def test_distillation_has_no_curve_of_its_own(lm):
    assert marks(figures.reward_against_kl([lm]), "align_then_kd") == []


def test_a_run_without_curves_or_views_says_so(lm):
    bare = json.loads(json.dumps(lm))
    for record in bare["records"]:
        for stage in record["stages"].values():
            stage["info"].pop("curve", None)
    assert figures.has_curves(lm)
    assert not figures.has_curves(bare)
    assert not figures.has_views(lm)


def test_sharpening_has_a_panel_for_each_algorithm_and_kl_weight(sweep):
    figure = figures.reward_by_sharpening(sweep)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{a}, KL weight β = {b}" for b in ("0.5", "1") for a in ("RLHF", "DPO")]
    assert len(marks(figure, "align_then_kd")) == 4 * len(SHARPENINGS)


def test_the_densities_begin_with_the_truth_and_circle_the_target(drawn_densities):
    panels = [axis for axis in drawn_densities.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in panels][:3] == ["Truth", "Base", "Base, aligned"]
    assert len(panels) == 9
    assert all(tuple(axis.patches[0].center) == (1.5, -1.5) for axis in panels)


def test_the_drawn_density_of_the_truth_sums_to_one(drawn_densities):
    image = next(axis.images[0] for axis in drawn_densities.axes if axis.images)
    field, (left, right, bottom, top) = image.get_array(), image.get_extent()
    steps = field.shape[0] - 1
    assert float(field.sum()) * (right - left) * (top - bottom) / steps**2 == pytest.approx(1, abs=0.01)


def test_the_first_seed_is_shown_and_none_is_picked(mog, drawn_densities):
    shown = drawn_densities.axes[1].images[0].get_array()
    for records, same in ((mog["records"][:1], True), (mog["records"][1:], False)):
        image = figures.densities({**mog, "records": records}).axes[1].images[0].get_array()
        assert np.array_equal(shown, image) is same


def test_the_last_line_says_how_deep_the_evidence_is(mog, one_seed):
    assert depth_line([mog], "record").startswith("Recorded run. Gaussian world: laptop preset, 3 seeds.")
    assert depth_line([one_seed], "live").startswith("Live run. Language world: laptop preset, one seed, no interval.")
    assert "laptop preset, 2 to 3 seeds." in depth_line([mog, {**mog, "records": mog["records"][1:]}], "record")


def test_the_tiny_preset_cannot_pass_for_evidence(mog):
    assert "plumbing only" in depth_line([{**mog, "preset": "tiny"}], "record")


def test_an_unknown_depth_lists_the_known_ones(mog):
    with pytest.raises(UnknownName, match="Accepted: record, live, tiny"):
        depth_line([mog], "deep")


def test_an_undefined_metric_is_left_out_and_not_drawn_as_zero(mog):
    undefined = json.loads(json.dumps(mog))
    undefined["records"][0]["pipelines"]["base"]["metrics"]["target_precision"] = None
    assert "base" not in estimates(undefined, "target_precision")
    figures.title_figure([undefined])


def test_yardsticks_orders_and_controls_stand_apart():
    places = row_places(["base", "kd_only", "kd_then_align", "align_then_kd", "kd_then_align_base_reference"])
    assert np.diff(list(places.values())) == pytest.approx([1, 1.45, 1, 1.45])


def test_the_callers_settings_change_nothing_and_are_left_alone(mog):
    with matplotlib.rc_context({"figure.facecolor": "black", "axes.facecolor": "black"}):
        figure = figures.precision_recall([mog])
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert to_hex(figure.axes[0].get_facecolor()) == "#ffffff"


def test_no_figure_stays_open_behind_the_callers_back(mog):
    before = matplotlib.pyplot.get_fignums()
    figures.precision_recall([mog])
    assert matplotlib.pyplot.get_fignums() == before


def test_a_saved_png_says_what_it_is(mog, tmp_path):
    path = figures.save_figure(
        figures.precision_recall([mog]), tmp_path / "deep" / "a.png", "what it shows", "commit 0123"
    )
    with Image.open(path) as image:
        assert image.text["Description"] == "what it shows"
        assert image.text["Source"] == "commit 0123"
        assert image.text["Software"].startswith("alignkd_lab")
        assert image.getpixel((0, 0))[:3] == (255, 255, 255)


def test_recalls_that_differ_by_orders_of_magnitude_get_a_logarithmic_axis(mog):
    wide = json.loads(json.dumps(mog))
    for record in wide["records"]:
        record["pipelines"]["align_then_kd"]["metrics"]["overall_recall"] = -300.0 - record["seed"]
    axis = figures.precision_recall([wide]).axes[0]
    assert axis.get_xscale() == "symlog"
    assert "logarithmic" in axis.get_xlabel()
    left, right = axis.get_xlim()
    values = [value for _, values in estimates(wide, "overall_recall").values() for value in values]
    assert left < min(values) < max(values) < right
    assert figures.precision_recall([mog]).axes[0].get_xscale() == "linear"
