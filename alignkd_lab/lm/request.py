"""What a run in the language world asks for, looked at before torch is loaded: what no model is needed to refuse."""

from __future__ import annotations

import re
from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.rewards import model_of, target
from alignkd_lab.lm.settings import BUILT_IN, HEALED, LmSettings, base_of_student
from alignkd_lab.lm.tiny import TINY

_PROMPTS = {
    "training": ("preference_prompts", "distil_prompts"),
    "test": ("test_prompts",),
}


def check_request(settings: LmSettings) -> None:
    """Raises BadInput for an unknown target, a source of weights that is none, or more prompts than there are."""
    target(settings.target)
    sources = {name: getattr(settings, name) for name in ("base", "truth", "student")}
    if model := model_of(settings.reward):
        sources["reward"] = model
    for name, source in sources.items():
        if not (name == "student" and HEALED.fullmatch(source)):
            check_source(name, source)
    for split, fields in _PROMPTS.items():
        most = len(prompts(split))
        for name in fields:
            if getattr(settings, name) > most:
                raise BadInput(
                    f"{name}: {getattr(settings, name)} were asked for, and there are {most} {split} prompts"
                )


def check_policy(name: str, source: str) -> None:
    """Raises BadInput where the source is neither a healed student (`healed:BASE`) nor of a kind of `lm.weights`."""
    check_source(name, base_of_student(source))


def check_source(name: str, source: str) -> None:
    """Raises BadInput where the source of weights that `name` gives is none of the kinds of `lm.weights`."""
    of_the_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.*)?", source)
    if not (source in (BUILT_IN, *TINY) or of_the_hub or Path(source).is_dir()):
        raise BadInput(
            f"{name}: there is no folder {source!r}, and it is neither {BUILT_IN!r} nor an id of the hub such as "
            "'HuggingFaceTB/SmolLM2-360M-Instruct'; give one of these"
        )
