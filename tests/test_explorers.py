"""Explorers: what is computed is the theory's, every control can be moved to its ends, a page carries both views."""

import base64
import gc
import io
import os
import re

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from alignkd_lab import theory
from alignkd_lab.course.explorers import threshold
from alignkd_lab.course.explorers.threshold import START, compute, percent
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets.view import Explorer, NumberControl, Picture
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.plots.drawing import panels

RANGES = {"reference_mass": (1e-6, 0.5), "reward": (0.0, 20.0), "beta": (0.05, 5.0), "draws": (1.0, 1e6)}


def state(**changes):
    return {**START, **changes}


@pytest.fixture
def explorer():
    return threshold.show("reference_mass")


# compute


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("reward", [0.0, 3.0])
def test_the_optimum_is_that_of_a_target_and_a_rest(reward, beta):
    data = compute(state(reference_mass=0.02, reward=reward, beta=beta))
    log_optimum = theory.tilted_optimum(torch.log(torch.tensor([0.02, 0.98])), [reward, 0.0], beta)
    assert data.optimum == pytest.approx(log_optimum[0].exp().item(), rel=1e-5)
    assert np.interp(0.02, data.masses, data.optima) == pytest.approx(data.optimum, rel=1e-2)


def test_the_target_wins_exactly_from_the_threshold_on():
    data = compute(state(reward=3.0, beta=0.6))
    for mass, wins in ((data.least_mass * 0.99, False), (data.least_mass * 1.01, True)):
        assert (compute(state(reference_mass=mass, reward=3.0, beta=0.6)).optimum > 0.5) is wins
    for reward, wins in ((data.least_reward * 0.99, False), (data.least_reward * 1.01, True)):
        assert (compute(state(reward=reward, beta=0.6)).optimum > 0.5) is wins


def test_the_chance_of_a_sight_is_the_share_of_batches_that_hold_one():
    batches = np.random.default_rng(0).random((4000, 50)) < 0.03
    data = compute(state(reference_mass=0.03, draws=50.0))
    assert data.chance == pytest.approx(batches.any(1).mean(), abs=0.025)
    assert np.interp(50.0, data.counts, data.chances) == pytest.approx(data.chance, abs=1e-3)
    assert compute(state(reference_mass=0.03, draws=data.draws_for_95)).chance == pytest.approx(0.95)


def test_no_reward_changes_the_chance_of_a_sight():
    chances = {compute(state(reference_mass=1e-4, reward=reward)).chance for reward in (0.0, 4.0, 20.0)}
    assert len(chances) == 1


def test_compute_refuses_what_is_no_probability():
    with pytest.raises(BadInput, match="probability"):
        compute(state(reference_mass=1.5))


# caption


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the target wins"),
        ({"reference_mass": 1e-5}, "the reference wins, and only a reward above 5.76 would change that"),
        ({"reference_mass": 1e-3}, "whatever the reward; for 95 % it takes 2,990 draws"),
    ],
)
def test_the_caption_says_what_is_seen(changes, said):
    assert said in threshold.caption(compute(state(**changes)))


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0 %"),
        (0.04, "4 %"),
        (0.9371, "93.7 %"),
        (0.99999, "more than 99.9 %"),
        (1 / 15_400, "1 in 15,000"),
        (1e-174, "1 in 10^174"),
    ],
)
def test_shares_are_written_for_readers(share, said):
    assert percent(share) == said


# controls


def test_every_number_of_the_state_has_a_control_over_its_range():
    made = threshold.controls()
    assert {name: control.value for name, control in made.items()} == START
    assert {name: (control.number.min, control.number.max) for name, control in made.items()} == RANGES


@pytest.mark.parametrize("name", RANGES)
def test_each_control_moves_over_its_whole_range(name):
    explorer = threshold.show(name)
    low, high = RANGES[name]
    seen = set()
    for value in np.geomspace(low, high, 7) if low else np.linspace(low, high, 7):
        explorer.controls[name].value = value
        assert explorer.state == pytest.approx(state(**{name: value}))
        seen.add((explorer.picture.value, explorer.words.value))
    assert len(seen) == 7


def test_the_slider_moves_the_field_and_the_field_the_slider():
    control = NumberControl("a share", 0.04, 1e-6, 0.5, 0.05, logarithmic=True)
    control.slider.value = 10**-3.35
    assert control.value == pytest.approx(0.000447)
    control.number.value = 0.2
    assert control.slider.value == pytest.approx(0.2)


def test_a_typed_number_survives_that_the_browser_moves_the_slider_to_its_nearest_step():
    control = NumberControl("a share", 0.04, 1e-6, 0.5, 0.05, logarithmic=True)
    control.number.value = 0.000647
    control.slider.value = 10**-3.2
    assert control.value == 0.000647
    control.slider.value = 10**-3.15
    assert control.value == pytest.approx(0.000708)


def test_a_fraction_in_a_field_of_whole_numbers_is_rounded_and_told_once():
    control, told = NumberControl("a seed", 0.0, 0.0, 19.0, 1.0), []
    control.on_change(lambda: told.append(control.value))
    control.number.value = 3.8
    assert control.value == control.slider.value == 4
    assert told == [4]


def test_a_field_s_label_is_its_tooltip():
    assert NumberControl("a reward", 4.0, 0.0, 20.0, 0.1).number.tooltip == "a reward"


def test_ipywidgets_is_the_version_that_was_asked_for():
    assert ipywidgets.__version__.startswith(os.environ.get("ALIGNKD_IPYWIDGETS", "8."))


