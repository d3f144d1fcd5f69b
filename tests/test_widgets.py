"""The parts of an explorer: controls, pictures and their words, and how they come onto a page."""

import base64
import gc
import io
import os
import re

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from alignkd_lab.course.widgets import charts
from alignkd_lab.course.widgets.controls import Choice, ChoiceControl, Number, NumberControl
from alignkd_lab.course.widgets.view import Explorer, Picture, kept, png
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.plots.drawing import panels

FRUIT = {"apple": "an apple", "pear": "a pear"}
TABLE = {"fruit": Choice("pear", "a fruit", FRUIT), "n": Number(1.0, "n", 0.0, 3.0, 0.5)}


def a_figure(size=(2, 1)):
    return Figure(figsize=size)


def words(state):
    return f"{state['n']:g} of {state['fruit']}"


def made(compute=dict, shown=("fruit",), **options):
    return Explorer(TABLE, shown, {}, compute, lambda data, note: a_figure(), words, "", "made", **options)


def image_of(data):
    return Image.open(io.BytesIO(data))


def test_ipywidgets_is_the_version_that_was_asked_for():
    assert ipywidgets.__version__.startswith(os.environ.get("ALIGNKD_IPYWIDGETS", "8."))


# Controls


def test_slider_and_field_move_each_other_and_a_browser_s_rounding_moves_neither():
    control = NumberControl("a share", 0.04, 1e-6, 0.5, 0.05, logarithmic=True)
    assert (control.number.tooltip, control.slider.description) == ("a share", "")
    control.slider.value = 10**-3.35
    assert control.value == pytest.approx(0.000447)
    control.number.value = 0.2
    assert control.slider.value == pytest.approx(0.2)
    control.number.value = 0.000647
    control.slider.value = 10**-3.2
    assert control.value == 0.000647
    control.slider.value = 10**-3.15
    assert control.value == pytest.approx(0.000708)


def test_a_fraction_is_rounded_and_told_once_and_what_lies_beyond_the_range_is_moved_to_its_end():
    control, told = NumberControl("a seed", 0.0, 0.0, 19.0, 1.0), []
    control.on_change(lambda: told.append(control.value))
    control.number.value = 3.8
    assert control.value == control.slider.value == 4
    assert told == [4]
    control.value = 99
    assert control.value == control.slider.value == 19


def test_a_choice_shows_words_and_holds_names():
    choice, seen = ChoiceControl("a fruit", "pear", FRUIT), []
    assert choice.list.options == (("an apple", "apple"), ("a pear", "pear"))
    choice.on_change(lambda: seen.append(choice.value))
    choice.value = "apple"
    assert seen == ["apple"]
    with pytest.raises(UnknownName, match="apple, pear"):
        ChoiceControl("a fruit", "plum", FRUIT)


# Explorers


def test_a_change_shows_in_picture_caption_and_the_call_that_rebuilds_it():
    explorer = made()
    assert explorer.widget.children == (explorer.controls["fruit"], explorer.picture, explorer.words)
    explorer.controls["fruit"].value = "apple"
    assert "1 of apple" in explorer.words.value
    assert "made(&#x27;fruit&#x27;, fruit=&#x27;apple&#x27;, n=1)" in explorer.words.value
    assert 'alt="1 of apple"' in explorer.picture.value
    assert made(shown=()).shown == ("fruit", "n")


def test_an_error_is_written_into_the_caption_and_raised():
    def refuse(state):
        if state["n"] > 1:
            raise BadInput("n must be at most 1, not <2>")
        return state

    explorer = made(refuse)
    with pytest.raises(BadInput):
        explorer.controls["n"].value = 2
    assert "n must be at most 1, not &lt;2&gt;" in explorer.words.value
    assert "n=2)" in explorer.words.value
    assert gc.isenabled()


def test_no_garbage_is_collected_while_somebody_waits_for_a_picture():
    collecting = []
    explorer = made(lambda state: collecting.append(gc.isenabled()) or state)
    explorer.controls["n"].value = 2
    assert collecting == [False, False]
    assert gc.isenabled()


def test_without_a_kernel_a_page_shows_every_still_with_its_own_caption_or_the_explorer_s_own():
    one, three = made().still(), made(stills=[{"n": 2.0}, {"n": 3.0}]).still()
    assert (three.width, three.height) == (one.width, 3 * one.height)
    places = [three.alt.index(f"{n} of pear") for n in (1, 2, 3)]
    assert places == sorted(places)
    assert image_of(three.png).height == 3 * image_of(one.png).height
    own = made(still=lambda state: (a_figure((3, 1)), f"three of {state['fruit']}")).still()
    assert (own.alt, own.width) == ("three of pear", 288)


def test_a_live_picture_is_coarser_than_one_that_is_kept_and_as_large_on_the_page():
    explorer = made()
    live = re.search(r'base64,([^"]*)".* width="(\d+)"', explorer.picture.value)
    still = explorer.still()
    assert int(live.group(2)) == still.width
    assert still.width < image_of(base64.b64decode(live.group(1))).width < image_of(still.png).width


# Pictures


def test_stacked_pictures_stand_in_their_order_on_white():
    figures = [a_figure(), a_figure()]
    figures[1].set_facecolor("black")
    pixels = np.asarray(image_of(Picture.stack([Picture(figure, "") for figure in figures]).png).convert("L"))
    above, below = np.split(pixels, 2)
    assert above.min() == 255
    assert below.max() == 0


def test_a_picture_has_words_for_those_who_cannot_see_it():
    picture = Picture(a_figure(), 'a "quoted" <word>')
    data, size = picture._repr_mimebundle_()
    assert data["text/plain"] == size["image/png"]["alt"] == 'a "quoted" <word>'
    assert 'alt="a &quot;quoted&quot; &lt;word&gt;"' in picture.tag()


def test_a_figure_s_last_line_is_told_too_and_only_once():
    seen = "What is seen, in a caption that is broken into two lines."
    for note in ("Live: made here, and long enough to be broken into two lines of words.", f"{seen} Live: made here."):
        figure, _ = panels(1, 1, (4, 3), "title", note)
        alt = Picture(figure, seen).alt
        assert alt.startswith(f"{seen} Live: made here")
        assert alt.count("Live") == alt.count("What is seen") == 1


@pytest.mark.parametrize(("largest", "mode", "apart"), [(170_000, "RGB", 0), (0, "P", 48)])
def test_a_kept_picture_is_small_and_a_large_one_has_256_colours(largest, mode, apart, monkeypatch):
    monkeypatch.setattr(charts, "LARGE", largest)
    figure = a_figure((3, 2))
    figure.subplots().imshow([[row * column for column in range(60)] for row in range(40)], interpolation="bilinear")
    picture = kept(figure, "a slope")
    before, after = image_of(png(figure)), image_of(picture.png)
    assert (after.mode, after.size) == (mode, before.size)
    assert len(picture.png) < 0.9 * len(png(figure))
    differences = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getextrema()
    assert max(high for _, high in differences) <= apart
    assert picture.alt == "a slope"
