"""Names, colours and numbers: one look for one pipeline, numbers as readers expect them."""

import itertools
import math

import pytest

from alignkd_lab.pipelines import PIPELINES, reading_order
from alignkd_lab.plots.style import PIPELINE_STYLE, interval, metric_label, number, percent, pipeline_style, signed
from alignkd_lab.study.fair_run import METHODS

# What one picture may draw: the pipelines, and the methods of experiment 1, some of which look as a pipeline does.
TOGETHER = (tuple(PIPELINES), ("base", "base_aligned", *METHODS))


def seen_by_a_deuteranope(colour):
    """Vienot, Brettel and Mollon (1999): red and green cones give one and the same signal."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c**2.2 for c in (red, green, blue)]
    merged = 0.29275 * linear[0] + 0.70725 * linear[1]
    rest = -0.02234 * linear[0] + 0.02234 * linear[1] + linear[2]
    return [max(0.0, c) ** (1 / 2.2) for c in (merged, merged, rest)]


@pytest.mark.parametrize("names", TOGETHER, ids=["pipelines", "experiment 1"])
def test_what_is_drawn_together_has_styles_and_no_two_look_alike_to_red_green_blind_readers_either(names):
    for field in ("label", "marker"):
        assert len({getattr(PIPELINE_STYLE[name], field) for name in names}) == len(names)
    assert len({signed(name)[0] for name in list(PIPELINE_STYLE)[:8]}) == 8  # orders and controls
    for one, two in itertools.combinations(names, 2):
        pair = (seen_by_a_deuteranope(PIPELINE_STYLE[name].colour) for name in (one, two))
        assert sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) ** 0.5 > 0.08, (one, two)


def test_an_unknown_pipeline_is_read_last_and_gets_a_look_of_its_own_and_units_follow_the_world():
    assert reading_order(["distil_twice", "gkd", "base"]) == ["base", "gkd", "distil_twice"]
    assert pipeline_style("distil_twice").label == "distil twice"
    assert pipeline_style("distil_twice").colour not in {style.colour for style in PIPELINE_STYLE.values()}
    labels = [metric_label("target_precision", world) for world in ("mog", "lm")]
    assert labels == ["target precision (nats)", "target precision (nats per token)"]


def test_numbers_intervals_and_shares_are_written_for_readers():
    numbers = {0.0853: "0.085", 3.0042: "3.00", -37.04: "−37.0", 1234567: "1,234,567", 0: "0", -0.00001: "0.000"}
    assert {value: number(value) for value in numbers} == numbers
    assert {number(missing) for missing in (None, math.nan, math.inf)} == {"–"}
    assert interval(3.0, 2.0, 4.0) == "3.00 (2.00 to 4.00)"
    assert interval(3.0, None, None) == interval(3.0, math.nan, math.nan) == "3.00"
    shares = {0.0: "0 %", 0.04: "4 %", 0.9371: "93.7 %", 0.99999: "more than 99.9 %", 1 / 15_400: "1 in 15,000",
              1e-174: "1 in 10^174"}  # fmt: skip
    assert {share: percent(share) for share in shares} == shares
