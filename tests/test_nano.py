"""The two papers in one file (`nano`): right by hand arithmetic, and the same as the fast code of the package."""

import math
import statistics

import pytest
import torch
from naive_losses import assert_close
from test_mog_align import captured_direction

from alignkd_lab import nano
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import ROLES, Example, collate, hidden_states
from alignkd_lab.lm.chunked import token_log_probs
from alignkd_lab.lm.teachers import Full
from alignkd_lab.mog import align, em
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import FitSettings, MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import PIPELINES


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


# Losses


def test_losses_are_their_formulas_by_hand():
    # Two positions, a vocabulary of two: student q, teacher p, reference r.
    q, p, r = ([0.5, 0.5], [0.2, 0.8]), ([0.9, 0.1], [0.3, 0.7]), ([0.6, 0.4], [0.5, 0.5])
    student, teacher, reference = (torch.tensor(each, dtype=torch.float64).log() for each in (q, p, r))
    tokens = torch.tensor([0, 1])
    nll = -(math.log(0.5) + math.log(0.8)) / 2

    def mean_kl(a, b):
        return sum(x * math.log(x / y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)) / 2

    advantage = mean_kl(q, r) - mean_kl(q, p)  # Σ q (log p - log r), the student's entropy cancels
    margin = 0.3 * ((-4.0 - -5.0) - (-6.0 - -4.5))
    found = {
        nano.nll_loss(student, tokens): nll,
        nano.kd_loss(student, teacher, "forward"): mean_kl(p, q),
        nano.kd_loss(student, teacher, "reverse"): mean_kl(q, p),
        nano.dpo_loss(*torch.tensor([[-4.0], [-5.0], [-6.0], [-4.5]]).double(), 0.3): math.log(1 + math.exp(-margin)),
        nano.dckd_loss(student, tokens, student, teacher, reference, 0.2): nll + 0.2 * (mean_kl(p, q) + mean_kl(r, q)),
        nano.adpa_loss(student, tokens, student, teacher, reference, 1.5): nll - 1.5 * advantage,
    }
    for value, expected in found.items():
        assert value.item() == pytest.approx(expected, abs=1e-12)


# Gaussians


def as_packaged(*mixtures: nano.Mixture) -> GaussianMixture:
    """As one batch, a row for each."""
    logits, means, log_sds = (torch.stack(tensors).detach() for tensors in zip(*mixtures, strict=True))
    return GaussianMixture(torch.log_softmax(logits, -1), means, log_sds)


def moved() -> nano.Mixture:
    """A policy away from the truth, so that no term of a gradient vanishes."""
    return nano.Mixture(0.5 * nano.TRUTH.logits, nano.TRUTH.means + 0.1, nano.TRUTH.log_sds + 0.2)


