"""Where memory runs out: parts halve, results stay, and the record says so."""

import multiprocessing
import resource

import psutil
import pytest
import torch
from test_pipelines import ToyWorld
from tiny_lm import assert_near, world_in
from transformers import LlamaModel

from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.settings import GkdSettings, RlooSettings
from alignkd_lab.lm.stages.gkd import gkd
from alignkd_lab.lm.stages.rloo import rloo
from alignkd_lab.lm.teacher_cache import cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.trainer import adapter_tensors, train, with_lora
from alignkd_lab.memory import halve, out_of_memory, shortages
from alignkd_lab.pipelines import run_pipelines
from alignkd_lab.store import Store, part

OF_A_CPU = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
PROMPTS = [[1, 40 + at, *range(50, 50 + at)] for at in range(5)]


def tiny():
    return weights.load("tiny-base")[0]


def hold(model, limit):
    """The model on a machine that holds `limit` rows at a time, and the rows of every pass."""
    rows, forward = [], model.model.forward

    def limited(*arguments, **options):
        rows.append(len(options["input_ids"]))
        if rows[-1] > limit:
            raise RuntimeError(OF_A_CPU)
        return forward(*arguments, **options)

    model.model.forward = limited
    return model, rows


def written(model, batch=20):
    return sample(model, PROMPTS, 4, 6, 2, seed=3, batch=batch)


@pytest.mark.parametrize("limit", [4, 3, 1])
def test_sampling_in_smaller_batches_draws_the_same_responses_and_what_fits_is_kept_for_what_follows(limit):
    expected = written(tiny())
    with shortages() as found:
        model, rows = hold(tiny(), limit)
        drawn = written(model, batch=8)
    assert drawn.tokens == expected.tokens
    assert_near(drawn.log_probs, expected.log_probs)
    refused = sum(count > limit for count in rows)
    assert found["sample_batch"] * 2**refused == 8  # of three batches the first alone had to be halved


def test_scoring_in_smaller_batches_gives_the_same_log_probabilities():
    samples = written(tiny())
    expected = score(tiny(), samples)
    for limit in (2, 1):  # rows: a prompt with its responses takes one, unless they are parted
        with shortages() as found:
            scored = score(hold(tiny(), limit)[0], samples)
        assert found["score_batch"] < 20
        assert_near(scored, expected)


def test_a_teacher_is_cached_in_smaller_batches(tmp_path):
    examples = [Example(prompt, [[60 + at, 61, 2]]) for at, prompt in enumerate(PROMPTS)]
    cache_teacher(LiveTeacher(tiny()), examples, tmp_path / "whole", "whole")
    with shortages() as found:
        cache_teacher(LiveTeacher(hold(tiny(), 2)[0]), examples, tmp_path / "parted", "parted")
    assert found == {"teacher_batch": 2}
    for row in examples:
        own, other = (row.signals[name][0]["hidden"] for name in ("parted", "whole"))
        assert_near(own, other)


def run_stage(name, folder):
    sizes = {"distil_prompts": 4, "distil_responses": 3, "distil_batch": 4, "distil_learning_rate": 1e-2}
    world = world_in(folder, **sizes, rlhf_steps=2, rlhf_prompts=3, rlhf_generations=4)
    base, student = world.start("base"), world.start("student")
    if name == "gkd":
        return gkd(world.context, base, student, part(GkdSettings, world.settings), "short")
    return rloo(world.context, world.reward, base, base, part(RlooSettings, world.settings), 1e-2, "short")


