"""The picture of DPO beyond its pairs: the repaired K-A of notebook 03, aligned by DPO and by RLHF, live.

Both start from the same student, which still shows the target. DPO is told which of two points won, and never
draws from the policy that it makes; RLHF draws from it at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor

from alignkd_lab.course.shipped import recorded_gaussians
from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.mog.align import sample_pairs
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import BAND, DEPTH, INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number, percent

TITLE = "Past the target: where pairs say little, and nobody draws"
_CONTROL = "kd_then_align_high_temperature"
_DRAWS = 4000
_EXTENT = (-5.2, 5.2, -6.6, 3.8)
# Of Tol's muted palette: neither method is a pipeline.
_LOOKS = {"dpo": ("DPO", "#332288", "-"), "rlhf": ("RLHF", "#44AA99", (0, (5, 2)))}


@dataclass(frozen=True)
class Beyond:
    """What the picture shows, of one seed.

    student, aligned: the policy before, and after "dpo" and "rlhf".
    points: `[point, 2]`, all points of the pairs; informative: pairs that hold one target; preferred: the share of
        these in which DPO raised the target against the miss.
    past: the share of "pairs" (their points), and of the draws after "dpo" and "rlhf", that lie past the target.
    reward: mean, of the draws after "dpo" and "rlhf".
    """

    settings: MogSettings
    problem: Problem
    student: GaussianMixture
    aligned: dict[str, GaussianMixture]
    points: np.ndarray
    informative: int
    preferred: float
    past: dict[str, float]
    reward: dict[str, float]


def run(settings: MogSettings | None = None, seed: int = 0) -> Beyond:
    """Distil at the high temperature, then align by either algorithm; about a second for both."""
    settings = settings or MogSettings(beta=0.5, sharpening=2.0)
    distil, align = PIPELINES[_CONTROL]
    aligned = {}
    for algorithm in ("dpo", "rlhf"):
        world = MogWorld(settings, algorithm, (seed,))
        policies = {"base": world.start("base"), "student": world.start("student")}
        student = policies[distil.name] = world.run(distil, policies).policy
        aligned[algorithm] = world.run(align, policies).policy
    problem, noise = world.problem, world.noise
    # The same noise as in the stage, hence the very pairs that DPO was given.
    pairs = sample_pairs(student, problem, noise, count=settings.dpo_pairs, label_noise=settings.dpo_label_noise)
    on_target = [problem.on_target(x)[0] for x in (pairs.chosen, pairs.rejected)]
    moved = [(aligned["dpo"].log_prob(x) - student.log_prob(x))[0] for x in (pairs.chosen, pairs.rejected)]
    towards = torch.where(on_target[0], moved[0] - moved[1], moved[1] - moved[0])[on_target[0] ^ on_target[1]]
    points = torch.cat([pairs.chosen, pairs.rejected], 1)[0]
    draws = {
        name: policy.from_noise(noise.uniform("evaluation", _DRAWS), noise.normal("evaluation", _DRAWS, 2))[0]
        for name, policy in aligned.items()
    }
    return Beyond(
        settings=settings,
        problem=problem,
        student=student,
        aligned=aligned,
        points=points.numpy(),
        informative=len(towards),
        preferred=(towards > 0).double().mean().item(),
        past={name: _past(x, settings) for name, x in {"pairs": points, **draws}.items()},
        reward={name: problem.reward(x).mean().item() for name, x in draws.items()},
    )


def recorded_past(algorithm: str) -> np.ndarray:
    """Of the recorded run, the mass of each seed's policy past the target, exact: `[seed]`."""
    run = recorded_gaussians(algorithm)
    seeds = run.mixtures[run.mixtures["pipeline"] == _CONTROL].groupby("seed")
    return np.array([_mass_past(mixture, MogSettings(**run.settings)) for _, mixture in seeds])


def caption(data: Beyond) -> str:
    """What the picture shows, in words."""
    past, reward = (
        {name: says(value) for name, value in found.items()}
        for found, says in ((data.past, percent), (data.reward, number))
    )
    return (
        f"In {percent(data.preferred)} of the {data.informative} pairs that hold one target, DPO has raised it against "
        f"the miss. But {past['dpo']} of its policy's draws lie past the target, where {past['pairs']} of the pairs' "
        f"points lie; after RLHF {past['rlhf']} do. Reward: DPO {reward['dpo']}, RLHF {reward['rlhf']}."
    )


