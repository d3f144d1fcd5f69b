"""The playground's world in JavaScript, held against `mog`, `theory` and the closed form."""

import numpy as np
import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import A_K, K_A, PIPELINES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EXACT = 1e-9
# By scene: the settings and the algorithm.
WORLDS = {
    "rare": (MogSettings(), "rlhf"),
    "bigger": (MogSettings(student_components=4, sharpening=4.0), "rlhf"),
    "leash": (
        MogSettings(student_components=4, sharpening=2.5, beta=1.0, truth_weights=(0.316, 0.316, 0.288, 0.08)),
        "rlhf",
    ),
    "pairs": (MogSettings(sharpening=0.5), "dpo"),
    "nothing": (MogSettings(student_components=4, sharpening=1.0, truth_weights=(0.309, 0.309, 0.282, 0.1)), "rlhf"),
    "flat": (MogSettings(student_components=4, sharpening=0.5), "rlhf"),
    "dpo": (MogSettings(), "dpo"),
    "dear": (with_target_weight(MogSettings(student_components=4, sharpening=1.0, beta=2.0), 0.1), "rlhf"),
}
# The same noise as mog's, handed over to the page.
_PURPOSES = {
    "training draws": (400, 800),
    "base starts": (32, 0),
    "teacher": (1000, 2000),
    "student starts": (24, 0),
    "rlhf": (51200, 102400),
    "pairs": (16000, 32000),
    "labels": (8000, 0),
}
_HELPERS = """
const lab = alignkdPlayground, mixture = ([w, m, s]) => new lab.Mixture(w, m.flat(), s.flat());
const flat = (points) => Float64Array.from(points.flat());
const parts = (m) => [[...m.logWeights], [...m.means], [...m.logSds]];
const given = (noise) => Object.fromEntries(["uniform", "normal"].map((kind) =>
  [kind, function* (purpose, n) { return Float64Array.from(noise[`${purpose}/${kind}`]).slice(0, n); }]));
"""


@pytest.fixture(scope="module")
def run_js(open_page):
    """The value of a function body in JavaScript, which sees its argument as `given_`."""
    page = open_page()

    def run_js(body: str, argument=None):
        return page.evaluate(f"(given_) => {{ {_HELPERS} {body} }}", argument)

    yield run_js
    assert not page.errors


def mixture(seed: int, components: int = 3) -> GaussianMixture:
    """Some mixture, a batch of one."""
    noise = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(1, components, *shape, generator=noise, dtype=torch.float64)  # noqa: E731
    return GaussianMixture(torch.log_softmax(draw(), -1), 1.5 * draw(2), 0.3 * draw(2) - 1)


def points(seed: int, count: int = 40) -> torch.Tensor:
    return 2 * torch.randn(1, count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sent(policy: GaussianMixture) -> list:
    return [part[0].tolist() for part in (policy.log_weights, policy.means, policy.log_sds)]


def world_of(settings: MogSettings, algorithm: str = "rlhf") -> dict:
    """The settings as the page takes them."""
    return {
        "means": settings.truth_means,
        "weights": settings.truth_weights,
        "target": settings.targets[0],
        "height": settings.reward_height,
        "beta": settings.beta,
        "sharpening": settings.sharpening,
        "components": settings.student_components,
        "algorithm": algorithm,
    }


def close(found, expected, tolerance: float = EXACT) -> bool:
    found, expected = (np.concatenate([np.ravel(part) for part in parts]) for parts in (found, expected))
    return found.shape == expected.shape and np.allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5])
def test_reward_metrics_tilt_and_threshold_are_those_of_mog_and_theory(run_js, beta):
    settings = MogSettings(
        beta=beta, truth_means=((-1.2, 1.5), (1.5, 0.9), (-1.5, -1.5), (1.1, -1.9)), reward_height=3.5
    )
    problem, policy, own, true = Problem.of(settings), mixture(4), points(5), points(6)
    metrics = evaluate(policy, problem, own, true)
    grid = problem.grid()
    log_policy, reward = policy.log_prob(grid), problem.reward(grid)
    log_policy = torch.log_softmax(log_policy, -1)
    on = problem.on_target(grid)
    optimum = theory.tilted_optimum(log_policy, reward, beta)
    shares = [theory.target_mass_of(log, on).item() for log in (log_policy, optimum)]
    names = ("reward", "target_rate", "overall_precision", "overall_recall")
    expected = [[metrics[name].item() for name in names], shares, ClosedForm(settings).least_target_weights([beta])]
    found = run_js(
        """const [world, policy, own, truths] = given_, problem = new lab.Problem(world);
        const m = lab.evaluate(mixture(policy), problem, flat(own), flat(truths));
        const { share, best } = problem.onPaper(mixture(policy), world.beta);
        return [[m.reward, m.share, m.precision, m.recall], [share, best], [problem.threshold(world.beta)]];""",
        [world_of(settings), sent(policy), own[0].tolist(), true[0].tolist()],
    )
    assert close(found, expected)


