"""Maximum likelihood for Gaussian mixtures: k-means, then expectation maximisation, from many starts.

In the Gaussian world this one fit plays two parts: it trains the base on draws of the truth, and it *is*
distillation, since fitting the student to samples of the teacher minimises the forward KL.

Every seed and every restart is a row of one tensor, and each row stops by itself: what a seed gets does
not depend on its neighbours. Same steps as scikit-learn's `GaussianMixture(covariance_type="diag")`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignkd_lab.errors import BadInput
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise, moments
from alignkd_lab.mog.settings import DistilSettings, FitSettings

# A component that has lost all its points keeps a share this small, so that its mean stays defined.
_LEAST_MASS = 1e-10
_KMEANS_STEPS = 10


def fit(
    data: Tensor, initial_uniforms: Tensor, settings: FitSettings, kmeans_steps: int = _KMEANS_STEPS
) -> GaussianMixture:
    """The likeliest mixture over the restarts, for each seed.

    Args:
        data: `[seed, point, dimension]`.
        initial_uniforms: `[seed, restart, component]` in [0, 1): the noise behind the k-means++ centres;
            its shape names the numbers of restarts and of components.
        settings: when to stop, and the floor.
        kmeans_steps: Lloyd steps between those centres and the first expectation step.

    Raises:
        BadInput: fewer points than components.
    """
    seeds, restarts, components = initial_uniforms.shape
    if data.shape[-2] < components:
        raise BadInput(
            f"cannot fit {components} components to {data.shape[-2]} points: use at least {components} points"
        )
    rows = data.repeat_interleave(restarts, 0)
    shares = _kmeans(rows, initial_uniforms.flatten(0, 1), kmeans_steps)
    mixture, likelihood = _climb(rows, _maximise(moments(rows), shares, settings.variance_floor), settings)
    best = likelihood.view(seeds, restarts).argmax(-1) + torch.arange(seeds, device=data.device) * restarts
    return mixture.each(lambda t: t[best])


def _climb(rows: Tensor, start: GaussianMixture, settings: FitSettings) -> tuple[GaussianMixture, Tensor]:
    """Expectation and maximisation until each row stops; also each row's mean log-likelihood per point."""
    found = [t.clone() for t in (start.log_weights, start.means, start.log_sds)]
    likelihood = torch.full((len(rows),), -torch.inf, dtype=rows.dtype, device=rows.device)
    active = torch.arange(len(rows), device=rows.device)
    points, features, mixture = rows, moments(rows), start
    for _ in range(settings.em_iterations):
        joint = mixture.joint_log_prob(points)
        log_prob = joint.logsumexp(-2, keepdim=True)
        now = log_prob.mean((-2, -1))
        going = now - likelihood[active] > settings.em_tolerance
        likelihood[active] = now
        mixture = _maximise(features, (joint - log_prob).exp(), settings.variance_floor)
        for kept, new in zip(found, (mixture.log_weights, mixture.means, mixture.log_sds), strict=True):
            kept[active] = new
        if not going.all():
            active, points, features = active[going], points[going], features[going]
            mixture = mixture.each(lambda t, going=going: t[going])
        if len(active) == 0:
            break
    return GaussianMixture(*found), likelihood


def _maximise(features: Tensor, shares: Tensor, variance_floor: float) -> GaussianMixture:
    """The M step: shares `[row, component, point]` of the points to weights, means and sds."""
    mass = shares.sum(-1).clamp_min(_LEAST_MASS)
    first, second = (shares @ features / mass.unsqueeze(-1)).chunk(2, -1)
    variance = (second - first**2).clamp_min(variance_floor)
    return GaussianMixture((mass / mass.sum(-1, keepdim=True)).log(), first, 0.5 * variance.log())


def _kmeans(rows: Tensor, uniforms: Tensor, steps: int) -> Tensor:
    """k-means++ centres, a few Lloyd steps, and the hard shares `[row, component, point]` they end in."""
    centres = _spread_centres(rows, uniforms)
    for _ in range(steps):
        shares = _nearest(rows, centres)
        mass = shares.sum(-1, keepdim=True)
        centres = torch.where(mass > 0, shares @ rows / mass.clamp_min(1), centres)
    return _nearest(rows, centres)


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    # |x - c|^2 without |x|^2, which is the same for every centre.
    distance = (centres**2).sum(-1, keepdim=True) - 2 * centres @ rows.mT
    return (distance == distance.amin(-2, keepdim=True)).to(rows.dtype)


def _spread_centres(rows: Tensor, uniforms: Tensor) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): far points are likelier next centres."""
    everyone = torch.arange(len(rows), device=rows.device)
    distance = torch.ones(rows.shape[:-1], dtype=rows.dtype, device=rows.device)
    centres = []
    for component in range(uniforms.shape[-1]):
        edges = distance.cumsum(-1)
        drawn = torch.searchsorted(edges, uniforms[:, component, None] * edges[:, -1:], right=True)
        centre = rows[everyone, drawn.squeeze(-1).clamp_max(rows.shape[-2] - 1)]
        to_centre = ((rows - centre.unsqueeze(-2)) ** 2).sum(-1)
        distance = to_centre if component == 0 else torch.minimum(distance, to_centre)
        centres.append(centre)
    return torch.stack(centres, -2)


def distil(
    teacher: GaussianMixture,
    components: int,
    noise: SeedNoise,
    settings: DistilSettings,
    kmeans_steps: int = _KMEANS_STEPS,
) -> GaussianMixture:
    """The likeliest student of so many components on `teacher_samples` draws of the teacher, sharpened first."""
    draws = teacher.sharpen(settings.sharpening).draw(noise, "teacher", settings.teacher_samples)
    return fit(draws, noise.uniform("student starts", settings.restarts, components), settings, kmeans_steps)
