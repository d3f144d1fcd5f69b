"""`alignkd train` in two processes, started by torchrun on gloo: the weights are those of one process.

`accelerate launch --cpu --num_processes 2` would start one process and say nothing, so each test looks at how many
there were and at what wrapped the model.
"""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from ranks_worker import FSDP2, train
from safetensors.torch import load_file
from tiny_lm import lines

from alignkd_lab import cli, options
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights
from alignkd_lab.paths import data_folder

pytestmark = pytest.mark.slow

TEACHERS = {name: {"teacher": "tiny-base"} for name in ("kd", "gkd")}
TEACHERS["adpa"] = TEACHERS["adpa_plus"] = {"teacher": "tiny-truth", "reference": "tiny-base"}
# Thirteen pairs in batches of six: the third is a single pair, and a process has nothing of it to do. Of what is held
# out, five pairs in batches of two, one process reads two and the other one.
COMMON = {"student": "tiny-student", "max_steps": 3, "max_length": 48, "max_prompt_length": 30, "disable_tqdm": True,
          "use_cpu": True, "logging_steps": 1, "eval_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 3,
          "per_device_eval_batch_size": 2}  # fmt: skip
REWARD = {"reward": "ranks_worker:letters"}
SGD, ADAMW = {"optim": "sgd", "learning_rate": 0.1}, {"learning_rate": 1e-3}
METHODS = {
    "sft": {"gradient_checkpointing": True, **REWARD},
    "dpo": {"full": True, "micro_batch": 2, "student": "UNTIED"},
    "kd": {"ddp_find_unused_parameters": False, "live_teachers": True},
    "adpa": {"student": "UNTIED"},
    "adpa_plus": {"full": True, "live_teachers": True},  # whose first half is DCKD
    "gkd": {"full": True, "responses": 2},
    "rloo": {"responses": 3, **REWARD},
}
KINDS = {"float64": ({"double": True}, SGD, 1e-8), "float32": ({}, ADAMW, 1e-5)}
CASES = list(itertools.product(KINDS, METHODS))
STOPPED = {"method": "dpo", "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2, "heldout": 0.25,
           "full": True, **ADAMW}  # fmt: skip


def check_launch(monkeypatch, given, kind=DistributedType.MULTI_GPU, **arguments):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    state = SimpleNamespace(distributed_type=kind)
    options._check_launch(SimpleNamespace(distributed_state=state, load_best_model_at_end=False, **arguments))


@pytest.mark.parametrize(("name", "shards"), [("ddp.yaml", False), ("fsdp2.yaml", True)])
def test_the_configurations_that_ship_are_accepted(name, shards, monkeypatch):
    """By what `accelerate launch` sets for the processes that it starts."""
    file = str(data_folder() / "accelerate" / name)
    arguments = launch_command_parser().parse_args(["--config_file", file, "-m", "alignkd_lab"])
    arguments, *_ = _validate_launch_command(arguments)
    arguments.main_process_port = 0
    given = prepare_multi_gpu_env(arguments)
    check_launch(monkeypatch, given)
    assert (given.get("ACCELERATE_USE_FSDP"), given.get("FSDP_VERSION")) == (("true", "2") if shards else (None, None))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "accelerate_mixed_precision=bf16: use --dtype bfloat16"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "deepspeed=true: use DDP or FSDP2"),
        ({**FSDP2, "FSDP_VERSION": "1"}, "fsdp=true: set fsdp_version to 2"),
        ({**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "each process reads the weights"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params=true: untried here"),
        (FSDP2, "without GPUs accelerate would give DDP"),
    ],
)
def test_what_the_launcher_asks_for_and_cannot_be_had_is_refused(given, words, monkeypatch):
    kind = DistributedType.MULTI_CPU if given is FSDP2 else DistributedType.MULTI_GPU
    with pytest.raises(BadInput, match=words):
        check_launch(monkeypatch, given, kind)


@pytest.mark.parametrize("command", ["run --world mog", "evaluate tiny-base", "sample tiny-base --prompts x.jsonl"])
def test_what_runs_in_one_process_refuses_several(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*command.split(), "--out", str(tmp_path / "out")]) == 2
    assert f"several were started, and {command.split()[0]} runs in one" in capsys.readouterr().err


