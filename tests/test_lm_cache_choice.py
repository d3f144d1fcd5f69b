"""What a cache keeps: its size on disk, and its error against a float64 oracle."""

import copy

import pytest
import torch
from tiny_lm import smollm2

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.cache_choice import Choice, cache_table, kept_rows
from alignkd_lab.lm.teacher_cache import cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher, share_head

EXAMPLES = [
    Example([1, 60, 61], [[70, 71, 2], [80, 2], [81, 82, 2]]),
    Example([1, 62], []),
    Example([1, 63], [list(range(90, 190)), [94, 2]]),
]
CHOICES = (Choice(), Choice(dtype="bfloat16"), Choice("topk", k=5), Choice("topk", k=50), Choice("topk", k=259))


def nudged(model, size):
    """A copy whose blocks differ a little, under the same head: what a DPO step leaves."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.mlp.up_proj.weight
            weight += size * torch.randn(weight.shape, generator=generator).to(weight.device)
    return model


@pytest.fixture(scope="module")
def teachers(device):
    base = weights.load("tiny-base", device=device)[0]
    dpo, reference = LiveTeacher(nudged(base, 0.1)), LiveTeacher(base)
    assert share_head(dpo, reference)
    return dpo, reference, LiveTeacher(weights.load("tiny-student", device=device)[0])


@pytest.fixture(scope="module")
def table(teachers):
    dpo, reference, student = teachers
    made = cache_table(dpo, reference, EXAMPLES, student=student, choices=CHOICES, progress=lambda count: None)
    return made.set_index("choice")


def in_float64(teacher, dtype=torch.float32):
    """log pi of every token, through hidden states kept in `dtype`."""
    rows = [row for row in EXAMPLES if row.responses]
    with torch.no_grad():
        states = torch.cat([hidden_states(teacher.model, collate([row])) for row in rows])
    return torch.log_softmax(states.to(dtype).double() @ teacher.head.double().T, dim=-1)


def rms(errors):
    return float(errors.square().mean().sqrt())


def with_a_tail(log_probs, ids, student):
    """k tokens as they are; the rest of the mass spread as the student spreads its own."""
    kept = torch.zeros_like(log_probs, dtype=torch.bool).scatter(1, ids, True)
    mass = log_probs.exp().masked_fill(kept, 0).sum(1, keepdim=True)
    spread = student.exp().masked_fill(kept, 0)
    return torch.where(kept, log_probs, (mass * spread / spread.sum(1, keepdim=True)).log())


def naive_errors(teachers, choice):
    dpo, reference, student = (in_float64(teacher) for teacher in teachers)
    if choice.kind == "hidden":
        found, anchor = (in_float64(teacher, getattr(torch, choice.dtype)) for teacher in teachers[:2])
    else:
        ids = student.topk(choice.k).indices
        found, anchor = (with_a_tail(log_probs, ids, student) for log_probs in (dpo, reference))
    of_a = (found - anchor) - (dpo - reference)
    return {"log_prob": found - dpo, "advantage": of_a, "expected_advantage": (student.exp() * of_a).sum(1)}


@pytest.mark.parametrize("choice", CHOICES[1:4], ids=lambda choice: choice.label)
def test_the_errors_are_those_of_a_naive_calculation(table, teachers, choice):
    for what, errors in naive_errors(teachers, choice).items():
        assert table.loc[choice.label, f"{what}_rms"] == pytest.approx(rms(errors), rel=0.01)
        assert table.loc[choice.label, f"{what}_max"] == pytest.approx(float(errors.abs().max()), rel=0.02)


@pytest.mark.parametrize("label", ["float32 hidden states", "top 259 and tail"])
def test_what_leaves_nothing_out_is_exact_to_rounding(table, label):
    errors = table.loc[label].drop(["bytes_per_token", "gigabytes"]).astype(float)
    assert (errors > 0).all()
    assert (errors < 2e-5).all()


def test_more_tokens_leave_less_error(table):
    few, many = table.loc["top 5 and tail"], table.loc["top 50 and tail"]
    assert many["expected_advantage_rms"] < few["expected_advantage_rms"]
    assert many["advantage_rms"] < few["advantage_rms"]


def test_the_table_says_how_large_the_measured_things_are(table, teachers):
    dpo, reference, student = (in_float64(teacher) for teacher in teachers)
    assert table.attrs["tokens"] == 110
    assert table.attrs["advantage"] == pytest.approx(rms(dpo - reference), rel=1e-4)
    expected = (student.exp() * (dpo - reference)).sum(1)
    assert table.attrs["expected_advantage"] == pytest.approx(rms(expected), rel=1e-4)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.label)
def test_the_stated_size_is_the_size_on_disk(table, teachers, choice, tmp_path):
    cache_teacher(teachers[0], EXAMPLES, tmp_path / "cache", choice, progress=lambda count: None)
    header = 8 + int.from_bytes((tmp_path / "cache" / "rows-00000.safetensors").read_bytes()[:8], "little")
    size = (tmp_path / "cache" / "rows-00000.safetensors").stat().st_size - header
    assert table.loc[choice.label, "bytes_per_token"] * 110 == size
    assert table.loc[choice.label, "gigabytes"] == pytest.approx(size / 110 * 10_000 * 512 / 1e9)


def test_the_tail_is_right_where_it_is_too_small_for_a_difference():
    head = torch.zeros(20, 1)
    head[0] = 30.0
    kept = kept_rows(torch.ones(1, 1), head, Choice("topk", k=1))
    assert kept["log_tail"].item() == pytest.approx(torch.tensor(19.0).log().item() - 30, abs=1e-5)
    assert kept_rows(torch.ones(1, 1), head, Choice("topk", k=20))["log_tail"].item() == -torch.inf


def test_without_a_student_the_reference_is_the_policy(teachers):
    dpo, reference, _ = teachers
    alone = cache_table(dpo, reference, EXAMPLES, choices=CHOICES[:1], progress=lambda count: None)
    log_ref = in_float64(reference)
    expected = (log_ref.exp() * (in_float64(dpo) - log_ref)).sum(1)
    assert alone.attrs["expected_advantage"] == pytest.approx(rms(expected), rel=1e-4)


def test_nothing_to_measure_on_is_refused(teachers):
    dpo, reference, _ = teachers
    with pytest.raises(BadInput, match="hold no response"):
        cache_table(dpo, reference, [Example([1, 2], [])])
    with pytest.raises(BadInput, match="top 500 of a vocabulary of 259"):
        cache_table(dpo, reference, EXAMPLES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "logits"}, "Accepted: hidden, topk"),
        ({"dtype": "float16"}, "Accepted: float32, bfloat16"),
        ({"k": 50}, "use kind 'topk'"),
        ({"kind": "topk"}, "1 or more tokens in float32, not None"),
        ({"kind": "topk", "k": 0}, "not 0 in float32"),
        ({"kind": "topk", "k": 5, "dtype": "bfloat16"}, "not 5 in bfloat16"),
    ],
)
def test_choices_that_cannot_be_are_refused(options, words):
    with pytest.raises(BadInput, match=words):
        Choice(**options)


@pytest.mark.weights
def test_on_smollm2_bfloat16_errs_by_hundredths_of_a_nat():
    model, tokenizer = smollm2()
    text = tokenizer.encode("The kettle is red, and the garden is green after the rain.")
    dpo, reference = LiveTeacher(nudged(model, 0.002)), LiveTeacher(model)
    share_head(dpo, reference)
    choices = (Choice(), Choice(dtype="bfloat16"))
    exact, half = cache_table(
        dpo, reference, [Example(text[:3], [text[3:]])], choices=choices, progress=lambda count: None
    ).to_dict("records")
    assert exact["advantage_max"] < 1e-3
    assert 0.005 < half["log_prob_rms"] < 0.05
    assert half["log_prob_rms"] < half["advantage_rms"] < 0.08
    assert half["bytes_per_token"] == 576 * 2 + 4
