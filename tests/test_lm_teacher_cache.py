"""Cached teachers: the same signals as live ones, from a folder that is whole, its own, or refused."""

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import losses, teacher_cache, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.teacher_cache import CachedTeacher, cache_teacher
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


@pytest.fixture
def student(device):
    return weights.load("tiny-student", device=device)[0]


def quiet(count):
    """Takes the progress, so that no bar is drawn."""


def cached(teacher, folder, **options):
    return cache_teacher(teacher, options.pop("rows", None) or examples(), folder, progress=quiet, **options)


def assert_close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def attached(cache, name="dpo"):
    rows = examples()
    cache.attach(rows, name)
    return collate(rows)


def loss_and_gradient(loss, student, batch):
    hidden = hidden_states(student, batch).detach().requires_grad_()
    head = student.lm_head.weight.detach().clone().requires_grad_()
    value, _ = loss(hidden, head)
    value.backward()
    return value.detach(), hidden.grad, head.grad


@pytest.mark.parametrize("chunk", [None, 5])
def test_kd_has_the_same_value_and_gradient_from_cached_and_live(truth, student, tmp_path, chunk):
    cache = cached(truth, tmp_path / "cache")
    batch = attached(cache)
    found, live = (
        loss_and_gradient(lambda h, w, s=signal: losses.kd(h, w, s, chunk=chunk), student, batch)
        for signal in (cache.signal(batch), truth.signal(batch))
    )
    assert_close(found, live)


def test_only_the_asked_roles_are_read(truth, tmp_path):
    cache = cached(truth, tmp_path / "cache", roles=("sampled",))
    assert cache.about["cost"]["tokens"] == 8
    rows = examples()
    cache.attach(rows, "dpo")
    assert [bool(views) for row in rows for views in row.signals["dpo"]] == [
        role == "sampled" for row in rows for role in row.roles
    ]
    batch = collate(rows)
    assert_close(cache.signal(batch).hidden, truth.signal(batch, roles=("sampled",)).hidden)
    assert_close(cache.signal(batch, roles=("sampled",)).hidden, truth.signal(batch, roles=("sampled",)).hidden)
    with pytest.raises(BadInput, match=r"has read \('sampled',\)"):
        cache.signal(batch, roles=("chosen",))


def test_batches_and_caches_without_responses_have_no_rows(truth, tmp_path):
    cache = cached(truth, tmp_path / "cache", roles=("sampled",))
    rows = examples()[1:3]
    cache.attach(rows, "dpo")
    assert cache.signal(collate(rows)).rows == 0
    nothing = cached(truth, tmp_path / "nothing", rows=[Example([1, 2], [])])
    rows = [Example([1, 2], [])]
    nothing.attach(rows, "dpo")
    assert rows[0].signals == {"dpo": []}
    assert nothing.signal(collate(rows)).rows == 0
    assert nothing.about["cost"]["tokens"] == 0


def forbid(monkeypatch, model):
    def run(*_, **__):
        raise AssertionError("the teacher was run")

    monkeypatch.setattr(model.model, "forward", run)


def test_a_second_call_picks_the_folder_up_without_running_the_teacher(truth, tmp_path, monkeypatch):
    first = cached(truth, tmp_path / "cache")
    before = attached(first)["signals"]["dpo"]["hidden"].clone()
    forbid(monkeypatch, truth.model)
    again = cached(truth, tmp_path / "cache", rows=examples()[::-1])
    assert again.key == first.key
    assert torch.equal(attached(again)["signals"]["dpo"]["hidden"], before)  # by the tokens, not by the place
    with pytest.raises(AssertionError, match="was run"):
        cached(truth, tmp_path / "another")


def test_the_same_words_twice_are_kept_once(truth, tmp_path):
    twice = [Example([1, 60], [[70, 2], [70, 2]]), Example([1, 60], [[70, 2]])]
    cache = cached(truth, tmp_path / "cache", rows=twice)
    assert cache.about["cost"]["tokens"] == 2
    cache.attach(twice, "dpo")
    assert cache.signal(collate(twice)).rows == 6


def test_the_key_knows_weights_tokens_and_dtype(truth, base, tmp_path):
    other = examples()
    other[0].responses[0] = [70, 72, 2]
    moved = examples()
    moved[0].prompt, moved[0].responses[0] = [1, 60], [61, 70, 71, 2]
    made = [
        cached(truth, tmp_path / "0"),
        cached(base, tmp_path / "1"),
        cached(truth, tmp_path / "2", rows=other),
        cached(truth, tmp_path / "3", rows=moved),
        cached(truth, tmp_path / "4", roles=("chosen",)),
        cached(LiveTeacher(truth.model, digest="given"), tmp_path / "5"),
        cached(LiveTeacher(truth.model, dtype=torch.bfloat16), tmp_path / "6"),
    ]
    assert len({cache.key for cache in made}) == len(made)