def test_what_is_set_beyond_the_range_is_moved_to_its_end():
    control = NumberControl("a reward", 4.0, 0.0, 20.0, 0.1)
    control.value = 99
    assert control.value == control.slider.value == 20


def test_the_field_carries_the_label_that_the_slider_cannot():
    for control in threshold.controls().values():
        assert control.number.description
        assert not control.slider.description
        assert control.number in control.children


def test_unknown_controls_are_refused():
    with pytest.raises(UnknownName, match="reference_mass"):
        threshold.show("mass")
    with pytest.raises(UnknownName, match="reference_mass"):
        threshold.show(mass=0.1)


# view


def test_a_bundle_carries_the_widgets_and_a_picture(explorer):
    data, metadata = explorer._repr_mimebundle_()
    assert data[WIDGET_VIEW]["model_id"] == explorer.widget.model_id
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert image.width > 1000
    assert data["text/plain"].startswith(threshold.caption(compute(START)))
    assert metadata["image/png"]["width"] < image.width


def test_only_the_controls_that_were_asked_for_are_on_the_page(explorer):
    assert explorer.widget.children == (explorer.controls["reference_mass"], explorer.picture, explorer.words)
    assert explorer.state == START


def test_a_change_shows_in_picture_caption_and_the_call_that_rebuilds_it(explorer):
    before = explorer.picture.value
    explorer.controls["reference_mass"].value = 0.001
    assert explorer.picture.value != before
    assert "<img" in explorer.picture.value
    assert "alt=" in explorer.picture.value
    assert "reference_mass=0.001" in explorer.words.value
    rebuilt = threshold.show("reference_mass", reference_mass=0.001)
    assert rebuilt.words.value == explorer.words.value
    assert rebuilt.picture.value == explorer.picture.value


def test_without_a_kernel_a_page_shows_every_still_with_its_own_caption():
    stills = [{"reference_mass": 0.001}, {"reference_mass": 1e-5}]
    one, three = threshold.show("reference_mass").still(), threshold.show("reference_mass", stills=stills).still()
    assert (three.width, three.height) == (one.width, 3 * one.height)
    captions = [threshold.caption(compute(state(**changes))) for changes in ({}, *stills)]
    places = [three.alt.index(caption) for caption in captions]
    assert places == sorted(set(places))
    image = Image.open(io.BytesIO(three.png))
    assert (image.height, image.width) == (3 * Image.open(io.BytesIO(one.png)).height, image.width)


def test_stacked_pictures_stand_in_their_order_on_white():
    figures = [_figure(), _figure()]
    figures[1].set_facecolor("black")
    pixels = np.asarray(Image.open(io.BytesIO(Picture.stack([Picture(f, "") for f in figures]).png)).convert("L"))
    above, below = np.split(pixels, 2)
    assert above.min() == 255
    assert below.max() == 0


def test_the_threshold_s_label_makes_way_for_the_state():
    sides = []
    for mass in (0.04, 0.001):
        texts = threshold.draw(compute(state(reference_mass=mass))).axes[0].texts
        sides.append(next(text.get_ha() for text in texts if text.get_text() == "recall threshold"))
    assert sides == ["left", "right"]


def test_an_error_is_written_into_the_caption_and_raised():
    def refuse(state):
        if state["n"] > 1:
            raise BadInput("n must be at most 1, not <2>")
        return state

    control = NumberControl("n", 1.0, 0.0, 3.0, 0.5)
    explorer = Explorer({"n": control}, ["n"], refuse, lambda data, note: _figure(), str, "", "made")
    with pytest.raises(BadInput):
        control.value = 2
    assert "n must be at most 1, not &lt;2&gt;" in explorer.words.value
    assert "made(&#x27;n&#x27;, n=2)" in explorer.words.value
    assert gc.isenabled()


def test_no_garbage_is_collected_while_somebody_waits_for_a_picture():
    collecting = []

    def note(state):
        collecting.append(gc.isenabled())
        return state

    control = NumberControl("n", 1.0, 0.0, 3.0, 0.5)
    Explorer({"n": control}, ["n"], note, lambda data, note: _figure(), str, "", "made")
    control.value = 2
    assert collecting == [False, False]
    assert gc.isenabled()


def test_a_live_picture_is_coarser_than_one_that_is_kept_and_as_large_on_the_page(explorer):
    live = re.search(r'base64,([^"]*)".* width="(\d+)"', explorer.picture.value)
    kept = explorer.still()
    assert int(live.group(2)) == kept.width
    assert kept.width < Image.open(io.BytesIO(base64.b64decode(live.group(1)))).width < _width(kept.png)


def test_a_picture_has_words_for_those_who_cannot_see_it():
    picture = Picture(_figure(), 'a "quoted" <word>')
    data, _ = picture._repr_mimebundle_()
    assert data["text/plain"] == 'a "quoted" <word>'
    assert 'alt="a &quot;quoted&quot; &lt;word&gt;"' in picture.tag()


def test_a_figure_s_last_line_is_told_too_and_only_once():
    figure, _ = panels(1, 1, (4, 3), "title", "Live: made here, and long enough to be broken into two lines of words.")
    assert Picture(figure, "What is seen.").alt.startswith(
        "What is seen. Live: made here, and long enough to be broken"
    )
    figure, _ = panels(
        1, 1, (4, 3), "title", "What is seen, in a caption that is broken into two lines. Live: made here."
    )
    caption = "What is seen, in a caption that is broken into two lines."
    assert Picture(figure, caption).alt == f"{caption} Live: made here."


def _width(png: bytes) -> int:
    return Image.open(io.BytesIO(png)).width


def _figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(2, 1))
