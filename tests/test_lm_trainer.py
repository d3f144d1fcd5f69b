"""The one trainer: it learns, it repeats itself, and a step is the same in whatever parts it is taken."""

from dataclasses import replace
from functools import cached_property, partial
from unittest.mock import Mock

import pytest
import torch
from tiny_lm import assert_near

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import losses, trainer, training_losses, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states, plain
from alignkd_lab.lm.trainer import adapter_tensors, train, with_lora

EXAMPLES = [Example([1, 40 + at, 41], [[60 + at, 61, 2], [70, 71 + at, 72, 2]]) for at in range(6)]


def loss(model, batch, items):
    return losses.nll(
        hidden_states(model, batch), plain(model).lm_head.weight, batch["shift_labels"], items=items["tokens"]
    )


def tiny():
    return weights.load("tiny-student")[0]


def run(model, seed=0, steps=8, loss=loss, examples=EXAMPLES, **options):
    return train(model, examples, loss, learning_rate=1e-2, steps=steps, batch=2, seed=seed, **options)


def logits(model):
    with torch.inference_mode():
        return plain(model).lm_head(hidden_states(model.eval(), collate(EXAMPLES)))


def test_training_lowers_the_loss_trains_the_adapter_alone_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, told = tiny(), []
    before, expected = {name: value.clone() for name, value in model.state_dict().items()}, logits(model)
    wrapped = with_lora(model, 4)
    assert_near(logits(wrapped), expected, 0)  # a fresh adapter changes nothing
    infos = run(wrapped, steps=20, on_step=told.append)
    values = [value for value, _ in infos]
    assert told == list(range(1, 21))
    assert len(values) == 20
    assert sum(values[-3:]) < 0.9 * sum(values[:3])
    assert infos[0][1].log_probs.ndim == 1
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not list(tmp_path.iterdir())


