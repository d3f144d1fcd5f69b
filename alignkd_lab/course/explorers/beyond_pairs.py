"""The picture of DPO beyond its pairs: the repaired K-A of notebook 03, aligned by DPO and by RLHF, live.

Both start from the same student, which still shows the target. DPO is told which of two points won, and never
draws from the policy that it makes; RLHF draws from it at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignkd_lab.course.widgets.view import Picture, kept
from alignkd_lab.mog.align import sample_pairs
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.plots.drawing import BAND, DEPTH, INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number, percent

TITLE = "Past the target: where pairs say little, and nobody draws"
_DRAWS = 4000
_EXTENT = (-5.2, 5.2, -6.6, 3.8)
# Of Tol's muted palette: neither method is a pipeline.
_LOOKS = {"dpo": ("DPO", "#332288", "-"), "rlhf": ("RLHF", "#44AA99", (0, (5, 2)))}


@dataclass(frozen=True)
class Beyond:
    """What the picture shows, of one seed.

    student, aligned: the policy before, and after "dpo" and "rlhf".
    points: `[point, 2]`: all points of the "pairs", and draws after "dpo" and "rlhf".
    informative: pairs that hold one target; preferred: the share of these in which DPO raised the target against the
        miss.
    """

    settings: MogSettings
    problem: Problem
    student: GaussianMixture
    aligned: dict[str, GaussianMixture]
    points: dict[str, Tensor]
    informative: int
    preferred: float

    def past(self, name: str) -> float:
        """The share of points past the target: in its corner of the plane, but farther out than its circle."""
        x, y = self.points[name].T
        (right, down), radius = self.problem.centres[0], 3 * self.settings.truth_sd
        inside = (x < right + radius) & (y > down - radius)
        return ((x > 0) & (y < 0) & ~inside).double().mean().item()

    def reward(self, name: str) -> float:
        """The mean reward of the draws."""
        return self.problem.reward(self.points[name]).mean().item()


def run() -> Beyond:
    """Distil at the high temperature, then align by either algorithm; about a second for both."""
    settings = MogSettings(beta=0.5, sharpening=2.0)
    distil, align = PIPELINES["kd_then_align_high_temperature"]
    aligned = {}
    for algorithm in _LOOKS:
        world = MogWorld(settings, algorithm, (0,))
        policies = {"base": world.start("base"), "student": world.start("student")}
        student = policies[distil.name] = world.run(distil, policies).policy
        aligned[algorithm] = world.run(align, policies).policy
    problem, noise = world.problem, world.noise
    # The same noise as in the stage, hence the very pairs that DPO was given.
    pairs = sample_pairs(student, problem, noise, settings)
    on_target = [problem.on_target(x)[0] for x in (pairs.chosen, pairs.rejected)]
    moved = [(aligned["dpo"].log_prob(x) - student.log_prob(x))[0] for x in (pairs.chosen, pairs.rejected)]
    towards = torch.where(on_target[0], moved[0] - moved[1], moved[1] - moved[0])[on_target[0] ^ on_target[1]]
    points = {"pairs": torch.cat([pairs.chosen, pairs.rejected], 1)[0]}
    for name, policy in aligned.items():
        draws = noise.uniform("evaluation", _DRAWS), noise.normal("evaluation", _DRAWS, 2)
        points[name] = policy.from_noise(*draws)[0]
    return Beyond(settings, problem, student, aligned, points, len(towards), (towards > 0).double().mean().item())


def caption(data: Beyond) -> str:
    """What the picture shows, in words."""
    past = {name: percent(data.past(name)) for name in data.points}
    return (
        f"In {percent(data.preferred)} of the {data.informative} pairs that hold one target, DPO has raised it against "
        f"the miss. But {past['dpo']} of its policy's draws lie past the target, where {past['pairs']} of the pairs' "
        f"points lie; after RLHF {past['rlhf']} do. Reward: DPO {number(data.reward('dpo'))}, RLHF "
        f"{number(data.reward('rlhf'))}."
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
    """The pairs, and draws of what DPO and RLHF made of the student. Right: the reward that each has learnt."""
    note = f"{DEPTH['live']}: Gaussian world, one seed, β = {data.settings.beta:g}. Circle: the target. {caption(data)}"
    figure, (axes,) = panels(1, 4, (10.0, 4.0), TITLE, note)
    titles = {"pairs": "the student's pairs"} | {name: f"after {_LOOKS[name][0]}" for name in data.aligned}
    (across, up), radius = data.problem.centres[0].tolist(), 3 * data.settings.truth_sd
    turn = np.linspace(0, 2 * np.pi, 100)
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        axis.plot(*data.points[name][:: len(data.points[name]) // 800].T, ".", color=INK, markersize=2.5, alpha=0.5)
        axis.plot(across + radius * np.cos(turn), up + radius * np.sin(turn), color=INK, linewidth=1.2)
        axis.set(title=title, xlim=_EXTENT[:2], ylim=_EXTENT[2:], xticks=[], yticks=[], aspect="equal")
    _rewards(axes[3], data)
    return figure


def _rewards(axis: Axes, data: Beyond) -> None:
    """Up the same axis as the squares: the true reward, and what each policy has learnt of it."""
    height = np.linspace(*_EXTENT[2:], 300)
    across, up = data.problem.centres[0].tolist()
    line = torch.tensor([[across, y] for y in height], dtype=torch.float64)
    axis.axhspan(up - 3 * data.settings.truth_sd, up + 3 * data.settings.truth_sd, color=BAND, zorder=0)
    axis.plot(data.problem.reward(line).numpy(), height, color=INK, linewidth=3.4, alpha=0.35)
    for name, (_, colour, dashes) in _LOOKS.items():
        axis.plot(learnt_reward(data, name, height), height, color=colour, linewidth=1.8, linestyle=dashes)
    axis.set(xlim=(-3.5, 9.5), ylim=_EXTENT[2:], xticks=[0, 4, 8], yticks=[], box_aspect=1)
    axis.set(xlabel="reward", title="reward: true and learnt")
    write(axis, "true", (0.15, 2.6), (0, 0), QUIET, fontweight="bold")
    for name, place in (("dpo", (4.6, -5.4)), ("rlhf", (-3.2, -3.6))):
        label, colour, _ = _LOOKS[name]
        write(axis, label, place, (0, 0), colour, fontweight="bold")
