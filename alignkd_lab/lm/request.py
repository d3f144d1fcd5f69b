"""What a run in the language world asks for, looked at before torch is loaded: what no model is needed to refuse."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.functions import load_function, load_reward
from alignkd_lab.lm.prompts import describe, pin_file, prompts
from alignkd_lab.lm.rewards import TARGETS, model_of, target
from alignkd_lab.lm.settings import BUILT_IN, HEALED, SHIPPED, LmSettings, base_of_student, is_function
from alignkd_lab.lm.tiny import TINY

_SPLITS = {"preference_prompts": "training", "distil_prompts": "training", "test_prompts": "test"}


def check_request(settings: LmSettings) -> LmSettings:
    """The settings, what they name of one's own pinned by a hash: prompts, and functions as target or reward.

    Raises:
        BadInput: an unknown target, a function, file or source of weights that is none, or more prompts than there are.
    """
    settings = pin(settings)
    target(settings.target)
    sources = {name: getattr(settings, name) for name in ("base", "truth", "student")}
    if model := model_of(settings.reward):
        sources["reward"] = model
    for name, source in sources.items():
        if not (name == "student" and HEALED.fullmatch(source)):
            check_source(name, source)
    for name, split in _SPLITS.items():
        asked, most = getattr(settings, name), len(prompts(split, source=settings.prompts))
        if asked > most:
            words = f"{name}: {asked} were asked for, and there are {most} {split} prompts"
            if settings.prompts != SHIPPED:
                sizes = describe(settings.prompts)["splits"]
                parts = ", ".join(f"{size} for {part}" for part, size in sizes.items())
                words += f" of the {sum(sizes.values())} in {settings.prompts} ({parts}); give more, or lower {name}"
            raise BadInput(words)
    return settings


def pin(settings: LmSettings) -> LmSettings:
    """A function's source, and a file of prompts, are part of the settings: another version makes another run."""
    own = {}
    if is_function(settings.target):
        own["target"] = load_function("target", settings.target)[1]
    if is_function(settings.reward):
        own["reward"] = load_reward(settings.reward)[1]
    return replace(settings, prompts=pin_file(settings.prompts), **own)


def check_reward(name: str) -> str:
    """The name of a reward, pinned where it is a function: `module:function`, `model:<source>`, or a rule.

    Raises:
        BadInput: it is none of these.
    """
    if is_function(name := str(name)):
        return load_reward(name)[1]
    if model := model_of(name):
        check_source("reward", model)
    elif name not in TARGETS:
        raise BadInput(
            f"reward: unknown {name!r}; use 'module:function', 'model:<hub id or folder>', or a rule: "
            f"{', '.join(TARGETS)}"
        )
    return name


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


def read_share(heldout: str) -> float | None:
    """The share that is held out; None where a file is named. Raises BadInput for a number that is no share."""
    try:
        share = float(heldout)
    except ValueError:
        return None
    if not 0 <= share < 1:
        raise BadInput(f"heldout: {heldout} must be a share of the prompts, from 0 to below 1, or a file of them")
    return share
