"""The pages on training and on many runs: what they show is run, or read by the programs that they name."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_lm import folder_of
from transformers import AutoModelForCausalLM, TrainingArguments

import alignkd_lab
from alignkd_lab import cli
from alignkd_lab.evaluation import Request
from alignkd_lab.options import Options
from alignkd_lab.plots import measured

PAGE, SCALE = (
    (Path(alignkd_lab.__file__).parent.parent / "notebooks" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("TRAIN", "SCALE")
)
RUNS = [shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", SCALE, re.DOTALL) for line in block.splitlines()]
TINY = {"smollm2-135m-instruct": "tiny-base", "healed": "tiny-student"}


def block(language: str, at: int | None = None) -> str:
    """All blocks of a language, or one of them."""
    every = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    found = "".join(every) if at is None else every[at]
    return re.sub("|".join(TINY), lambda name: TINY[name[0]], found)


def test_the_script_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured, "draw_curves", lambda *_: None)  # which takes longer than a training here
    Path("pairs.jsonl").write_text(block("json"))
    Path("my_rewards.py").write_text(block("py"))
    Path("prompts.txt").write_text("".join(f"Say {at}\n" for at in range(8)))
    quick = ["--use-cpu", "--disable-tqdm", "true", "--max-length", "256", "--max-prompt-length", "128"]
    commands = block("sh").splitlines()
    for command in commands:
        program, *argv = shlex.split(command)
        assert program == "alignkd"
        assert cli.main([*argv, *quick]) == 0
        AutoModelForCausalLM.from_pretrained(argv[argv.index("--out") + 1])
    small = {"use_cpu": True, "disable_tqdm": True, "max_length": 256, "max_prompt_length": 128}
    monkeypatch.setattr(alignkd_lab, "train", partial(alignkd_lab.train, **small), raising=False)
    said = {}
    exec(block("python"), said)
    assert said["record"]["result"]["steps"] == 1


def test_the_evaluation_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("student", "alone"):
        folder_of("tiny-student", Path(name))
    for name in ("prompts.jsonl", "held.jsonl"):
        Path(name).write_text(block("json"))
    for command in block("bash", 0).splitlines():
        assert cli.main([*shlex.split(command)[1:], "--device", "cpu", "--max-tokens", "12"]) == 0
    written = sorted(path.name for path in Path("evaluation").iterdir())
    assert written == ["evaluation.json", "evaluation.png", "responses.jsonl"]
    assert {line["generator"] for line in json.loads(Path("answers.json").read_text())} == {"student"}


def test_the_benchmarks_of_the_page_are_asked_for_as_it_says_and_its_options_exist():
    asked = [cli.build_parser().parse_args(shlex.split(line)[1:]) for line in block("bash", 1).splitlines()]
    assert asked[0].tasks == ("arc_challenge", "hellaswag", "gsm8k", "truthfulqa_mc2", "mmlu", "winogrande")
    assert (asked[1].tasks, asked[1].chat_template) == (("ifeval",), True)
    known = {entry.name for kind in (Options, Request, TrainingArguments) for entry in fields(kind)} | {"config"}
    assert {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)", PAGE)} <= known


# Many runs


def test_the_commands_of_the_page_are_read_and_its_options_exist():
    run, gaussians, report = (cli.build_parser().parse_args(line[1:]) for line in RUNS if line[0] == "alignkd")
    assert (run.engine, run.seeds, run.num_cpus) == ("ray", tuple(range(20)), 8)
    assert (gaussians.engine, gaussians.num_gpus) == ("ray", 0)
    assert run.address == gaussians.address
    assert report.folder == run.out == gaussians.out
    asked = cli.build_parser().parse_args(["run"])
    names = re.findall(r"^\| `--([a-z-]+)`", SCALE, re.MULTILINE)
    assert all(hasattr(asked, name.replace("-", "_")) for name in names)


def test_a_job_of_the_array_runs_its_seed(tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", SCALE, re.DOTALL)
    told = tmp_path / "alignkd"
    told.write_text('#!/bin/sh\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@"\n')
    told.chmod(0o755)
    given = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_SUBMIT_DIR": "/some where"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash"], input=script, env={"PATH": path, **given}, capture_output=True, text=True, check=True
    )
    threads, *argv = done.stdout.splitlines()
    asked = cli.build_parser().parse_args(argv)
    assert threads == "8"
    assert (asked.world, asked.seeds, asked.out) == ("lm", (7,), Path("/some where/out"))


@pytest.mark.ray
def test_ray_knows_the_commands_of_the_page():
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'alignkd-lab[ray]'")
    from ray.scripts.scripts import cli as ray

    asked = [line[1:] for line in RUNS if line[0] == "ray"]
    auth, head, worker = (
        ray.commands[name].make_context(name, [word for word in argv if word not in (">", "/dev/null")]).params
        for name, *argv in asked
    )
    assert auth["generate"]
    assert (head["head"], head["port"], worker["address"]) == (True, 6379, "head:6379")