def launch(jobs, folder):
    """Runs the jobs in two processes; the exit code, what came of the jobs, and stderr."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "--monitor-interval", "3"]  # fmt: skip
    done = subprocess.run([*command, str(Path(__file__).with_name("ranks_worker.py")), str(path)], capture_output=True,
                          text=True, timeout=600, check=False)  # fmt: skip
    assert path.with_suffix(".found").exists(), done.stderr[-3000:]
    return done.returncode, json.loads(path.with_suffix(".found").read_text()), done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    rows = [{"prompt": f"Say {at}", "chosen": f"yes {at}"[: 4 + at % 3], "rejected": f"no {at}"} for at in range(1, 19)]
    lines(folder / "held.jsonl", rows[13:])
    return lines(folder / "pairs.jsonl", rows[:13])


@pytest.fixture(scope="module")
def jobs(data):
    model, tokenizer = weights.load("tiny-student")
    model.config.tie_word_embeddings = False  # whose head Accelerate shards apart from its embeddings
    for part in (type(model)(model.config), tokenizer):
        part.save_pretrained(data.parent / "untied")
    made = {}
    for kind, method in CASES:
        (given, optimizer, _), more = KINDS[kind], METHODS[method]
        asked = {"method": method, "data": str(data), "heldout": str(data.parent / "held.jsonl"), **COMMON, **optimizer,
                 **TEACHERS.get(method, {}), **more}  # fmt: skip
        asked["student"] = asked["student"].replace("UNTIED", str(data.parent / "untied"))
        for wrapper in ("ddp", "fsdp"):
            out = str(data.parent / f"{kind}-{method}-{wrapper}")
            own = {**asked, "out": out, "cache_teachers": f"{out}-kept"}
            made[kind, method, wrapper] = {**given, "shard": wrapper == "fsdp", "options": own}
    return made


@pytest.fixture(scope="module")
def two(jobs, data):
    """What came of all the jobs, and what a process said when the other one was killed in one more."""
    code, found, stderr = launch([*jobs.values(), stopped(data, "ddp", kill=5)], data.parent)
    assert code == 1, stderr[-3000:]
    return dict(zip(jobs, found, strict=True)), stderr


def stopped(data, name, size=3, **job):
    asked = {**COMMON, **STOPPED, "data": str(data), "out": str(data.parent / name)}
    return {"options": {**asked, "per_device_train_batch_size": size}, **job}


def weights_of(folder):
    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_two_processes_make_the_weights_of_one(kind, method, jobs, two, data):
    given, _, tolerance = KINDS[kind]
    asked = jobs[kind, method, "ddp"]["options"]
    alone = data.parent / f"{kind}-{method}-one"
    kept = f"{alone}-kept"
    one = train({**asked, "per_device_train_batch_size": 6, "out": str(alone), "cache_teachers": kept}, **given)
    for wrapper in ("ddp", "fsdp"):
        found, folder = two[0][kind, method, wrapper], Path(jobs[kind, method, wrapper]["options"]["out"])
        check_wrapper(found, wrapper)
        assert found["teachers"] == (wrapper == "fsdp") * {"kd": 1, "adpa_plus": 3, "gkd": 2}.get(method, 0)
        for part in [".", "dckd"] if method == "adpa_plus" else ["."]:
            expected = weights_of(alone / part)
            torch.testing.assert_close(weights_of(folder / part), expected, rtol=0, atol=tolerance)
        for name, value in one["result"].items():  # what is measured in float64 differs by its rounding alone
            near = {"abs": tolerance} if kind == "float64" and name.startswith("eval_") else {"rel": 1e-3, "abs": 1e-4}
            assert found["result"][name] == pytest.approx(value, **near), name
        assert responses_in(f"{folder}-kept") == responses_in(kept)
        for first, second, whole in zip(*found["wrote"], *one["wrote"], strict=True):
            assert whole <= first + second <= whole + 4
            assert first / 2 <= second <= first


def responses_in(folder):
    """What the student wrote beforehand, batch by batch."""
    return sorted(path.read_text() for path in Path(folder).glob("student-responses-*/value.json"))


def check_wrapper(found, wrapper):
    assert found["world"] == found["processes"] == 2
    assert found["wrapper"].startswith({"ddp": "DistributedDataParallel", "fsdp": "FSDP"}[wrapper])
    assert (found["sharded"] > 2) == (wrapper == "fsdp")  # the blocks, too


def test_a_training_that_loses_a_process_goes_on_in_two_or_in_one_whatever_wraps_it(two, data):
    assert "CannotContinue: processes: another of the 2 is gone" in two[1]
    assert not (data.parent / "ddp" / "record.json").exists()
    for name in ("ddp-in-ddp", "ddp-in-fsdp", "ddp-in-one"):
        shutil.copytree(data.parent / "ddp", data.parent / name)
    resumed = [stopped(data, "ddp-in-ddp"), stopped(data, "ddp-in-fsdp", shard=True)]
    code, found, stderr = launch([*resumed, stopped(data, "fsdp", shard=True, kill=5)], data.parent)
    assert (code, len(found)) == (1, 2), stderr[-3000:]
    check_wrapper(found[0], "ddp")
    check_wrapper(found[1], "fsdp")
    whole = train(**stopped(data, "whole", size=6))
    for name in ("ddp-in-one", "fsdp"):
        found.append(train(**stopped(data, name, size=6)))
    expected = weights_of(data.parent / "whole")
    curves = pd.read_csv(data.parent / "whole" / "curves.csv")
    for name, one in zip(("ddp-in-ddp", "ddp-in-fsdp", "ddp-in-one", "fsdp"), found, strict=True):
        assert (data.parent / name / "checkpoints" / "checkpoint-6").is_dir()
        torch.testing.assert_close(weights_of(data.parent / name), expected, rtol=0, atol=1e-5)
        pd.testing.assert_frame_equal(pd.read_csv(data.parent / name / "curves.csv"), curves, rtol=1e-4, atol=1e-6)
        assert one["result"] == pytest.approx(whole["result"], rel=1e-4, abs=1e-6)
