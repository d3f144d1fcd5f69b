"""The picture of ADPA's limits shows what the frame holds."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from alignkd_lab.course.toy.figures import advantage_limits
from alignkd_lab.plots.style import PIPELINE_STYLE
from alignkd_lab.stats import t_interval

METRICS = ("expected_advantage", "reward", "overall_recall")
GAMMAS, STEPS, SEEDS = (0.5, 1.5, 6.0), (0, 10, 20), (0, 1, 2)


def frame(regularisers=("none", "KL 3"), seeds=SEEDS):
    index = pd.MultiIndex.from_product(
        [regularisers, GAMMAS, STEPS, seeds], names=["regulariser", "gamma", "step", "seed"]
    )
    values = np.random.default_rng(0).normal(size=(len(index), len(METRICS)))
    return pd.DataFrame(values, index=index, columns=list(METRICS)).reset_index()


def teachers():
    return pd.DataFrame({"model": ["dpo", "dpo", "truth"]} | {metric: [0.1, 0.3, 9.0] for metric in METRICS})


def curve(axis, label):
    (line,) = [line for line in axis.lines if line.get_label() == label]
    # The lines of several regularisers stand a little beside one another.
    return {round(float(x) * 2) / 2: y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_above_are_the_unregulariserd_means_step_by_step_and_below_the_last_step_by_gamma():
    data = frame()
    figure = advantage_limits(data)
    for metric, above, below in zip(METRICS, figure.axes[:3], figure.axes[3:], strict=True):
        for gamma in GAMMAS:
            runs = data[(data.regulariser == "none") & (data.gamma == gamma)]
            expected = runs.groupby("step")[metric].mean().to_dict()
            assert curve(above, f"γ = {gamma:g}") == pytest.approx(expected)
        for regulariser, label in (("none", "no regulariser"), ("KL 3", "KL 3")):
            runs = data[(data.regulariser == regulariser) & (data.step == 20)]
            assert curve(below, label) == pytest.approx(runs.groupby("gamma")[metric].mean().to_dict())


def test_bars_below_are_the_t_intervals_over_seeds():
    data = frame(("none",))
    bars = advantage_limits(data).axes[4].collections[0]
    for gamma, segment in zip(GAMMAS, bars.get_segments(), strict=True):
        _, low, high = t_interval(data[(data.gamma == gamma) & (data.step == 20)].reward)
        assert segment.tolist() == [pytest.approx([gamma, low]), pytest.approx([gamma, high])]


def test_the_dpo_teacher_is_the_dashed_line():
    for axis in advantage_limits(frame(), teachers()).axes:
        levels = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]
        assert levels == pytest.approx([0.2])
    assert "Dashed" not in advantage_limits(frame()).get_supxlabel()


def test_no_regulariser_wears_a_pipeline_s_colour():
    figure = advantage_limits(frame(tuple("abcdefghi")))
    worn = {to_hex(line.get_color()).upper() for line in figure.axes[3].lines}
    assert len(worn) == 9
    assert not worn & {style.colour.upper() for style in PIPELINE_STYLE.values()}


def test_the_last_line_says_how_many_seeds_there_are():
    assert "over 3 seeds" in advantage_limits(frame()).get_supxlabel()
    alone = advantage_limits(frame(seeds=(0,)))
    assert "One seed" in alone.get_supxlabel()
    assert len(alone.axes) == 6
