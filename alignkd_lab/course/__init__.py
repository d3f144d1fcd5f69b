"""What the notebooks show and ask, by name: `from alignkd_lab import course`, then `course.threshold.show()`."""

from pathlib import Path

from alignkd_lab import lazy

_EXPLORERS = [f"explorers.{path.stem}" for path in (Path(__file__).parent / "explorers").glob("[a-z]*.py")]

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        "exercises.ask": "answers check given predict solution task",
        "exercises.ch01": "tilt",
        "exercises.rescue": "rescue",
        "lens.quick_dpo": "CAPITALS PAIRS",
        "lens.readings": "token_in_words=in_words",
        "lens.texts": "look",
        "lens.trl_dpo": "trl_dpo",
        "shipped": "measured_influence out_folder recipe recorded recorded_gaussians recorded_smollm2",
        "toy.walk": "walk",
        "widgets.view": "Picture kept",
    },
    ("lens.reading_tables", "playground", "toy", *_EXPLORERS),
)
