import torch

from alignkd_lab.mog.mixture import SeedNoise


def test_a_seeds_noise_does_not_depend_on_its_neighbours():
    together, alone = SeedNoise((0, 1, 2)), SeedNoise((1,))
    assert torch.equal(together.uniform("pairs", 4)[1], alone.uniform("pairs", 4)[0])
    assert torch.equal(together.normal("pairs", 4, 2)[1], alone.normal("pairs", 4, 2)[0])


def test_seeds_and_purposes_have_noise_of_their_own():
    noise = SeedNoise((0, 1))
    first, other = noise.normal("pairs", 1000), noise.normal("labels", 1000)
    rows = torch.cat([first, other])
    correlations = torch.corrcoef(rows) - torch.eye(4, dtype=torch.float64)
    assert correlations.abs().max() < 0.15


def test_noise_is_the_same_in_every_process():
    # Python's own hash of a string would change this number from run to run.
    assert SeedNoise((7,)).uniform("pairs", 1).item() == 0.26938017495095334


def test_noise_has_its_distribution():
    noise = SeedNoise((0,))
    uniform, normal = noise.uniform("a", 20_000), noise.normal("a", 20_000)
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