def test_the_adapters_start_and_what_is_learnt_depend_on_the_seeds_alone():
    torch.manual_seed(1)
    first = with_lora(tiny(), 4, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, third, other = (with_lora(tiny(), 4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_adapters(second, first)
    assert not same_adapters(other, first)
    for wrapped, seed in ((first, 1), (second, 1), (third, 2)):
        run(wrapped, seed)
        torch.rand(17)
    assert same_adapters(second, first)
    assert not same_adapters(third, first)


def same_adapters(one, other):
    one, other = adapter_tensors(one), adapter_tensors(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_meets_the_examples_in_the_same_order():
    def order(seed):
        spy = Mock(wraps=loss)
        run(with_lora(tiny(), 2), seed, loss=spy)
        return [tuple(call.args[1]["shift_labels"].tolist()) for call in spy.call_args_list]

    assert order(1) == order(1) != order(2)
    assert len(set(order(1)[:3])) == 3  # one pass of six examples, two a step


def test_in_bfloat16_the_weights_stay_in_float32_and_the_loss_still_falls():
    model = with_lora(tiny(), 4)
    seen = []

    def spy(model, batch, items):
        seen.append(torch.is_autocast_enabled("cpu"))
        return loss(model, batch, items)

    values = [value for value, _ in run(model, steps=20, loss=spy, dtype=torch.bfloat16)]
    assert all(seen)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


# Micro-batches ----------------------------------------------------------------------------------------

UNEVEN = [Example([1, 40 + at, 41], [[60 + at] * (1 + 2 * at) + [2], [70, 2]]) for at in range(8)]


def step_of_eight(micro_batch, loss=loss, **options):
    """A step, or some, of eight uneven examples."""
    model, usual = with_lora(tiny(), 4), {"learning_rate": 1e-2, "steps": 1, "batch": 8, "seed": 0}
    infos = train(model, UNEVEN, loss, micro_batch=micro_batch, **{**usual, **options})
    return adapter_tensors(model), infos


def gradients(micro_batch, **options):
    """The gradient of that step, caught before clipping."""
    caught = {}

    class Catching(trainer.LossTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            value = super().training_step(model, inputs, num_items_in_batch)
            caught.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "LossTrainer", Catching)
        step_of_eight(micro_batch, **options)
    return caught


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
def test_the_gradient_does_not_depend_on_how_a_step_is_split_or_whether_activations_are_kept(micro_batch):
    whole, split = gradients(8), gradients(micro_batch, gradient_checkpointing=micro_batch == 4)
    assert max(float(grad.abs().max()) for grad in whole.values()) > 1e-3
    assert_near(split, whole, 1e-6)


def test_the_diagnostics_of_a_split_step_are_those_of_the_whole():
    (_, [(value, info)]), (_, [(_, whole)]) = step_of_eight(3), step_of_eight(8)
    assert value == pytest.approx(-float(info.log_probs.mean()), abs=1e-6)
    assert_near(info.log_probs, whole.log_probs)
    pairs = [Example(row.prompt, row.responses, ["chosen", "rejected"]) for row in UNEVEN[:7]]
    for at, pair in enumerate(pairs):
        pair.reference_log_probs = [-25.0 - 9 * (at % 3), -22.0]
    found = [
        train(with_lora(tiny(), 4), pairs, partial(training_losses.dpo, beta=0.1), learning_rate=1e-2, steps=1, batch=7,
              seed=0, micro_batch=size)[0][1].accuracy for size in (7, 3, 4)
    ]  # fmt: skip
    assert 0 < float(found[0].mean()) < 1
    assert all(float(split.mean()) == float(found[0].mean()) for split in found)


def test_a_machine_with_several_gpus_trains_as_one_with_one(monkeypatch):
    found = vars(trainer.TrainingArguments)["_setup_devices"].func

    def two(arguments):
        device, arguments._n_gpu = found(arguments), 2
        return device

    devices = cached_property(two)
    devices.__set_name__(trainer.TrainingArguments, "_setup_devices")
    monkeypatch.setattr(trainer.TrainingArguments, "_setup_devices", devices)
    assert len(run(with_lora(tiny(), 4), steps=1)) == 1


@pytest.mark.parametrize(
    ("method", "roles", "words"),
    [
        (training_losses.dpo, [], "roles: this loss reads responses that are chosen or rejected"),
        (training_losses.dpo, ["rejected", "chosen"], "roles: DPO reads the responses of an example in turn"),
        (training_losses.dpo, ["chosen", "rejected"], "reference_log_probs: an example has none"),
        (training_losses.dckd, [], "roles: this loss reads"),
        (training_losses.adpa, ["chosen", "rejected"], "roles: this loss reads responses that are chosen or sampled"),
    ],
)
def test_examples_that_lack_what_their_loss_reads_are_refused_by_name(method, roles, words):
    given = dict.fromkeys({"dckd": ["teacher"], "adpa": ["teacher", "reference"]}.get(method.__name__, ()))
    with pytest.raises(BadInput, match=words):
        run(
            with_lora(tiny(), 4),
            loss=partial(method, **given),
            examples=[replace(row, roles=roles) for row in EXAMPLES],
        )


def test_prompts_that_do_not_fill_a_step_are_refused():
    step = {"learning_rate": 1e-2, "steps": 1, "batch": 8, "seed": 0}
    with pytest.raises(BadInput, match="batch: 8 prompts a step are asked for, and there are 2"):
        train(with_lora(tiny(), 4), [Example([1, 5], [])] * 2, loss, write=lambda *_: UNEVEN, **step)


OF_A_CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@pytest.mark.parametrize(
    ("micro_batch", "error", "short", "expected"),
    [
        (8, RuntimeError(OF_A_CPU), lambda tried: tried[-1] > 2, [8, 4, 2, 2, 2, 2]),
        (4, torch.OutOfMemoryError("CUDA out of memory"), lambda tried: tried == [4, 4], [4, 4, 2, 2, 2, 2]),
    ],
    ids=["at once", "after a part that has left its gradient"],
)
def test_where_memory_runs_out_the_micro_batch_halves_for_good_and_the_effective_batch_stays(
    micro_batch, error, short, expected
):
    tried = []

    def limited(model, batch, items):
        tried.append(len(batch["input_ids"]))
        if short(tried):
            raise error
        return loss(model, batch, items)

    found, told = step_of_eight(micro_batch, limited, steps=2)
    whole, expected_told = step_of_eight(8, steps=2)
    assert tried == [*expected, 2, 2, 2, 2]
    assert_near(found, whole, 1e-6)
    assert [value for value, _ in told] == pytest.approx([value for value, _ in expected_told], abs=1e-6)
