"""`alignkd train` in two processes, started by torchrun on gloo: the weights are those of one process.

`accelerate launch --cpu --num_processes 2` would start one process and say nothing, so each test looks at how many
there were and at what wrapped the model.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from ranks_worker import train
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TEACHERS = {"kd": {"teacher": "tiny-base"}}
TEACHERS["adpa"] = TEACHERS["adpa_plus"] = {"teacher": "tiny-truth", "reference": "tiny-base"}
# Thirteen pairs in batches of six: the third is a single pair, and a process has nothing of it to do.
COMMON = {"student": "tiny-student", "max_steps": 3, "max_length": 48, "heldout": 0, "disable_tqdm": True,
          "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 3}  # fmt: skip
SGD, ADAMW = {"optim": "sgd", "learning_rate": 0.1}, {"learning_rate": 1e-3}
METHODS = {
    "sft": {"gradient_checkpointing": True},
    "dpo": {"full": True, "micro_batch": 2},
    "kd": {"ddp_find_unused_parameters": False, "live_teachers": True},
    "adpa": {},
    "adpa_plus": {"full": True, "live_teachers": True},  # whose first half is DCKD
}
KINDS = {"float64": ({"double": True}, SGD, 1e-8), "float32": ({}, ADAMW, 1e-5)}
STOPPED = {"method": "dpo", "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2, "heldout": 0.25,
           "full": True, **ADAMW}  # fmt: skip


def launch(jobs, folder):
    """Runs the jobs in two processes; the exit code, what came of the jobs, and stderr."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "--monitor-interval", "3"]  # fmt: skip
    done = subprocess.run([*command, str(Path(__file__).with_name("ranks_worker.py")), str(path)], capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip
    return done.returncode, json.loads(path.with_suffix(".found").read_text()), done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "pairs.jsonl"
    rows = [{"prompt": f"Say {at}", "chosen": f"yes {at}"[: 4 + at % 3], "rejected": f"no {at}"} for at in range(13)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def jobs(data):
    made = {}
    for kind, (given, optimizer, _) in KINDS.items():
        for method, more in METHODS.items():
            options = {"method": method, "data": str(data), **COMMON, **optimizer, **TEACHERS.get(method, {}), **more}
            for wrapper in ("ddp", "fsdp"):
                own = {**options, "out": str(data.parent / f"{kind}-{method}-{wrapper}")}
                made[kind, method, wrapper] = {**given, "shard": wrapper == "fsdp", "options": own}
    return made


@pytest.fixture(scope="module")
def two(jobs, data):
    """What came of all the jobs, and what a process said when the other one was killed in one more."""
    code, found, stderr = launch([*jobs.values(), stopped(data, "ddp", kill=5)], data.parent)
    assert code == 1, stderr[-3000:]
    return dict(zip(jobs, found, strict=True)), stderr


def stopped(data, name, size=3, **job):
    options = {**COMMON, **STOPPED, "data": str(data), "out": str(data.parent / name)}
    return {"options": {**options, "per_device_train_batch_size": size}, **job}


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_make_the_weights_of_one(kind, method, jobs, two, data):
    given, _, tolerance = KINDS[kind]
    options = jobs[kind, method, "ddp"]["options"]
    alone = data.parent / f"{kind}-{method}-one"
    one = train({**options, "per_device_train_batch_size": 6, "out": str(alone)}, **given)
    for wrapper in ("ddp", "fsdp"):
        found, folder = two[0][kind, method, wrapper], Path(jobs[kind, method, wrapper]["options"]["out"])
        check_wrapper(found, wrapper)
        for part in [".", "dckd"] if method == "adpa_plus" else ["."]:
            expected = weights_of(alone / part)
            torch.testing.assert_close(weights_of(folder / part), expected, rtol=0, atol=tolerance)
        assert found["result"]["loss"] == pytest.approx(one["result"]["loss"], rel=1e-5)


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
