"""Explorer: "a large reward suffices", seen as density. The tilt moves a curve; the draws come from the reference.

A rare target beside common modes, on a line and in the plane, with the same draws in both: the optimum's
share of the target is one formula in any dimension. Exact but for the draws, whose noise is fixed, so that
a slider shows what it changes and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.stats import norm

from alignkd_lab import theory
from alignkd_lab.course.explorers import threshold
from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.course.widgets.controls import Number, start
from alignkd_lab.course.widgets.view import show_of
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import BAND, INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import percent

CONTROLS = {name: Number(*slider) for name, slider in threshold.CONTROLS.items()}
START = start(CONTROLS)
SOURCE = "Live: exact densities, draws with a fixed noise; nothing is trained."
# On a line: two common modes and the target, five standard deviations or more from the boundary of the reward.
LINE_MEANS, LINE_WEIGHTS, LINE_SD = (-3.0, 0.0, 3.0), (0.6, 0.4), 0.3
LINE_BOUNDARY = 1.5
_PLANE = MogSettings()
_MOST_DRAWS, _SHOWN_DRAWS = 1_000_000, 600
_BOX = (-3.0, 3.0, -3.0, 3.0)  # left, right, bottom, top


@dataclass(frozen=True)
class Densities:
    """What the picture shows.

    state: `reference_mass`, `reward`, `beta`, `draws`.
    optimum: the optimum's share of the target.
    x, reference, best: the line and both densities on it, `[point]`.
    plane: the optimum's density in the plane, `[y, x]` on the square from -3 to 3.
    line_draws `[draw]`, plane_draws `[draw, 2]`, hits `[draw]`: the batch's first draws, as many as are drawn here.
    hit_count: targets in the whole batch.
    first: number of the first draw that shows the target, if one went on; None beyond a million.
    """

    state: dict[str, float]
    optimum: float
    x: np.ndarray
    reference: np.ndarray
    best: np.ndarray
    plane: np.ndarray
    line_draws: np.ndarray
    plane_draws: np.ndarray
    hits: np.ndarray
    hit_count: int
    first: int | None


def compute(state: Mapping[str, float]) -> Densities:
    """Both densities, and the first batch of the reference's draws.

    Raises:
        BadInput: a mass that is no probability, or a beta that is not above 0.
    """
    mass = state["reference_mass"]
    optimum = theory.target_mass(mass, state["reward"], state["beta"]).item()
    uniforms, normals = _noise()
    # Rare ones at the low end: a larger share keeps the targets that a smaller one had.
    targets = uniforms < mass
    count = min(round(state["draws"]), _MOST_DRAWS)
    shown = min(count, _SHOWN_DRAWS)
    x = np.linspace(-4.2, 4.2, 421)
    spread = np.where(targets[:shown], 0.0, (uniforms[:shown] - mass) / (1 - mass))
    return Densities(
        state={name: state[name] for name in START},
        optimum=optimum,
        x=x,
        reference=_on_line(x, mass),
        best=_on_line(x, optimum),
        plane=_in_plane(optimum),
        line_draws=_place(targets[:shown], spread, LINE_WEIGHTS, np.array(LINE_MEANS)[:, None], LINE_SD, normals)[:, 0],
        plane_draws=_place(targets[:shown], spread, *_plane_modes(), _PLANE.truth_sd, normals),
        hits=targets[:shown],
        hit_count=int(targets[:count].sum()),
        first=int(targets.argmax()) + 1 if targets.any() else None,
    )


def caption(data: Densities) -> str:
    """What the picture shows at this state, in words."""
    state = data.state
    seen = "never" if data.first is None else f"at draw {data.first:,}"
    wait = f"Drawing on and on from the reference, this learner would meet its first target {seen}"
    if data.first is None:
        wait += " in a million"
    hits = "no target" if data.hit_count == 0 else f"{data.hit_count:,} on the target"
    return (
        f"Reward {state['reward']:g}, KL weight {state['beta']:g}: the target's share is "
        f"{percent(state['reference_mass'])} in the reference and {percent(data.optimum)} in the best policy, "
        f"in both panels. "
        f"A first batch of {state['draws']:,.0f} draws has {hits}. {wait}."
    )


@themed
def draw(data: Densities, note: str = SOURCE) -> Figure:
    """Left: both densities on a line, and the draws below. Right: the optimum's density in the plane, and the draws."""
    figure, grid = panels(1, 2, (10, 4.6), "The reward tilts the density; the reference makes the draws", note)
    _line_panel(grid[0, 0], data)
    _plane_panel(grid[0, 1], data)
    return figure


