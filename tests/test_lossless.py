"""Nothing that stopped, was cut off or was damaged is taken for a result; no name leads out of its folder."""

import ast
import hashlib
import signal
import threading
from pathlib import Path

import huggingface_hub
import pytest
import torch
from synthetic_records import lm_record
from test_lm_trainer import loss, run

from alignkd_lab import cli, experiment, recording, records, report
from alignkd_lab.course.explorers import blind_reading
from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.mog import align
from alignkd_lab.presets import preset
from alignkd_lab.store import Store, safe_name, scratch_folder

# Not a number -----------------------------------------------------------------------------------------------


class Poison(torch.autograd.Function):
    """One in the forward pass, not a number in the backward pass."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        return upstream * float("nan")


@pytest.mark.parametrize("spoil", [lambda value: value * float("inf"), Poison.apply], ids=["loss", "gradient"])
def test_training_stops_at_the_step_that_is_not_finite_and_keeps_its_batch(tmp_path, spoil):
    read = []

    def spoilt(model, batch, items):
        read.append(batch["shift_labels"].tolist())
        value, info = loss(model, batch, items)
        return (spoil(value) if len(read) == 3 else value), info

    with pytest.raises(CannotContinue, match=r"step 3 .*not-finite-step-3\.pt") as stopped:
        run(with_lora(weights.load("tiny-student")[0], 2), steps=40, loss=spoilt, aside=tmp_path / "stopped")
    assert "learning rate" in str(stopped.value)
    assert len(read) == 3
    kept = torch.load(tmp_path / "stopped" / "not-finite-step-3.pt", weights_only=True)
    assert not [example for example in kept["batch"] if "signals" in example]
    responses = [token for example in kept["batch"] for tokens in example["responses"] for token in tokens]
    assert (kept["step"], responses) == (3, read[2])


def test_alignment_of_gaussians_stops_at_the_step_that_is_not_a_number(monkeypatch):
    step, count = align.Adam.step, []

    def spoilt(self, gradients, learning_rate):
        count.append(1)
        return step(self, [g * float("nan") if len(count) == 3 else g for g in gradients], learning_rate)

    monkeypatch.setattr(align.Adam, "step", spoilt)
    with pytest.raises(CannotContinue, match="step 3 of 20"):
        experiment.run_gaussians(preset("tiny").mog, "dpo", (0,), ("base_aligned",))


# What is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("rows", lambda held: held[:-3] + bytes([held[-3] ^ 1]) + held[-2:]),
        ("rows", lambda held: held[:-8]),
        ("rows", None),
        ("checksums.json", lambda held: held[:20]),
        ("checksums.json", None),
    ],
)
def test_a_kept_result_that_is_damaged_or_lacks_a_file_is_made_anew_and_said(tmp_path, capsys, file, harm):
    made = []

    def write(folder):
        made.append((folder / "rows").write_bytes(bytes(range(99))))

    def keep():
        return (Store(tmp_path).keep_folder("thing", {"a": 1}, write) / "rows").read_bytes()

    keep()
    (folder,) = tmp_path.iterdir()
    held = (folder / file).read_bytes()
    (folder / file).unlink()
    if harm:
        (folder / file).write_bytes(harm(held))
    assert keep() == keep() == bytes(range(99))
    assert len(made) == 2
    assert f"{folder} is damaged" in capsys.readouterr().err


def test_an_error_of_what_reads_a_sound_result_is_no_damage(tmp_path):
    def load(folder):
        raise KeyError("a fault in the code")

    arguments = "thing", {"a": 1}, lambda: 1, lambda value, folder: (folder / "x").write_text("x"), load
    Store(tmp_path).keep(*arguments)
    with pytest.raises(KeyError, match="a fault in the code"):
        Store(tmp_path).keep(*arguments)


def test_scratch_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path, monkeypatch):
    def age(folder):
        monkeypatch.setattr("alignkd_lab.store.time.time", lambda: (folder / "alive.lock").stat().st_mtime + 7200)

    with scratch_folder(tmp_path) as living:
        dead, young = tmp_path / "writing-dead", tmp_path / "writing-none"
        dead.mkdir(), young.mkdir()
        (dead / "alive.lock").touch()
        with scratch_folder(tmp_path):
            assert dead.exists()  # it may have been made a moment ago
        age(dead)
        with scratch_folder(tmp_path):
            assert not dead.exists()
            assert living.exists()
            assert young.exists()


def test_a_record_that_another_run_has_finished_stays(tmp_path):
    first, second = lm_record(0), lm_record(0)
    second["provenance"]["created"] = "2030-01-01T00:00:00+00:00"
    path = recording.write(tmp_path, first)
    held = path.read_text()
    assert recording.write(tmp_path, second, first_wins=True) == path
    assert path.read_text() == held
    del first["pipelines"]["align_then_kd"]
    path.unlink()
    recording.write(tmp_path, first)
    assert "align_then_kd" in recording.read_json(recording.write(tmp_path, second, first_wins=True))["pipelines"]


# Weights ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose cache is a folder, and which ends the connection while `away` is true."""
    folder, blobs, told = tmp_path / "snapshot", tmp_path / "blobs", {"away": False, "asked": 0}
    folder.mkdir(), blobs.mkdir()

    def fetch(name, content):
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(blob)

    def snapshot(name, revision, local_files_only=False, **options):
        if local_files_only:
            return str(folder)  # as the hub's library does, whatever of it is there
        told["asked"] += 1
        fetch("config.json", b"{}")
        if told["away"]:
            raise ConnectionError("reset by peer")
        for file in ("tokenizer.json", "model.safetensors"):
            fetch(file, file.encode())
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return folder, told


