"""How the report's answers put a figure or a difference into words."""

from __future__ import annotations

from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import interval, pipeline_style
from alignkd_lab.stats import Interval


def with_doubt(doubt: str, told: str) -> str:
    """A sentence behind the reason, if there is one, why nothing may be concluded from it."""
    return f"{doubt}. As figures: {told}" if doubt else told


def on_gaussians(algorithm: str) -> str:
    """Where a sentence on the Gaussians comes from."""
    return f"Gaussians, {algorithm.upper()}"


def short(name: str) -> str:
    """A pipeline in a sentence."""
    return {K_A: "K-A", A_K: "A-K"}.get(name, pipeline_style(name).label)


def span(found: Interval | None) -> str:
    """A mean with its interval; a dash where there is none."""
    return interval(*found) if found else "–"


def more_or_less(gap: Interval) -> str:
    """A difference in words: more or less only where the interval leaves out zero."""
    if gap.low > 0:
        return f"{interval(*gap)} more than"
    if gap.high < 0:
        return f"{interval(-gap.estimate, -gap.high, -gap.low)} less than"
    return f"not told apart ({interval(*gap)}) from"


def points(gap: Interval | None) -> str:
    """A difference of rates in points of per cent."""
    return f"{interval(*(100 * value for value in gap))} points" if gap else "–"
