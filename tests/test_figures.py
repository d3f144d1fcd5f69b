"""Figures: what is drawn is what the records hold, one look for a pipeline everywhere, honest last lines."""

import dataclasses

import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from synthetic_records import LM, lm_record, mog_record, replaced, tabulated

from alignkd_lab.errors import UnknownName
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.mog.sweep import Grid, lead
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plots import figures, maps, sweeps
from alignkd_lab.plots.drawing import depth_line, estimates, row_places, whole
from alignkd_lab.plots.style import PIPELINE_STYLE
from alignkd_lab.recording import plain_settings
from alignkd_lab.records import concat
from alignkd_lab.stats import t_interval

SHARPENINGS = (1.0, 2.0)


@pytest.fixture(scope="module")
def sweep():
    cells = [(a, s, b) for a in ("rlhf", "dpo") for s in SHARPENINGS for b in (0.5, 1.0)]
    return tabulated(*(mog_record(seed, a, sharpening=s, beta=b) for seed in range(3) for a, s, b in cells))


@pytest.fixture(scope="module")
def mog(sweep):
    return next(sweep.each())


@pytest.fixture(scope="module")
def lm():
    return tabulated(*(lm_record(seed) for seed in range(3)))


@pytest.fixture(scope="module")
def one_seed():
    return tabulated(lm_record(0))


def marks(figure, name):
    """The points that are drawn in a pipeline's colour with its marker."""
    style = PIPELINE_STYLE[name]
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for axis in figure.axes
        for line in axis.lines
        if line.get_marker() == style.marker and to_hex(line.get_color()).upper() == style.colour.upper()
    ]


def test_the_title_figure_marks_the_mean_of_every_pipeline_also_of_one_world_or_one_seed(mog, lm, one_seed):
    figure = figures.title_figure(concat([mog, lm]))
    for run, metric, panel in ((mog, "reward", 0), (lm, "target_rate", 5)):
        for name, ((mean, low, high), values) in estimates(run, metric).items():
            axis = figure.axes[panel]
            place = row_places(list(estimates(run, metric)))[name]
            drawn = [(line.get_xdata(), line.get_ydata()) for line in axis.lines]
            assert any(len(x) == 1 and x[0] == pytest.approx(mean) and y[0] == place for x, y in drawn)
            assert any(len(x) == 2 and list(x) == pytest.approx([low, high]) and y[0] == place for x, y in drawn)
            assert any(len(x) == 3 and list(x) == pytest.approx(list(values)) for x, y in drawn)
    assert len(figures.title_figure(mog).axes) == 3
    assert len(figures.title_figure(one_seed).axes) == 3
    for figure in (figures.title_figure(one_seed), figures.four_metrics(one_seed)):
        assert all(len(line.get_xdata()) == 1 for axis in figure.axes for line in axis.lines), "an interval"


def test_an_axis_names_its_unit_and_says_that_it_is_logarithmic_where_it_spans_orders_of_magnitude(mog, lm):
    path = ("pipelines", "align_then_kd", "metrics", "overall_recall")
    wide = tabulated(*(replaced(mog_record(seed), -300.0 - seed, *path) for seed in range(3)))
    units = [figures.four_metrics(run).axes[3].get_xlabel() for run in (lm, wide, mog)]
    assert units == ["overall recall (nats per token)", "overall recall (nats, log)", "overall recall (nats)"]


def test_a_control_waits_until_every_seed_has_it():
    control = "kd_then_align_base_reference"
    names = (*ORDERS, control)
    lacking = {name: LM[name] for name in LM if name != control}
    run = tabulated(lm_record(0, effects=lacking), lm_record(1))
    assert set(estimates(run.select(pipeline=list(names)), "reward")) == set(names)
    assert set(estimates(whole(run, names), "reward")) == set(ORDERS)
    assert set(estimates(whole(run.select(seed=1), names), "reward")) == set(names)


def test_each_order_passes_through_its_own_stages(lm):
    figure, rates = figures.target_through_stages(lm), estimates(lm, "target_rate")
    for order, middle in (("kd_then_align", "kd_only"), ("align_then_kd", "base_aligned")):
        heights = [y for _, y in marks(figure, order)]
        assert heights == pytest.approx([rates[name][0].estimate for name in ("base", middle, order)])


def test_sharpening_has_a_mark_for_each_run_in_a_panel_for_each_algorithm_and_kl_weight(sweep):
    figure = figures.reward_by_sharpening(sweep)
    assert len(figure.axes) == 4
    assert len(marks(figure, "align_then_kd")) == 4 * len(SHARPENINGS)


def test_the_last_line_says_how_deep_the_evidence_is_and_tiny_cannot_pass_for_it(mog, one_seed):
    assert depth_line([one_seed], "live").endswith("laptop preset, one seed, no interval.")  # and no word of bars
    assert "2 to 3 seeds" in depth_line([mog, mog.select(seed=[1, 2])], "record")
    assert "plumbing only" in depth_line([tabulated({**mog_record(0), "preset": "tiny"})], "record")
    with pytest.raises(UnknownName, match="Accepted: record, live, tiny"):
        depth_line([mog], "deep")