def show() -> Picture:
    """Run it live, and draw it."""
    data = run()
    return kept(draw(data), caption(data))


def learnt_reward(data: Beyond, name: str, height: np.ndarray) -> np.ndarray:
    """beta log(pi / pi_student) on the vertical line through the target, up to a constant: `[height]`.

    Of the optimum this would be the reward itself. The constant is chosen so that both agree at the target.
    """
    centre = data.problem.centres[0]
    heights = torch.cat([torch.as_tensor(height, dtype=torch.float64), centre[1:]])
    line = torch.stack([centre[0].expand(len(heights)), heights], -1)[None]
    gained = data.settings.beta * (data.aligned[name].log_prob(line) - data.student.log_prob(line))[0]
    return (gained[:-1] - gained[-1]).numpy() + data.settings.reward_height


@themed
def draw(data: Beyond) -> Figure:
    """The student with the pairs, and what DPO and RLHF made of it. Right: the reward that each has learnt."""
    note = f"{DEPTH['live']}: Gaussian world, one seed, β = {data.settings.beta:g}. {plane.MARKS}. {caption(data)}"
    figure, (axes,) = panels(1, 4, (10.0, 4.0), TITLE, note)
    policies = {"the student, its pairs": data.student}
    policies |= {f"after {_LOOKS[name][0]}": policy for name, policy in data.aligned.items()}
    for axis, (name, policy) in zip(axes, policies.items(), strict=False):
        plane.paint(axis, policy, _EXTENT)
        plane.circle(axis, data.problem.centres[0].numpy(), 3 * data.settings.truth_sd)
        axis.set_title(name)
    axes[0].plot(*data.points[::20].T, ".", color=INK, markersize=2.2, markeredgewidth=0, alpha=0.6)
    axes[0].set(xlim=_EXTENT[:2], ylim=_EXTENT[2:])
    _rewards(axes[3], data)
    return figure


def _past(points: Tensor, settings: MogSettings) -> float:
    """The share of points past the target: in its corner of the plane, but farther out than its circle."""
    right, down = _reach(settings)
    inside = (points[:, 0] < right) & (points[:, 1] > down)
    return ((points[:, 0] > 0) & (points[:, 1] < 0) & ~inside).double().mean().item()


def _mass_past(mixture: pd.DataFrame, settings: MogSettings) -> float:
    """The same of a mixture, exact: its mass in the corner, less the part that is no farther out."""
    x, y = norm(mixture["x"], mixture["sd_x"]), norm(mixture["y"], mixture["sd_y"])
    right, down = _reach(settings)
    inside = (x.cdf(right) - x.cdf(0)) * (y.cdf(0) - y.cdf(down))
    return float(mixture["weight"] @ (x.sf(0) * y.cdf(0) - inside))


def _reach(settings: MogSettings) -> tuple[float, float]:
    """How far to the right, and how far down, the target's circle reaches; its corner is the lower right one."""
    (x, y), radius = settings.truth_means[settings.targets[0]], 3 * settings.truth_sd
    return x + radius, y - radius


def _rewards(axis: Axes, data: Beyond) -> None:
    """Up the same axis as the squares: the true reward, and what each policy has learnt of it."""
    height = np.linspace(*_EXTENT[2:], 300)
    line = torch.stack([data.problem.centres[0, 0].expand(len(height)), torch.as_tensor(height)], -1)
    up = data.settings.truth_means[data.settings.targets[0]][1]
    axis.axhspan(up - 3 * data.settings.truth_sd, up + 3 * data.settings.truth_sd, color=BAND, zorder=0)
    axis.plot(data.problem.reward(line).numpy(), height, color=INK, linewidth=3.4, alpha=0.35)
    for name, (_, colour, dashes) in _LOOKS.items():
        axis.plot(learnt_reward(data, name, height), height, color=colour, linewidth=1.8, linestyle=dashes)
    axis.set(xlim=(-3.5, 9.5), ylim=_EXTENT[2:])
    axis.set_yticks([])
    axis.set_xticks([0, 4, 8])
    axis.set_xlabel("reward")
    axis.set_title("reward: true and learnt")
    axis.set_box_aspect(1)
    write(axis, "true", (0.15, 2.6), (0, 0), QUIET, fontweight="bold")
    for name, place in (("dpo", (4.6, -5.4)), ("rlhf", (-3.2, -3.6))):
        label, colour, _ = _LOOKS[name]
        write(axis, label, place, (0, 0), colour, fontweight="bold")