@pytest.mark.parametrize(("stage", "limit", "size"), [("gkd", 8, 6), ("gkd", 2, 2), ("rloo", 2, 2), ("rloo", 1, 1)])
def test_an_on_policy_stage_learns_in_smaller_parts_what_it_would_have_learnt(
    stage, limit, size, tmp_path, monkeypatch
):
    expected, forward = run_stage(stage, tmp_path / "whole"), LlamaModel.forward

    def limited(self, input_ids=None, **options):
        if torch.is_grad_enabled() and len(input_ids) > limit:
            raise RuntimeError(OF_A_CPU)
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(LlamaModel, "forward", limited)
    with shortages() as found:
        parted = run_stage(stage, tmp_path / "parted")
    assert found == {"micro_batch": size}
    assert parted.cost == expected.cost
    assert parted.info["learning_rate"] == 1e-2
    for key in {"responses", "informative_groups", "rewards", "kl", "losses"} & set(expected.info):
        assert parted.info[key] == pytest.approx(expected.info[key], rel=1e-4, abs=1e-6)
    for name, tensor in expected.policy.adapters[-1].items():
        torch.testing.assert_close(parted.policy.adapters[-1][name], tensor, rtol=1e-3, atol=1e-5)
    limit = 0
    with pytest.raises(CannotContinue, match="max_tokens"):
        run_stage(stage, tmp_path / "none")


@pytest.mark.parametrize("work", [written, lambda model: score(model, written(tiny()))])
def test_where_not_even_one_response_fits_the_way_out_is_named(work):
    with pytest.raises(CannotContinue, match="max_tokens"):
        work(hold(tiny(), 0)[0])


def test_a_stage_and_an_evaluation_that_ran_short_say_so_in_the_record(tmp_path):
    class World(ToyWorld):
        def run(self, *given):
            short("micro_batch")
            return super().run(*given)

        def evaluate(self, policy):
            short("score_batch")
            return super().evaluate(policy)

    def work(size):
        if size > 2:
            raise MemoryError
        return size

    def short(what):
        assert halve(work, 8, what, "no way out") == (2, 2)

    outcomes, stages = run_pipelines(World(), ["kd_only"], Store(tmp_path))
    (stage,) = stages.values()
    assert stage["info"] == {"note": "kd", "micro_batch": 2}
    assert outcomes["kd_only"].evaluation["halved"] == {"score_batch": 2}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(OF_A_CPU), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    def work(size):
        raise error

    assert out_of_memory(error) is expected
    with pytest.raises(CannotContinue if expected else type(error)):
        halve(work, 4, "micro_batch", "no way out")


# A real lack of memory ----------------------------------------------------------------------------------------


def hungry_step(device="cpu"):
    """A step of eight examples whose loss takes 100 MB for each, and what was halved."""

    def loss(model, batch, items):
        rows = batch["input_ids"].to(device)
        taken = torch.ones(len(rows), 25_000_000, device=device)
        value = model(input_ids=rows).logits.float().logsumexp(-1).sum() / items["tokens"]
        return value + 0 * taken.sum(), ()

    model = with_lora(weights.load("tiny-student", device=device)[0], 4)
    examples = [Example([1, 40 + at], [[60 + at, 61]]) for at in range(8)]
    with shortages() as found:
        train(model, examples, loss, learning_rate=1e-2, steps=1, batch=8, seed=0)
    return adapter_tensors(model), found


def within(bytes_more, answers):
    """In a child: the step, with so much more address space than the process has."""
    torch.set_num_threads(1)
    limit = psutil.Process().memory_info().vms + bytes_more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    adapter, found = hungry_step()
    answers.put((found, {name: tensor.tolist() for name, tensor in adapter.items()}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that holds a GPU cannot fork")
def test_a_process_of_little_memory_halves_its_micro_batch_and_learns_the_same():
    expected, found = hungry_step()
    assert not found
    processes = multiprocessing.get_context("fork")
    answers = processes.Queue()
    child = processes.Process(target=within, args=(550_000_000, answers))
    child.start()
    found, adapter = answers.get(timeout=60)
    child.join()
    assert 1 <= found["micro_batch"] <= 4
    assert_near({name: torch.tensor(values) for name, values in adapter.items()}, expected, 1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_of_little_memory_halves_its_micro_batch_and_learns_the_same():
    expected, found = hungry_step("cuda")
    assert not found
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_allocated() + 550_000_000) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        adapter, found = hungry_step("cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= found["micro_batch"] <= 4
    assert_near(adapter, expected)
