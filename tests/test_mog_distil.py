import torch

from alignkd_lab.mog.em import EmSettings, distil
from alignkd_lab.mog.mixture import SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings

NOISE = SeedNoise((0, 1, 2))
TRUTH = Problem.of(MogSettings()).truth.expand(3)


def student(components, sharpening, samples=2000):
    return distil(TRUTH, components, NOISE, sharpening=sharpening, samples=samples, em=EmSettings())


def kl(first, second):
    points = Problem.of(MogSettings()).grid()
    log_first, log_second = (torch.log_softmax(m.log_prob(points), -1) for m in (first, second))
    return (log_first.exp() * (log_first - log_second)).sum(-1)


def test_a_student_as_large_as_its_teacher_learns_the_sharpened_teacher():
    sharp = TRUTH.sharpen(1.5)
    found = student(4, 1.5)
    assert (kl(sharp, found) < 0.01).all()
    assert (kl(TRUTH, found) > 2 * kl(sharp, found)).all()


def test_a_small_student_covers_more_of_the_rare_mode_the_flatter_its_teacher():
    rare = TRUTH.means[:, 3:]
    assert student(3, 1.0).means.shape == (3, 3, 2)
    densities = [student(3, s).log_prob(rare)[:, 0] for s in (0.5, 1.0, 2.0)]
    assert (densities[0] > densities[1]).all()
    assert (densities[1] > densities[2]).all()
