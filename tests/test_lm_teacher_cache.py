"""Cached teachers: the same signals as live ones, from folders that are found by what they depend on, or made anew."""

import psutil
import pytest
import torch
from tiny_lm import assert_near
from transformers import LlamaConfig, LlamaForCausalLM

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.teacher_cache import cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher


def examples():
    return [
        Example([1, 60, 61], [[70, 71, 2], [80, 2], [81, 82, 2]], roles=["chosen", "rejected", "sampled"]),
        Example([1, 62], []),
        Example([1, 63], [[90, 91, 92, 93, 2], [94, 2]], roles=["chosen", "rejected"]),
        Example([1, 64, 65, 66, 67], [[95], [96, 97, 98, 2]], roles=["sampled", "sampled"]),
    ]


@pytest.fixture(scope="module")
def truth(device):
    return LiveTeacher(weights.load("tiny-truth", device=device)[0])


@pytest.fixture(scope="module")
def base(device):
    return LiveTeacher(weights.load("tiny-base", device=device)[0])


def cached(teacher, folder, rows=None, **options):
    """The cached teacher, and the examples that it was given to."""
    rows = rows or examples()
    return cache_teacher(teacher, rows, folder, quiet=True, **options), rows


def tokens_in(folder):
    width = 4 * 49  # of the truth's states and norm
    return sum(path.stat().st_size for path in folder.rglob("rows.f32")) // width


def test_only_the_asked_roles_are_read(truth, tmp_path):
    cache, rows = cached(truth, tmp_path, roles=("sampled",))
    assert tokens_in(tmp_path) == 8
    assert [bool(views) for row in rows for views in row.signals["teacher"]] == [
        role == "sampled" for row in rows for role in row.roles
    ]
    batch = collate(rows)
    assert_near(cache.signal(batch).hidden, truth.signal(batch, roles=("sampled",)).hidden)
    assert_near(cache.signal(batch, roles=("sampled",)).hidden, truth.signal(batch, roles=("sampled",)).hidden)
    with pytest.raises(BadInput, match=r"has read \('sampled',\)"):
        cache.signal(batch, roles=("chosen",))
    with pytest.raises(BadInput, match="no signals of 'teacher' for these roles; cache it before collate"):
        cache.signal(collate(examples()))


def test_batches_and_caches_without_responses_have_no_rows(truth, tmp_path):
    cache, rows = cached(truth, tmp_path, rows=examples()[1:3], roles=("sampled",))
    assert cache.signal(collate(rows)).rows == 0
    nothing, rows = cached(truth, tmp_path, rows=[Example([1, 2], [])])
    assert rows[0].signals == {"teacher": []}
    assert nothing.signal(collate(rows)).rows == 0
    assert tokens_in(tmp_path) == 0


def forbid(monkeypatch, model):
    def run(*_, **__):
        raise AssertionError("the teacher was run")

    monkeypatch.setattr(model.model, "forward", run)


def test_what_was_kept_is_picked_up_without_running_the_teacher_whatever_torchs_default_dtype(
    truth, tmp_path, monkeypatch
):
    first, rows = cached(truth, tmp_path)
    before = first.signal(collate(rows)).hidden.clone()
    forbid(monkeypatch, truth.model)
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            again, rows = cached(truth, tmp_path, rows=examples()[::-1])
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(again.signal(collate(rows[::-1])).hidden, before)  # by the tokens, not by the place
    with pytest.raises(AssertionError, match="was run"):
        cached(truth, tmp_path / "another")


def test_the_same_words_twice_are_kept_once(truth, tmp_path):
    twice = [Example([1, 60], [[70, 2], [70, 2]]), Example([1, 60], [[70, 2]])]
    cache, _ = cached(truth, tmp_path, rows=twice)
    assert tokens_in(tmp_path) == 2
    assert cache.signal(collate(twice)).rows == 6


def test_the_key_knows_weights_tokens_and_dtype(truth, base, tmp_path):
    other = examples()
    other[0].responses[0] = [70, 72, 2]
    moved = examples()
    moved[0].prompt, moved[0].responses[0] = [1, 60], [61, 70, 71, 2]
    for teacher, options in (
        (truth, {}),
        (base, {}),
        (truth, {"rows": other}),
        (truth, {"rows": moved}),
        (truth, {"roles": ("chosen",)}),
        (LiveTeacher(truth.model, digest="given"), {}),
        (LiveTeacher(truth.model, dtype=torch.bfloat16), {}),
        (truth, {"batch": 2}),
    ):
        cached(teacher, tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="needs to know what of a file is held")
def test_memory_holds_only_what_is_looked_at(tmp_path):
    config = LlamaConfig(vocab_size=100, hidden_size=4096, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=32, num_key_value_heads=1, head_dim=4)  # fmt: skip
    rows = [Example([1], [[index % 90 + 1] * 50 + [index // 90 + 1]]) for index in range(40)]
    cached(LiveTeacher(LlamaForCausalLM(config)), tmp_path, rows=rows)
    (path,) = tmp_path.rglob("rows.f32")
    size = path.stat().st_size
    assert size > 3e7

    def held():
        """Bytes of the file in memory; those of the whole process also move with what other tests left."""
        return sum(mapped.rss for mapped in psutil.Process().memory_maps() if mapped.path == str(path.resolve()))

    assert held() < 0.2 * size
    states = [views["hidden"] for row in rows for views in row.signals["teacher"]]
    assert len({state.untyped_storage().data_ptr() for state in states}) == 1
    assert float(sum(state.sum() for state in states)) == pytest.approx(float(torch.cat(states).sum()), rel=1e-3, abs=1)
    assert held() > 0.8 * size


def test_a_full_disk_and_a_role_that_there_is_not_are_told_before_the_teacher_runs(truth, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    forbid(monkeypatch, truth.model)
    with pytest.raises(BadInput, match="chosen, rejected, sampled"):
        cached(truth, tmp_path, roles=("winner",))
    with pytest.raises(CannotContinue, match=r"1e-08 GB are free; keep what teachers say in a folder on another disk"):
        cached(truth, tmp_path)
    assert list(tmp_path.iterdir()) == []