def test_a_download_that_was_cut_off_goes_on_whole_weights_ask_nobody_and_damaged_ones_are_never_read(hub):
    (folder, told), source = hub, f"owner/name@{'a' * 40}"
    told["away"] = True
    for _ in range(2):
        with pytest.raises(CannotContinue, match="did not give owner/name"):
            weights.resolve(source)
    told["away"] = False
    assert weights.resolve(source) == folder
    assert weights.resolve(source) == folder
    assert told["asked"] == 3
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(b"other")
    with pytest.raises(CannotContinue, match=blob.name):
        weights.resolve(source)


# Names and signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "a\\b", "nul\0", "x" * 999, "名" * 999, "kd at 0.7"])
def test_no_name_of_a_record_or_stage_leads_out_of_its_folder(tmp_path, name):
    record = lm_record(0)
    for field in ("preset", "target"):
        record[field] = name
    path = recording.write(tmp_path, record)
    assert path.parent == tmp_path / "runs"
    assert path.resolve().parent == (tmp_path / "runs").resolve()
    assert recording.read_json(path)["preset"] == name
    assert (tmp_path / f"stopped-{safe_name(name)}").resolve().parent == tmp_path.resolve()


MARKUP = "<script>alert('&')</script> $x_{$ $$"


def test_markup_in_any_text_of_a_record_is_shown_and_never_run(tmp_path, monkeypatch):
    record = lm_record(0)
    record["device"] = MARKUP
    for entry in record["pipelines"].values():
        for sample in entry["samples"]:
            sample["prompt"], sample["response"] = MARKUP + sample["prompt"], MARKUP
    recording.write(tmp_path, record)
    page = report.write_report(tmp_path).read_text()
    monkeypatch.setattr(blind_reading, "recorded_smollm2", lambda: records.load(tmp_path))
    cards = blind_reading.Cards()._repr_mimebundle_()["text/html"]
    for text in (page, cards):
        assert "<script" not in text
        assert text.count("&lt;script&gt;") > 3


def test_nothing_on_disk_can_run_code_when_it_is_read():
    wanted = {"load": ("weights_only",), "from_pretrained": ("use_safetensors", "gguf_file")}
    found = set()
    for path in Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {"pickle", "joblib", "dill"} & {alias.name for alias in node.names}, path
            if not isinstance(node, ast.Call):
                continue
            given = {word.arg: word.value for word in node.keywords}
            if "weights_only" in given:
                assert ast.unparse(given["weights_only"]) == "True", path
            name = getattr(node.func, "attr", None)
            said = ast.unparse(node.func) if name in wanted else ""
            if said == "torch.load" or (name == "from_pretrained" and "Model" in said):
                found.add(name)
                assert given.keys() & set(wanted[name]), f"{path}: {ast.unparse(node)}"
    assert found == set(wanted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_command_with_their_codes_and_say_how_to_go_on(number, code, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "run_experiment", lambda **given: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    held = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    try:
        assert cli.main(["run", "--world", "mog"]) == code
    finally:
        signal.signal(signal.SIGINT, held)
    assert "to resume: alignkd run --world mog" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_runs_in_another_thread_too(monkeypatch):
    monkeypatch.setattr(experiment, "run_experiment", lambda **given: [])
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["run", "--world", "mog"])))
    thread.start()
    thread.join()
    assert codes == [0]
