"""Charts that their own sliders move: each draws what `theory` says, and its bundle means something everywhere."""

import base64
import importlib
import io
import math
import pkgutil

import altair as alt
import pytest
import torch
from PIL import Image
from scene import Scene, value
from test_explorer_sharpening import few_seeds  # noqa: F401, a fixture

from alignkd_lab import theory
from alignkd_lab.course import explorers
from alignkd_lab.course.explorers import threshold
from alignkd_lab.course.widgets.charts import MIME, SCHEMA, Chart, Menu, Slider
from alignkd_lab.course.widgets.pieces import ONE
from alignkd_lab.errors import BadInput, UnknownName

OWN = {"through_stages", "token_lens", "traps"}  # which are given models or runs, and tested with them
NAMES = {module.name for module in pkgutil.iter_modules(explorers.__path__)} - OWN
MODULES = {name: importlib.import_module(f"{explorers.__name__}.{name}") for name in sorted(NAMES)}
SHOWS = {name: module.show for name, module in MODULES.items() if hasattr(module, "show")}
CHARTS = {name: MODULES[name] for name, show in SHOWS.items() if show.__annotations__["return"] == "Chart"}


def test_a_bundle_holds_the_chart_a_picture_and_words_and_no_html():
    data, metadata = threshold.show()._repr_mimebundle_()
    assert set(data) == {MIME, "image/png", "text/plain"}
    assert data[MIME]["$schema"] == SCHEMA
    assert alt.SCHEMA_VERSION.startswith("v5")  # which JupyterLab draws
    assert data[MIME]["description"] == data["text/plain"] == metadata["image/png"]["alt"]
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert metadata["image/png"]["width"] == pytest.approx(image.width / 1.5, abs=1)


@pytest.mark.parametrize("name", CHARTS)
def test_every_control_has_a_slider_with_its_label_and_can_be_left_out(name):
    module = CHARTS[name]
    controls = module.controls() if hasattr(module, "controls") else module.CONTROLS
    first, *others = controls
    bound = [p for p in module.show(*others).spec["params"] if "bind" in p]
    for other, made in zip(others, bound, strict=True):
        control, bind = controls[other], made["bind"]
        assert bind["name"].startswith(control.label)
        if isinstance(control, Menu):
            assert bind["labels"] == [*control.options.values()]
        else:
            ends = [10**end if control.powers else end for end in (bind["min"], bind["max"])]
            assert ends == pytest.approx([control.low, control.high])
    for refused in (lambda: module.show("mood"), lambda: module.show(mood=1.0)):
        with pytest.raises(UnknownName, match=first):
            refused()
    for name, control in controls.items():
        wrong = [control.high + 1, math.nan, f"{control.low}"] if isinstance(control, Slider) else ["another"]
        if isinstance(control, Slider) and control.step % 1 == 0:  # between two stops a record holds nothing
            wrong.append(control.low + 0.5)
        for state in wrong:
            with pytest.raises((BadInput, UnknownName), match=name):
                module.show(**{name: state})


def test_a_sentence_holds_expressions_numbers_in_their_formats_and_what_is_said_under_a_condition():
    parts = {"who": {"size > 5": "never", "size > 2": "large, {size:.1f}", "": ""}, "none": {"size > 5": "!", "": ""}}
    sentence = "It's {1 + size} and {0.25:share}: {who}{none}."
    chart = Chart([], "title", ONE.mark_point(), words=[sentence], parts=parts, seen="seen", further={"size": "3"})
    assert "It's 4 and 25 %: large, 3.0." in Scene(chart).words


# The threshold


def at(**state):
    return {name: control.value for name, control in threshold.CONTROLS.items()} | state


STATES = [
    {},
    {"reference_mass": 1e-3, "reward": 3.0, "beta": 0.6, "draws": 50.0},
    {"reference_mass": 1e-5, "draws": 1.0},
]


@pytest.mark.parametrize("changes", STATES)
def test_the_threshold_is_drawn_where_theory_has_it(changes):
    state, scene = at(**changes), Scene(threshold.show(**changes))
    mass, reward, beta, draws = state.values()
    (left, right), rules = scene.places("symbol"), scene.places("rule")
    assert value(left[0]["x"], 360, 1e-6, 1, True) == pytest.approx(mass, rel=1e-6)
    optimum = value(300 - left[0]["y"], 300, 0, 1.1)
    assert optimum == pytest.approx(theory.target_mass(mass, reward, beta).item(), abs=1e-5)
    assert value(right[0]["x"], 360, 1, 1e6, True) == pytest.approx(draws)
    assert value(300 - right[0]["y"], 300, 0, 1.1) == pytest.approx(
        theory.chance_of_target(mass, draws).item(), abs=1e-5
    )
    least = value(rules[0][0]["x"], 360, 1e-6, 1, True)
    assert least == pytest.approx(torch.sigmoid(torch.tensor(-reward / beta)).item(), rel=1e-5)
    curve = scene.places("line")[1]
    for point in curve[20:180:40]:
        share = theory.target_mass(value(point["x"], 360, 1e-6, 1, True), reward, beta).item()
        assert value(300 - point["y"], 300, 0, 1.1) == pytest.approx(share, abs=1e-5)
