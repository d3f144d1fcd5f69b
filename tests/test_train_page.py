"""The page on training: what it shows is run, with random models in place of the large ones."""

import re
import shlex
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import alignkd_lab
from alignkd_lab import cli
from alignkd_lab.plots import curves

PAGE = (Path(alignkd_lab.__file__).parent.parent / "notebooks" / "TRAIN.md").read_text(encoding="utf-8")
TINY = {"smollm2-135m-instruct": "tiny-base", "healed": "tiny-student"}


def block(language: str) -> str:
    found = "".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))
    return re.sub("|".join(TINY), lambda name: TINY[name[0]], found)


def test_the_script_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "draw_curves", lambda *_: None)  # which takes longer than a training here
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
    train = alignkd_lab.train
    monkeypatch.setattr(
        alignkd_lab,
        "train",
        lambda *args, **options: train(
            *args, **options, use_cpu=True, disable_tqdm=True, max_length=256, max_prompt_length=128
        ),
        raising=False,
    )
    said = {}
    exec(block("python"), said)
    assert said["record"]["result"]["steps"] == 1


@pytest.mark.parametrize("name", re.findall(r"`--([a-z-]+)", PAGE))
def test_an_option_that_the_page_names_exists(name):
    from dataclasses import fields

    from transformers import TrainingArguments

    from alignkd_lab.options import Options

    known = {entry.name for kind in (Options, TrainingArguments) for entry in fields(kind)} | {"config"}
    assert name.replace("-", "_") in known