def test_the_problem_the_densities_and_sharpened_weights_are_the_packages():
    settings = MogSettings()
    problem, points = Problem.of(settings), nano.TRUTH.sample(500, noise())
    for found, expected in zip(vars(as_packaged(nano.TRUTH)).values(), vars(problem.truth).values(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(nano.reward(points), problem.reward(points))
    chosen = settings.beta, settings.sharpening, settings.base_components, settings.student_components
    assert chosen == (nano.BETA, nano.SHARPENING, nano.BASE_COMPONENTS, nano.STUDENT_COMPONENTS)
    points = nano.TRUTH.sample(200, noise())
    torch.testing.assert_close(moved().log_prob(points), as_packaged(moved()).log_prob(points[None])[0])
    sharp, expected = as_packaged(nano.sharpen(moved(), 2.5)), as_packaged(moved()).sharpen(2.5)
    torch.testing.assert_close(sharp.log_weights, expected.log_weights)


def test_samples_come_from_their_mixture():
    points = nano.TRUTH.sample(100_000, noise())
    # The mean and the standard deviation of log p over the draws are those of the package's own draws.
    packaged = as_packaged(nano.TRUTH).log_prob(as_packaged(nano.TRUTH).draw(SeedNoise((1,)), "any", 100_000))[0]
    ours = nano.TRUTH.log_prob(points)
    torch.testing.assert_close(ours.mean(), packaged.mean(), atol=0.02, rtol=0)
    torch.testing.assert_close(ours.std(), packaged.std(), atol=0.02, rtol=0)
    torch.testing.assert_close(points.mean(0), nano.TRUTH.logits.exp() @ nano.MEANS, atol=0.02, rtol=0)


@pytest.mark.parametrize("rounds", [1, 5, 40])
def test_em_from_the_same_start_goes_the_packages_way(rounds):
    data, uniforms = moved().sample(300, noise()), torch.rand(1, 1, 3, generator=noise(1), dtype=torch.float64)
    # No iterations leave the package's fit at its start, and a tolerance below 0 never stops it.
    limits = (FitSettings(em_iterations=n, em_tolerance=-1) for n in (0, rounds))
    start, expected = (em.fit(data[None], uniforms, limit) for limit in limits)
    found = nano.Mixture(start.log_weights[0], start.means[0], start.log_sds[0])
    for _ in range(rounds):
        found = nano.maximise(data, found.log_joint(data).softmax(-1))
    for ours, packaged in zip(vars(as_packaged(found)).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(ours, packaged, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("components", "points"), [(4, 400), (3, 1000)], ids=["base", "student"])
def test_a_fit_is_as_likely_as_the_packages(components, points):
    data = nano.TRUTH.sample(points, noise(2))
    uniforms = torch.rand(1, 8, components, generator=noise(3), dtype=torch.float64)
    packaged = em.fit(data[None], uniforms, FitSettings()).log_prob(data[None]).mean()
    ours = nano.fit(data, components, noise(4)).log_prob(data).mean()
    # The package stops a start when a round gains less than 1e-4; nano always makes 100 rounds.
    assert ours.item() == pytest.approx(packaged.item(), abs=2e-3)


def climbed(step, monkeypatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a step of nano from `moved()` adds to the parameters at rate 1, and the points that it looked at."""
    seen, log_prob = [], nano.Mixture.log_prob

    def watch(self, points):
        seen.append(points)
        return log_prob(self, points)

    monkeypatch.setattr(nano.Mixture, "log_prob", watch)
    policy = nano.Mixture(*(tensor.clone().requires_grad_() for tensor in moved()))
    step(policy, nano.TRUTH, torch.optim.SGD(policy, lr=1.0), noise())
    return [(after - before).detach() for after, before in zip(policy, moved(), strict=True)], seen


def packaged_direction(run, monkeypatch) -> list[torch.Tensor]:
    """The gradient that the first step of a run of `mog.align` would climb."""
    start = as_packaged(moved()), as_packaged(nano.TRUTH), Problem.of(MogSettings()), SeedNoise((0,))
    return [gradient[0] for gradient in captured_direction(monkeypatch, lambda: run(*start))]


@pytest.mark.parametrize("name", ["rlhf", "dpo"])
def test_a_step_climbs_the_packages_gradient(name, monkeypatch):
    found, (points, rejected, *_) = climbed(getattr(nano, f"{name}_step"), monkeypatch)
    if name == "rlhf":
        monkeypatch.setattr(GaussianMixture, "from_noise", lambda self, uniforms, normals: points[None])
    size = {f"{name}_steps": 1, f"{name}_batch": len(points), f"{name}_learning_rate": 1.0}
    settings = MogSettings(beta=nano.BETA, **size)

    def run(policy, reference, *rest):
        pairs = [align.Pairs(points[None], rejected[None], torch.zeros(1))] * (name == "dpo")
        getattr(align, name)(policy, reference, *pairs, *rest, settings)

    assert_close(found, packaged_direction(run, monkeypatch), 1e-10)


@pytest.mark.parametrize("algorithm", ["rlhf", "dpo"])
def test_both_orders_end_where_the_package_ends(algorithm):
    step, seeds = {"rlhf": nano.rlhf_step, "dpo": nano.dpo_step}[algorithm], range(4)
    world = MogWorld(MogSettings(), algorithm, seeds)
    bases = [nano.fit(nano.TRUTH.sample(400, noise(seed)), nano.BASE_COMPONENTS, noise(seed)) for seed in seeds]
    rewards = {}
    for name, order in (("kd_then_align", nano.distil_then_align), ("align_then_kd", nano.align_then_distil)):
        policies = {start: world.start(start) for start in ("base", "student")}
        for stage in PIPELINES[name]:
            policies[stage.name] = world.run(stage, policies).policy
        ended = as_packaged(*(order(base, step, noise(seed)) for seed, base in zip(seeds, bases, strict=True)))
        rewards[name] = [world.evaluate(final)["metrics"]["reward"] for final in (ended, policies[stage.name])]
    # Distilled first, the target is lost; what is left of its reward differs by luck alone.
    assert max(map(max, rewards["kd_then_align"])) < 0.3
    ours, packaged = rewards["align_then_kd"]
    standard_error = math.sqrt((statistics.variance(ours) + statistics.variance(packaged)) / len(seeds))
    assert statistics.mean(ours) == pytest.approx(statistics.mean(packaged), abs=4 * standard_error)
    assert min(ours + packaged) > 2.5


# Language models

# Llama's norms compute in float32 whatever the weights are, and a collated batch rounds there in another order.
CLOSE = 1e-6
PROMPTS = ([5, 6, 7], [8, 9, 10, 11, 12])
CHOSEN, OTHERS = ([20, 21, 2], [22, 2]), ([30, 31, 32, 33, 2], [34, 35, 2])


def model_of(name):
    return weights.load(name, dtype=torch.float64)[0]


def batch_of(other_role):
    rows = zip(PROMPTS, CHOSEN, OTHERS, strict=True)
    return collate([Example(prompt, [chosen, other], ["chosen", other_role]) for prompt, chosen, other in rows])


def tensors(lists):
    return [torch.tensor(ids) for ids in lists]


def value_and_gradient(loss, model):
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_dpo_and_adpa_on_a_causal_model_are_the_packages_on_a_collated_batch():
    model, reference, batch = model_of("tiny-base"), model_of("tiny-truth"), batch_of("rejected")
    labels, response = batch["shift_labels"], batch["response"]
    with torch.no_grad():
        scored = token_log_probs(hidden_states(reference, batch), reference.lm_head.weight, labels)
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, response, scored)
    packaged, _ = losses.dpo(hidden_states(model, batch), model.lm_head.weight, labels, response, sums, 0.3)
    ours = nano.dpo_on_text(model, reference, tensors(PROMPTS), tensors(CHOSEN), tensors(OTHERS), 0.3)
    assert_close(value_and_gradient(packaged, model), value_and_gradient(ours, model), CLOSE)
    student, teacher, reference = (model_of(name) for name in ("tiny-base", "tiny-truth", "tiny-student"))
    batch = batch_of("sampled")
    chosen = batch["role"] == ROLES.index("chosen")
    with torch.no_grad():
        read = [Full(hidden_states(model, batch)[~chosen], model.lm_head.weight) for model in (teacher, reference)]
    hidden, head = hidden_states(student, batch), student.lm_head.weight
    packaged, _ = losses.adpa(hidden, head, batch["shift_labels"], *read, chosen, gamma=1.5)
    ours = nano.adpa_on_text(student, teacher, reference, tensors(PROMPTS), tensors(CHOSEN), tensors(OTHERS), 1.5)
    assert_close(value_and_gradient(packaged, student), value_and_gradient(ours, student), CLOSE)