show = show_of(CONTROLS, compute, draw, caption, SOURCE, "densities.show")


@functools.cache
def _noise() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(55)
    return generator.random(_MOST_DRAWS), generator.standard_normal((_SHOWN_DRAWS, 2))


def _plane_modes() -> tuple[tuple[float, ...], np.ndarray]:
    """The common modes' weights, which sum to one, and all means, the target's last."""
    common = _PLANE.truth_weights[:3]
    return tuple(weight / sum(common) for weight in common), np.array(_PLANE.truth_means)


def _place(
    targets: np.ndarray, spread: np.ndarray, weights: Sequence[float], means: np.ndarray, sd: float, normals: np.ndarray
) -> np.ndarray:
    """Points `[draw, dimension]`: targets at the last mean, the others at the mode that `spread` in [0, 1) picks."""
    mode = np.where(targets, len(weights), np.searchsorted(np.cumsum(weights)[:-1], spread, side="right"))
    return means[mode] + sd * normals[: len(targets), : means.shape[1]]


def _on_line(x: np.ndarray, share: float) -> np.ndarray:
    weights = [*((1 - share) * weight for weight in LINE_WEIGHTS), share]
    return sum(weight * norm.pdf(x, mean, LINE_SD) for weight, mean in zip(weights, LINE_MEANS, strict=True))


def _in_plane(share: float) -> np.ndarray:
    weights, means = _plane_modes()
    weights = [*((1 - share) * weight for weight in weights), share]
    view = {"weights": weights, "means": means, "sds": np.full(means.shape, _PLANE.truth_sd)}
    return plane.density(plane.mixture_of(view), _BOX, 121)


def _line_panel(axis: Axes, data: Densities) -> None:
    top = 1.45
    axis.set_title("On a line", y=1.02)
    axis.axvspan(LINE_BOUNDARY, data.x[-1], color=BAND, zorder=0)
    write(axis, "target", (LINE_BOUNDARY, top), (6, -4), QUIET, va="top")
    axis.fill_between(data.x, data.reference, color="#C9CED4", linewidth=0, zorder=2)
    axis.plot(data.x, data.best, color=INK, linewidth=1.8, zorder=3)
    middle = LINE_MEANS[1]
    write(axis, "reference", (middle, np.interp(middle, data.x, data.reference)), (0, 5), QUIET, ha="center")
    _label_best(axis, data)
    heights = -0.08 - 0.2 * np.modf(np.arange(len(data.hits)) * 0.618)[0]
    _dots(axis, data.line_draws, heights, data.hits)
    shown = "draws" if len(data.hits) < _SHOWN_DRAWS else f"draws, the first {len(data.hits)}"
    write(axis, shown, (data.x[0], -0.31), (3, -3), QUIET, va="top")
    axis.set(xlim=(data.x[0], data.x[-1]), ylim=(-0.45, top), yticks=[0, 0.5, 1], xticks=LINE_MEANS)
    axis.set_xlabel("$y$")
    axis.set_ylabel("density")
    axis.grid(visible=False)


def _label_best(axis: Axes, data: Densities) -> None:
    """Beside the optimum's highest bump, where there is always room."""
    peak = data.best.argmax()
    right = data.x[peak] > LINE_BOUNDARY
    shift, side = (-22, "right") if right else (22, "left")
    write(axis, "best policy", (data.x[peak], data.best[peak]), (shift, -4), INK, ha=side, va="top")


def _plane_panel(axis: Axes, data: Densities) -> None:
    axis.set_title("In the plane: best policy and draws", y=1.02)
    plane.paint(axis, data.plane, _BOX, PowerNorm(0.5, vmin=0, vmax=1.8))
    centre = _PLANE.truth_means[3]
    plane.circle(axis, centre, 1.05)
    write(axis, "target", (centre[0], centre[1] + 1.1), (0, 2), INK, ha="center")
    _dots(axis, *data.plane_draws.T, data.hits)
    axis.set(xlim=_BOX[:2], ylim=_BOX[2:], xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axis.set_xlabel("$y_1$")
    axis.set_ylabel("$y_2$")
    axis.grid(visible=False)


def _dots(axis: Axes, x: np.ndarray, y: np.ndarray, hits: np.ndarray) -> None:
    """Misses small and grey, hits large and violet."""
    axis.plot(x[~hits], y[~hits], ".", color=INK, alpha=0.45, markersize=3, markeredgewidth=0, zorder=4)
    axis.plot(x[hits], y[hits], "D", color=POINT, markersize=6.5, markeredgecolor="white", zorder=5)