@pytest.mark.parametrize(("make", "without"), [(lm_record, (0, 1)), (mog_record, (0,))])
def test_every_picture_is_drawn_where_no_metric_exists_and_where_none_exists_in_one_seed(make, without):
    made = [make(0), make(1)]
    for seed in without:
        for entry in made[seed]["pipelines"].values():
            entry["metrics"] = dict.fromkeys(entry["metrics"])
    run = tabulated(*made)
    assert not estimates(run, "reward")  # and none is drawn as zero
    arm = {name: {1.0: run, 2.0: run} for name in run.pipelines}
    drawn = [figures.title_figure(run), figures.four_metrics(run),
             figures.target_through_stages(run),
             sweeps.sweep_figure([("a", run), ("b", run)], "x"), sweeps.arm_figure(arm, "x"),
             sweeps.leads_figure([("a", run, run)])]  # fmt: skip
    for figure in drawn:
        figure.draw_without_rendering()
        assert "nan" not in " ".join(text.get_text() for text in figure.findobj(Text)).split()
        assert all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes)


def test_the_callers_settings_change_nothing_and_no_figure_stays_open_behind_his_back(mog):
    before = matplotlib.pyplot.get_fignums()
    with matplotlib.rc_context({"figure.facecolor": "black", "axes.facecolor": "black"}):
        figure = figures.title_figure(mog)
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
    assert matplotlib.pyplot.get_fignums() == before


# Pictures of sweeps -----------------------------------------------------------------------------------


def test_an_arm_is_drawn_at_its_values_with_the_means_of_the_tables_and_every_seed(sweep):
    settings = {s: MogSettings(sharpening=s, beta=0.5) for s in SHARPENINGS}
    arm = sweeps.by_value(sweep, settings)
    assert {algorithm: list(held) for algorithm, held in arm.items()} == {"rlhf": [1.0, 2.0], "dpo": [1.0, 2.0]}
    figure = sweeps.arm_figure(arm, "sharpening s")
    for axis, held in zip(figure.axes, arm.values(), strict=True):
        lines = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == len(SHARPENINGS)]
        for order in ORDERS:
            means = [run.table("reward")[order].mean() for run in held.values()]
            assert any(list(y) == pytest.approx(means) for y in lines)
            for run in held.values():
                seeds = run.table("reward")[order].to_numpy()
                assert any(np.array_equal(line.get_ydata(), seeds) for line in axis.lines)


def test_leads_are_the_paired_differences_with_their_intervals(lm):
    figure = sweeps.leads_figure([("one", lm, lm), ("two", lm.select(seed=[0, 1]), lm)], marked=(0,))
    values = lm.table("reward")
    for place, seeds in enumerate(([0, 1, 2], [0, 1])):
        gap = (values["align_then_kd"] - values["kd_then_align"]).loc[seeds]
        bars = [
            line for line in figure.axes[0].lines if list(line.get_ydata()) == [place, place] and line.get_lw() == 3
        ]
        assert list(bars[0].get_xdata()) == pytest.approx(list(t_interval(gap.tolist())[1:]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]


def test_a_sweep_shows_both_orders_at_every_value_and_no_bar_of_few_seeds(lm):
    figure = sweeps.sweep_figure([("0.1", lm), ("0.3", lm)], "KL weight β")
    (_, y), *_ = marks(figure, "align_then_kd")
    assert y == pytest.approx(lm.table("reward")["align_then_kd"].mean())
    lines = [line.get_xydata() for axis in figure.axes for line in axis.lines]
    bars = [ends for ends in lines if len(ends) == 2 and ends[0, 0] == ends[1, 0]]
    assert np.isnan(np.array(bars)[..., 1]).all()


def test_an_alignment_is_drawn_where_every_seed_had_pairs(lm):
    figure = sweeps.alignment_figure([(lm, ("kd_then_align",), ""), (lm, ("base_aligned",), "twice the rate")])
    assert len(marks(figure, "kd_then_align")) == 1
    lacking = dataclasses.replace(lm, curves=lm.curves[lm.curves["seed"] > 0])
    figure = sweeps.alignment_figure([(lm, ("base_aligned",), ""), (lacking, ("kd_then_align",), "")])
    assert not marks(figure, "kd_then_align")


def test_the_map_colours_the_difference_of_the_mean_rewards():
    shares = [with_target_weight(MogSettings(beta=b), m) for b in (0.5, 1.0) for m in (0.02, 0.09)]
    records = [mog_record(seed, **plain_settings(settings)) for settings in shares for seed in range(3)]
    grid = Grid.of(tabulated(*records), "rlhf", 2.0)
    axis = maps.map_figure([grid]).axes[0]
    data = lead(grid)
    assert (axis.collections[0].get_array().mask == ~data.decided).all()
    assert "of 4" in axis.get_title(loc="left")
