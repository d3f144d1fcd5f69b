"""What the notebooks show and ask, by name: `from alignkd_lab import course`, then `course.threshold.show()`."""

from pathlib import Path

from alignkd_lab import lazy

_EXPLORERS = [path.stem for path in (Path(__file__).parent / "explorers").glob("[a-z]*.py")]

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        "exercises.ask": "answers check given predict solution",
        "playground": "playground",
        "shipped": "recorded recorded_claims recorded_gaussians recorded_lead recorded_smollm2 recorded_verdict",
        "widgets.view": "Picture kept",
        **{f"explorers.{name}": name for name in _EXPLORERS},
    },
)
