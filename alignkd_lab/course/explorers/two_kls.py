"""The picture of the two KL divergences: one bump for two, on a line, by closed form or on a grid.

Forward KL(p ‖ q) covers what p shows; reverse KL(q ‖ p) seeks a place where p is high. Distilling by samples is the
forward one: if the student sits on one mode, its teacher did so before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from alignkd_lab.course.explorers.two_temperatures import sharpened
from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.plots.drawing import INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number

WEIGHTS, MEANS, SD = (0.6, 0.4), (-1.5, 1.5), 0.5
SHARPENING = 20.0
LINE = np.linspace(-9, 9, 1801)
_STUDENT = "#9C2A5B"
_FITS = {
    "forward": "Forward KL to the truth: covers",
    "reverse": "Reverse KL to the truth: seeks",
    "sharpened": "Forward KL to a sharpened teacher",
}


@dataclass(frozen=True)
class Bump:
    """A student: one Gaussian on the line, with its precision E_q[log p] and recall E_p[log q] in nats."""

    mean: float
    sd: float
    precision: float
    recall: float


def fits() -> dict[str, Bump]:
    """The best bump by each of three divergences, all scored under the truth."""
    truth, teacher = mixture(np.array(WEIGHTS)), mixture(sharpened(np.array(WEIGHTS), SHARPENING))
    return {
        "forward": _scored(*by_moments(truth)),
        "reverse": _scored(*by_search(truth)),
        "sharpened": _scored(*by_moments(teacher)),
    }


def mixture(weights: np.ndarray) -> np.ndarray:
    """The density of the two modes with these weights, `[point]` on `LINE`."""
    return sum(weight * norm.pdf(LINE, mean, SD) for weight, mean in zip(weights, MEANS, strict=True))


def by_moments(density: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, which minimise the forward KL over Gaussians."""
    mean = _integral(density * LINE)
    return mean, float(np.sqrt(_integral(density * (LINE - mean) ** 2)))


def by_search(density: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation on a grid where the reverse KL is least."""
    log_density = np.log(density)
    choices = [(mean, sd) for mean in np.linspace(-3, 3, 121) for sd in np.linspace(0.2, 2.5, 93)]

    def reverse_kl(choice: tuple[float, float]) -> float:
        # The entropy of a Gaussian grows with log sd.
        return -np.log(choice[1]) - _integral(norm.pdf(LINE, *choice) * log_density)

    return min(choices, key=reverse_kl)


def show() -> Picture:
    """The three fits beside each other."""
    found = fits()
    said = "; ".join(
        f"{words}: precision {number(found[name].precision)}, recall {number(found[name].recall)}"
        for name, words in _FITS.items()
    )
    return kept(_draw(found), f"{said}.")


@themed
def _draw(found: dict[str, Bump]) -> Figure:
    note = (
        "Live: exact on a line. Grey: the truth; line: the student; dashed: the teacher, its weights sharpened with "
        f"s = {SHARPENING:g}. Scores: with the truth, in nats."
    )
    figure, grid = panels(1, 3, (10, 3.4), "One bump for two: which divergence puts it where?", note, share=True)
    truth, teacher = mixture(np.array(WEIGHTS)), mixture(sharpened(np.array(WEIGHTS), SHARPENING))
    for axis, (name, words) in zip(grid[0], _FITS.items(), strict=True):
        student = found[name]
        axis.set_title(words, fontsize=9.5)
        axis.fill_between(LINE, truth, color="#C9CED4", linewidth=0)
        axis.plot(LINE, norm.pdf(LINE, student.mean, student.sd), color=_STUDENT, linewidth=2.6)
        if name == "sharpened":
            axis.plot(LINE, teacher, color=INK, linewidth=1.3, linestyle=(0, (4, 3)))
        scores = f"precision {number(student.precision)}\nrecall {number(student.recall)}"
        write(axis, scores, (4.1, 0.95), (0, 0), QUIET, ha="right", va="top")
        axis.set(xlim=(-4.2, 4.2), ylim=(0, 1), xlabel="$y$", xticks=[-3, 0, 3], yticks=[0, 0.5, 1])
    grid[0, 0].set_ylabel("density")
    return figure


def _scored(mean: float, sd: float) -> Bump:
    truth, log_student = mixture(np.array(WEIGHTS)), norm.logpdf(LINE, mean, sd)
    return Bump(mean, sd, _integral(np.exp(log_student) * np.log(truth)), _integral(truth * log_student))


def _integral(values: np.ndarray) -> float:
    return float(np.trapezoid(values, LINE))
