"""Distillation in the Gaussian world: sample the sharpened teacher, fit the student to that (KD-MWE)."""

from __future__ import annotations

from alignkd_lab.mog.em import EmSettings, fit
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.noise import SeedNoise


def distil(
    teacher: GaussianMixture,
    components: int,
    noise: SeedNoise,
    *,
    sharpening: float,
    samples: int,
    em: EmSettings,
) -> GaussianMixture:
    """The likeliest student of so many components on `samples` draws of the teacher, sharpened first."""
    draws = teacher.sharpen(sharpening).from_noise(
        noise.uniform("teacher", samples), noise.normal("teacher", samples, teacher.means.shape[-1])
    )
    return fit(draws, noise.uniform("student starts", em.restarts, components), em)
