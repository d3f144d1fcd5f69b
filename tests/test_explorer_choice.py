"""A choice is a labelled list of words; an explorer that holds one writes it into the call that rebuilds it."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from alignkd_lab.course.widgets import choice as choice_module
from alignkd_lab.course.widgets.choice import ChoiceControl, ChoiceExplorer, kept
from alignkd_lab.course.widgets.view import NumberControl, png
from alignkd_lab.errors import UnknownName


@pytest.fixture
def choice():
    return ChoiceControl("a fruit", "pear", {"apple": "an apple", "pear": "a pear"})


def made(choice):
    controls = {"fruit": choice, "n": NumberControl("n", 1.0, 0.0, 3.0, 0.5)}

    def draw(data, note):
        return Figure(figsize=(2, 1))

    def still(state):
        return Figure(figsize=(3, 1)), f"three of {state['fruit']}"

    def words(state):
        return f"{state['n']:g} of {state['fruit']}"

    return ChoiceExplorer(controls, ["fruit"], dict, draw, words, "", "made", still)


def test_a_choice_shows_words_and_holds_names(choice):
    assert choice.list.options == (("an apple", "apple"), ("a pear", "pear"))
    assert choice.list.description == "a fruit"
    seen = []
    choice.on_change(lambda: seen.append(choice.value))
    choice.value = "apple"
    assert seen == ["apple"]


def test_what_is_no_option_is_refused():
    with pytest.raises(UnknownName, match="apple, pear"):
        ChoiceControl("a fruit", "plum", {"apple": "an apple", "pear": "a pear"})


def test_the_call_that_rebuilds_quotes_words_and_not_numbers(choice):
    explorer = made(choice)
    choice.value = "apple"
    assert "1 of apple" in explorer.words.value
    assert "made(&#x27;fruit&#x27;, fruit=&#x27;apple&#x27;, n=1)" in explorer.words.value


@pytest.mark.parametrize(("largest", "mode", "apart"), [(170_000, "RGB", 0), (0, "P", 48)])
def test_a_kept_picture_is_small_and_a_large_one_has_256_colours(largest, mode, apart, monkeypatch):
    monkeypatch.setattr(choice_module, "_LARGE", largest)
    figure = Figure(figsize=(3, 2))
    figure.subplots().imshow([[row * column for column in range(60)] for row in range(40)], interpolation="bilinear")
    picture = kept(figure, "a slope")
    before, after = (Image.open(io.BytesIO(data)) for data in (png(figure), picture.png))
    assert (after.mode, after.size) == (mode, before.size)
    assert len(picture.png) < 0.9 * len(png(figure))
    differences = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getextrema()
    assert max(high for _, high in differences) <= apart
    assert picture.alt == "a slope"


def test_the_still_is_its_own_picture(choice):
    still = made(choice).still()
    assert still.alt == "three of pear"
    assert still.width == 288