def test_a_folder_made_for_something_else_is_refused_by_name(truth, base, tmp_path):
    folder = tmp_path / "cache"
    cached(truth, folder)
    with pytest.raises(BadInput, match=rf"{folder}: .* \(teacher differ\).* name another folder, or delete"):
        cached(base, folder)
    with pytest.raises(BadInput, match=r"\(tokens differ\)"):
        cached(truth, folder, rows=examples()[:1])
    with pytest.raises(BadInput, match="another one was given"):
        CachedTeacher(folder, base.head)


def test_a_folder_of_other_things_is_left_alone(truth, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"no cache\.json"):
        cached(truth, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("rows.f32", lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "not have its checksum"),
        ("rows.f32", lambda data: data[:-8], "not have its checksum"),
        ("rows.f32", None, "No such file"),
        ("checksums.json", None, "no checksums"),
        ("cache.json", lambda data: data.replace(b'"seconds": ', b'"seconds": 1', 1), "not have its checksum"),
        ("cache.json", lambda data: data[:20], "cannot be read"),
    ],
)
def test_a_damaged_cache_says_where_and_what_to_do(truth, tmp_path, file, change, words):
    folder = tmp_path / "cache"
    cached(truth, folder)
    if change:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    else:
        (folder / file).unlink()
    with pytest.raises(CannotContinue, match=rf"{folder}: .*{words}.*delete the folder and cache the teacher again"):
        cached(truth, folder)


def test_an_interrupted_cache_leaves_nothing_behind(truth, tmp_path):
    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_teacher(truth, examples(), tmp_path / "cache", batch=1, progress=stop)
    assert list(tmp_path.iterdir()) == []
    assert cached(truth, tmp_path / "cache").about["cost"]["tokens"] == 20


def test_the_process_that_comes_second_takes_what_the_first_has_made(truth, tmp_path):
    folder, seen = tmp_path / "cache", []

    def other_process(count):
        if not seen:
            seen.append(cached(truth, folder))

    second = cache_teacher(truth, examples(), folder, progress=other_process)
    assert second.about == seen[0].about
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_progress_counts_the_responses_and_batches_change_nothing(truth, tmp_path, capsys):
    counted = []
    small = cache_teacher(truth, examples(), tmp_path / "small", batch=2, progress=counted.append)
    assert sum(counted) == 7
    assert len(counted) > 1
    batch = attached(small)
    assert_close(small.signal(batch).hidden, truth.signal(batch).hidden)
    for roles in (("chosen",), ("rejected", "sampled")):
        assert_close(small.signal(batch, roles=roles).hidden, truth.signal(batch, roles=roles).hidden)
    assert "caching the teacher" not in capsys.readouterr().err
    cache_teacher(truth, examples(), tmp_path / "shown")
    assert "caching the teacher: 100%" in capsys.readouterr().err


def wide_teacher():
    config = LlamaConfig(vocab_size=100, hidden_size=4096, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=32, num_key_value_heads=1, head_dim=4)  # fmt: skip
    return LiveTeacher(LlamaForCausalLM(config))


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="needs to know what of a file is held")
def test_memory_holds_only_what_is_looked_at(tmp_path):
    teacher = wide_teacher()
    rows = [Example([1], [[index % 90 + 1] * 50 + [index // 90 + 1]]) for index in range(40)]
    cached(teacher, tmp_path / "cache", rows=rows)
    path = tmp_path / "cache" / "rows.f32"
    size = path.stat().st_size
    assert size > 3e7

    def held():
        """Bytes of the file in memory; those of the whole process also move with what other tests left."""
        return sum(mapped.rss for mapped in psutil.Process().memory_maps() if mapped.path == str(path.resolve()))

    cache = CachedTeacher(tmp_path / "cache", teacher.head)
    cache.attach(rows, "dpo")
    assert held() < 0.2 * size
    states = [views["hidden"] for row in rows for views in row.signals["dpo"]]
    assert len({state.untyped_storage().data_ptr() for state in states}) == 1
    assert float(sum(state.sum() for state in states)) == pytest.approx(float(torch.cat(states).sum()), rel=1e-3, abs=1)
    assert held() > 0.8 * size


def test_examples_that_were_not_read_are_refused_and_left_as_they_are(truth, tmp_path):
    cache = cached(truth, tmp_path / "cache", rows=examples()[:3])
    rows = examples()
    with pytest.raises(BadInput, match=r"response 0 \(sampled\) of example 3 .* new folder"):
        cache.attach(rows, "dpo")
    assert all(not row.signals for row in rows)
    with pytest.raises(BadInput, match=r"attach\(examples, 'dpo'\) before collate"):
        cache.signal(collate(rows), "dpo")


def test_a_full_disk_and_a_role_that_there_is_not_are_told_before_the_teacher_runs(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    forbid(monkeypatch, truth.model)
    with pytest.raises(BadInput, match="chosen, rejected, sampled"):
        cached(truth, tmp_path / "cache", roles=("winner",))
    with pytest.raises(CannotContinue, match=r"1e-08 GB are free; name a folder on another disk"):
        cached(truth, tmp_path / "new" / "cache")
