"""The run panel's fields: which there are, which of them mean something, and what they ask for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipywidgets import Text

from alignkd_lab.cli import parse_setting
from alignkd_lab.course.explorers.runs import Request
from alignkd_lab.course.widgets.choice import ChoiceControl
from alignkd_lab.course.widgets.view import NumberControl, hinted
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.presets import preset

WORLD_NAMES = {"lm": "text: SmolLM2, or tiny random models", "mog": "Gaussians"}
PRESET_NAMES = {
    "tiny": "tiny: does it all work? (random models on text)",
    "laptop": "laptop: the real thing on two cores",
    "gpu": "gpu: more prompts and seeds",
    "paper": "paper: three sizes of SmolLM2, on a GPU",
}
PIPELINE_NAMES = {
    "orders": "both orders",
    "orders,controls": "both orders and the controls",
    "orders,methods": "both orders and the other methods (text, DPO)",
    "orders,controls,methods": "all of them (text, DPO)",
}
ALGORITHM_NAMES = {"": "the world's default (Gaussians: both; text: DPO)", "dpo": "DPO", "rlhf": "RLHF"}
CELL_NAMES = {"all": "every sharpening and KL weight of the preset", "one": "one cell: the two numbers below"}


def controls(request: Request) -> dict[str, Any]:
    """All fields by their name, set to the request's world, preset and folder."""
    default = getattr(preset(request.preset), request.world)
    on_text, on_gaussians = preset("laptop").lm, preset("laptop").mog
    return {
        "world": ChoiceControl("World", request.world, WORLD_NAMES),
        "preset": ChoiceControl("Preset", request.preset, PRESET_NAMES),
        "pipelines": ChoiceControl("Pipelines", "orders", PIPELINE_NAMES),
        "algorithm": ChoiceControl("Alignment", "", ALGORITHM_NAMES),
        "target": ChoiceControl(
            "Target", "", {"": "the preset's", **{name: name.replace("_", " ") for name in TARGETS}}
        ),
        "kd_temperature": NumberControl("KD temperature τ", on_text.kd_temperature, 0.1, 2.0, 0.05),
        "cells": ChoiceControl("Settings", "all", CELL_NAMES),
        "sharpening": NumberControl("Sharpening s", on_gaussians.sharpening, 0.5, 4.0, 0.1),
        "beta": NumberControl("KL weight β", default.beta, 0.01, 10.0, 0.05, logarithmic=True),
        "seeds": _text("Seeds", "", "the preset's, or e.g. 0-2"),
        "settings": _text("Other settings", "", "e.g. align_steps=48 preference_prompts=96"),
        "out": _text("Folder", str(request.out), ""),
    }


def fields(world: str, cells: str) -> list[str]:
    """The controls that mean something, from top to bottom."""
    own = ["target", "kd_temperature", "beta"] if world == "lm" else ["cells"]
    if world == "mog" and cells == "one":
        own += ["sharpening", "beta"]
    return ["world", "preset", "pipelines", "algorithm", *own, "seeds", "settings", "out"]


def numbers(world: str, algorithm: str) -> dict[str, str]:
    """The setting that each number control sets."""
    if world == "mog":
        return {"sharpening": "sharpening", "beta": "beta"}
    return {"kd_temperature": "kd_temperature", "rlhf_beta" if algorithm == "rlhf" else "beta": "beta"}


def request_of(chosen: Mapping[str, Any]) -> Request:
    """What the fields' values ask for. Raises BadInput for other settings that are none."""
    world, algorithm = chosen["world"], chosen["algorithm"]
    settings = dict(map(_setting, chosen["settings"].split()))
    default = getattr(preset(chosen["preset"]), world)
    for name, field in numbers(world, algorithm).items():
        one_cell = world == "mog" and chosen["cells"] == "one"
        changed = world == "lm" and not math.isclose(chosen[field], getattr(default, name))
        if name not in settings and (one_cell or changed):
            settings[name] = chosen[field]
    return Request(
        world=world,
        preset=chosen["preset"],
        pipelines=chosen["pipelines"],
        seeds=chosen["seeds"].strip(),
        algorithm=algorithm,
        target=chosen["target"] if world == "lm" else "",
        settings=settings,
        out=Path(chosen["out"].strip() or ".").expanduser(),
    )


def _setting(text: str) -> tuple[str, Any]:
    try:
        return parse_setting(text)
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"other settings: {error}") from error


def _text(label: str, value: str, placeholder: str) -> Text:
    look = {"style": {"description_width": "17em"}, "layout": {"width": "51em", "max_width": "100%"}}
    return hinted(Text(value, description=label, placeholder=placeholder, continuous_update=False, **look))
