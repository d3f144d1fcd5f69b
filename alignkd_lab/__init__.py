"""Align before you distil? Both orders, on Gaussians and on SmolLM2.

The names below are imported when they are first asked for; nothing heavy is loaded before.
"""

from alignkd_lab import lazy

__version__ = "0.3.0"

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        "evaluation": "evaluate",
        "experiment": "run=run_experiment",
        "lm.batch": "Example",
        "lm.models": "load",
        "lm.preference_data": "load_preferences to_examples",
        "lm.sampling": "sample",
        "lm.saved": "export",
        "lm.scoring": "score",
        "lm.teacher_cache": "CachedTeacher cache_teacher",
        "lm.teachers": "LiveTeacher",
        "training": "train",
    },
    ("claims", "lm.losses", "nano", "pipelines", "records", "theory"),
)
__all__ = __dir__()