def test_beside_a_bump_that_pays_as_well_the_target_pays_from_nought(run_js):
    worlds = [world_of(MogSettings(truth_means=((-1.5, 1.5), (1.5, 1.5), other, (1.5, -1.5)))) for other in
              ((1.5, -1.2), (1.0, -1.5), (1.5, -1.5))]  # fmt: skip
    found = run_js("return given_.map((world) => new lab.Problem(world).threshold(world.beta));", worlds)
    assert found == [0, 0, 0]


def by_place(policy: list) -> list:
    """The components from left to right: starts that end in the same fit differ in their order and in rounding."""
    weights, means, sds = policy[0], np.reshape(policy[1], (-1, 2)), np.reshape(policy[2], (-1, 2))
    order = np.lexsort(np.round(means, 3).T)
    return [np.array(weights)[order], means[order], sds[order]]


def test_on_mogs_noise_every_stage_ends_in_mogs_policy(run_js):
    settings, noise = MogSettings(), SeedNoise((5,))
    worlds = {algorithm: MogWorld(settings, algorithm, (5,)) for algorithm in ("rlhf", "dpo")}
    start = {name: worlds["rlhf"].start(name) for name in ("base", "student")}
    kd, aligned = PIPELINES[K_A][0], PIPELINES[A_K][0]
    expected = [start["base"], worlds["rlhf"].run(kd, start).policy]
    expected += [world.run(aligned, start).policy for world in worlds.values()]
    handed = {}
    for purpose, (uniforms, normals) in _PURPOSES.items():
        shape = {"rlhf": (200, 256), "base starts": (8, 4), "student starts": (8, 3)}.get(purpose, (uniforms,))
        handed[f"{purpose}/uniform"] = noise.uniform(purpose, *shape)[0].ravel().tolist()
        if normals:
            handed[f"{purpose}/normal"] = noise.normal(purpose, *shape, 2)[0].ravel().tolist()
    found = run_js(
        """const [world, noise, base] = given_, problem = new lab.Problem(world), draws = given(noise);
        const from = mixture(base), last = (name) => [...lab.align(from, problem, draws, name, world.beta)].at(-1);
        const fits = [lab.fitBase(problem, draws), lab.distil(from, 3, world.sharpening, draws)].map(lab.finish);
        return [...fits, last("rlhf"), last("dpo")].map(({ policy }) => parts(policy));""",
        [world_of(settings), handed, sent(start["base"])],
    )
    for ours, mogs in zip(found, expected, strict=True):
        assert close(by_place(ours), by_place(sent(mogs)), 1e-6)


@pytest.mark.parametrize("scene", WORLDS)
def test_the_rewards_of_both_orders_lie_within_the_spread_of_mogs_seeds(run_js, scene):
    settings, algorithm = WORLDS[scene]
    rewards = run_js(
        """const of = (seed) => lab.finish(lab.runBoth({ ...given_, seed }, lab.seededNoise(seed)));
        const runs = [1, 2].map(of), rewards = (order) => runs.map((run) => run[order].metrics.reward);
        return { ka: rewards("ka"), ak: rewards("ak") };""",
        world_of(settings, algorithm),
    )
    world = MogWorld(settings, algorithm, range(100, 140))
    for name, order in (("ka", K_A), ("ak", A_K)):
        policies = {start: world.start(start) for start in ("base", "student")}
        for stage in PIPELINES[order]:
            policies[stage.name] = world.run(stage, policies).policy
        mogs = np.array(world.evaluate(policies[stage.name])["metrics"]["reward"])
        ours = np.array(rewards[name])
        assert abs(ours.mean() - mogs.mean()) < 3.5 * mogs.std(ddof=1) * (1 / 2 + 1 / 40) ** 0.5 + 0.01
        assert (abs(ours - mogs.mean()) < 4 * mogs.std(ddof=1) + 0.02).all()
