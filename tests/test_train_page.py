"""The page on training: what it shows is run, with random models in place of the large ones."""

import json
import re
import shlex
from dataclasses import fields
from functools import partial
from pathlib import Path

from tiny_lm import folder_of
from transformers import AutoModelForCausalLM, TrainingArguments

import alignkd_lab
from alignkd_lab import cli
from alignkd_lab.evaluation import Request
from alignkd_lab.options import Options
from alignkd_lab.plots import measured

PAGE = (Path(alignkd_lab.__file__).parent.parent / "notebooks" / "TRAIN.md").read_text(encoding="utf-8")
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
