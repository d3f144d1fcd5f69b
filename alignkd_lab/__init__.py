"""Align before you distil? Both orders, on Gaussians and on SmolLM2.

The names below are imported when they are first asked for; nothing heavy is loaded before.
"""

from __future__ import annotations

import importlib

__version__ = "0.3.0"

_PLACES = {
    "CachedTeacher": "lm.teacher_cache",
    "Example": "lm.batch",
    "LiveTeacher": "lm.teachers",
    "cache_teacher": "lm.teacher_cache",
    "evaluate": "evaluation",
    "export": "lm.saved",
    "load": "lm.weights",
    "load_preferences": "lm.preference_data",
    "sample": "lm.sampling",
    "score": "lm.scoring",
    "to_examples": "lm.preference_data",
    "train": "training",
}
_RENAMED = {"losses": ("lm.losses", None), "run": ("experiment", "run_experiment")}
_MODULES = ("claims", "nano", "pipelines", "records", "theory")
__all__ = sorted([*_PLACES, *_RENAMED, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    place, attribute = _RENAMED.get(name) or (_PLACES.get(name), name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{place}")
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
