"""Live teachers: what they say is what their model says, with and without its adapter."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_lm import assert_near, away_from_zero, said_of

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.teachers import LiveTeacher, log_norm, share_head
from alignkd_lab.lm.trainer import adapter_tensors, merge_adapter, with_lora
from alignkd_lab.lm.vocabulary import check_vocabularies

EXAMPLES = [
    Example([1, 60, 61], [[70, 71, 2], [80, 2]], roles=["chosen", "rejected"]),
    Example([1, 62], [[90, 91, 92, 93, 2], [94, 2], [95]], roles=["chosen", "rejected", "sampled"]),
]


@pytest.fixture(scope="module")
def base(device):
    return weights.load("tiny-base", device=device)[0]


@pytest.fixture(scope="module")
def tuned(base):
    return away_from_zero(with_lora(copy.deepcopy(base), rank=2, seed=1), seed=2).eval()


@pytest.fixture(scope="module")
def merged(base, tuned):
    model = copy.deepcopy(base)
    merge_adapter(model, adapter_tensors(tuned))
    return model


def log_probs(signal):
    return torch.log_softmax(signal.hidden @ signal.head.T, dim=-1)


@torch.no_grad()
def naive(model):
    """One response at a time, through the model's own logits."""
    return said_of(model, EXAMPLES).float()


def test_a_teacher_multiplies_in_the_dtype_that_it_is_given(base):
    exact = LiveTeacher(base).signal(collate(EXAMPLES))
    rounded = LiveTeacher(base, dtype=torch.bfloat16).signal(collate(EXAMPLES))
    assert 1e-4 < (rounded.hidden - exact.hidden).abs().max() < 0.2


def test_the_norm_is_that_of_the_logits_however_many_rows_are_read_at_once(base, monkeypatch):
    hidden = LiveTeacher(base).signal(collate(EXAMPLES)).hidden
    whole = torch.logsumexp(hidden @ base.lm_head.weight.T, dim=-1)
    assert_near(log_norm(hidden, base.lm_head.weight), whole)
    monkeypatch.setattr("alignkd_lab.lm.teachers.HEAD_ROWS", 4)
    assert_near(log_norm(hidden, base.lm_head.weight), whole)
    assert log_norm(hidden[:0], base.lm_head.weight).shape == (0,)


def test_with_and_without_its_adapter_one_model_is_both_teachers(base, tuned, merged):
    batch = collate(EXAMPLES)
    with_adapter, without = LiveTeacher(tuned), LiveTeacher(tuned, without_adapter=True)
    assert_near(log_probs(with_adapter.signal(batch)), log_probs(LiveTeacher(merged).signal(batch)))
    assert_near(without.signal(batch).hidden, LiveTeacher(base).signal(batch).hidden)
    assert (with_adapter.signal(batch).hidden - without.signal(batch).hidden).abs().max() > 0.01
    # Asked again in the other order: the adapter is back, and each response is read as if it were alone.
    assert_near(log_probs(with_adapter.signal(batch)), naive(merged))


def test_heads_are_shared_where_they_are_equal_and_only_there(base, merged, tuned):
    teacher, reference = LiveTeacher(merged), LiveTeacher(base)
    assert teacher.head is not reference.head
    assert share_head(teacher, reference)
    assert teacher.head is reference.head
    without = LiveTeacher(tuned, without_adapter=True)
    assert LiveTeacher(tuned).head is without.head
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.lm_head.weight[3, 4] += 1
    assert not share_head(teacher, LiveTeacher(other))
    assert not share_head(teacher, LiveTeacher(weights.load("tiny-truth")[0]))


def test_only_responses_of_the_given_roles_are_answered_in_their_order(base):
    teacher, batch = LiveTeacher(base), collate(EXAMPLES)
    every = teacher.signal(batch)
    rejected = teacher.signal(batch, roles=("rejected",))
    assert torch.equal(rejected.hidden, every.hidden[[3, 4, 10, 11]])
    assert torch.equal(
        teacher.signal(batch, roles=("sampled", "chosen")).hidden, every.hidden[[0, 1, 2, *range(5, 10), 12]]
    )
    with pytest.raises(UnknownName, match="chosen, rejected, sampled"):
        teacher.signal(batch, roles=("winner",))
    assert teacher.signal(collate(EXAMPLES[:1]), roles=("sampled",)).hidden.shape == (0, 32)
    assert teacher.signal(collate([Example([1, 61], [])])).rows == 0


def test_asking_a_model_in_training_leaves_it_in_training_and_without_a_graph(tuned):
    model = copy.deepcopy(tuned).train()
    for layer in model.get_base_model().model.layers:
        layer.self_attn.attention_dropout = 0.5
    signal = LiveTeacher(model).signal(collate(EXAMPLES))
    assert_near(signal.hidden, LiveTeacher(tuned).signal(collate(EXAMPLES)).hidden)
    assert model.training
    assert not signal.hidden.requires_grad
    assert not signal.head.requires_grad


def test_the_adapter_is_back_after_an_error(tuned):
    before = naive(tuned.get_base_model())
    with pytest.raises(KeyError):
        LiveTeacher(tuned, without_adapter=True).signal({"role": torch.zeros(1), "predict_at": torch.zeros(1)})
    assert_near(naive(tuned.get_base_model()), before)


def test_the_checksum_names_the_weights_that_answer(base, tuned, merged):
    checksum = LiveTeacher(base).checksum()
    assert checksum == LiveTeacher(copy.deepcopy(base)).checksum()
    made = [LiveTeacher(tuned), LiveTeacher(tuned, without_adapter=True), LiveTeacher(merged)]
    assert len({checksum, *(teacher.checksum() for teacher in made)}) == 4
    scaled = copy.deepcopy(tuned)
    scaled.get_base_model().model.layers[0].mlp.up_proj.scaling["default"] *= 2
    assert LiveTeacher(scaled).checksum() != LiveTeacher(tuned).checksum()
    half = copy.deepcopy(base).to(torch.bfloat16)
    assert LiveTeacher(half).checksum() != checksum
    assert LiveTeacher(tuned, digest="abc").checksum() == "abc"
    assert LiveTeacher(tuned, digest="abc", without_adapter=True).checksum() != "abc"


def test_no_adapter_to_leave_out_and_one_on_the_head_itself_are_refused(base):
    with pytest.raises(BadInput, match="PEFT"):
        LiveTeacher(base, without_adapter=True)
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(BadInput, match="lm_head"):
        LiveTeacher(model)


def test_other_vocabularies_are_refused_with_the_ids_that_differ():
    def of(tokens):
        return SimpleNamespace(get_vocab=lambda: {token: index for index, token in enumerate(tokens)})

    for teacher, words in (("abdc", "2 of 4 .* id 2 .* id 3"), ("abcde", "1 of 5"), ("ab", "2 of 4")):
        with pytest.raises(BadInput, match=words):
            check_vocabularies(of("abcd"), reference=of("abcd"), dpo=of(teacher))
