"""Pictures and their words as a page shows them, and the fields beside them."""

import io
import os

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from alignkd_lab.course.widgets import charts
from alignkd_lab.course.widgets.view import Picture, choice, kept, png
from alignkd_lab.plots.drawing import panels


def image_of(data):
    return Image.open(io.BytesIO(data))


def test_ipywidgets_is_the_version_that_was_asked_for():
    assert ipywidgets.__version__.startswith(os.environ.get("ALIGNKD_IPYWIDGETS", "8."))


def test_a_field_has_its_label_as_tooltip_and_holds_what_its_words_stand_for():
    fruit = choice("a fruit", "pear", {"apple": "an apple", "pear": "a pear"})
    assert fruit.options == (("an apple", "apple"), ("a pear", "pear"))
    assert (fruit.value, fruit.description, fruit.tooltip) == ("pear", "a fruit", "a fruit")


# Pictures


def test_stacked_pictures_stand_in_their_order_on_white():
    figures = [Figure(figsize=(2, 1)), Figure(figsize=(2, 1))]
    figures[1].set_facecolor("black")
    pixels = np.asarray(image_of(Picture.stack([Picture(figure, "") for figure in figures]).png).convert("L"))
    above, below = np.split(pixels, 2)
    assert above.min() == 255
    assert below.max() == 0


def test_a_picture_has_words_for_those_who_cannot_see_it_and_its_figure_s_last_line_is_told_only_once():
    picture = Picture(Figure(figsize=(2, 1)), 'a "quoted" <word>')
    data, size = picture._repr_mimebundle_()
    assert data["text/plain"] == size["image/png"]["alt"] == 'a "quoted" <word>'
    assert 'alt="a &quot;quoted&quot; &lt;word&gt;"' in picture.tag()
    seen = "What is seen, in a caption that is broken into two lines."
    for note in ("Live: made here, and long enough to be broken into two lines of words.", f"{seen} Live: made here."):
        figure, _ = panels(1, 1, (4, 3), "title", note)
        alt = Picture(figure, seen).alt
        assert alt.startswith(f"{seen} Live: made here")
        assert alt.count("Live") == alt.count("What is seen") == 1


@pytest.mark.parametrize(("largest", "mode", "apart"), [(170_000, "RGB", 0), (0, "P", 48)])
def test_a_kept_picture_is_small_and_a_large_one_has_256_colours(largest, mode, apart, monkeypatch):
    monkeypatch.setattr(charts, "LARGE", largest)
    figure = Figure(figsize=(3, 2))
    figure.subplots().imshow([[row * column for column in range(60)] for row in range(40)], interpolation="bilinear")
    picture = kept(figure, "a slope")
    before, after = image_of(png(figure)), image_of(picture.png)
    assert (after.mode, after.size) == (mode, before.size)
    assert len(picture.png) < 0.9 * len(png(figure))
    differences = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getextrema()
    assert max(high for _, high in differences) <= apart
    assert picture.alt == "a slope"
