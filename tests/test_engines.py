"""Responses by vLLM, of which a stub stands here: its documented classes, which refuse what those do not take."""

import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest
import torch
from test_training import QUICK
from tiny_lm import folder_of, lines, prompt_ids
from transformers import AutoModelForCausalLM

from alignkd_lab import cli, training
from alignkd_lab.answering import sample_to
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.sampling import sample

PROMPTS, END = [[1, 60, 61, 62], [1, 70], [1, 80, 81]], 2


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True


class LLM:
    """Reads a folder as vLLM does; a request with a seed draws by it, and its further outputs by the next seeds."""

    started, limit = [], 200

    def __init__(self, model, *, dtype="auto", seed=0, generation_config="auto", gpu_memory_utilization=0.9):
        assert dtype in ("float32", "bfloat16")
        assert generation_config == "vllm", "the model's own would cut the distribution"
        self.model, self.asked = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)), []
        LLM.started.append(self)

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        self.asked += sampling_params
        return [
            SimpleNamespace(outputs=[self.draw(prompt["prompt_token_ids"], params, index)
                                     for index in reversed(range(params.n))])
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]  # fmt: skip

    @torch.no_grad()
    def draw(self, ids, params, index):
        if len(ids) > self.limit:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        assert params.ignore_eos, "the model's own end token would end it"
        generator, written = torch.Generator().manual_seed(params.seed + index), []
        while len(written) < params.max_tokens and len(ids) + len(written) < self.limit:
            logits = self.model(torch.tensor([[*ids, *written]])).logits[0, -1] / params.temperature
            written.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            if written[-1] in params.stop_token_ids:
                break
        return SimpleNamespace(index=index, token_ids=tuple(written))


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "started", [])
    return module


@pytest.fixture
def folder(tmp_path):
    return str(folder_of("tiny-student", tmp_path / "model"))


def test_draws_depend_on_the_seed_and_the_prompts_number_alone_and_our_ends_end_them(folder):
    engine, ends = Vllm(folder, torch.float32), range(0, 256, 3)
    found = sample(engine, PROMPTS, 40, 4, ends, seed=1)
    assert found.prompt_of == [prompt for prompt in range(3) for _ in range(40)]
    assert all(tokens[-1] in ends or len(tokens) == 4 for tokens in found.tokens)
    assert all(token not in ends for tokens in found.tokens for token in tokens[:-1])
    for first, second in ((found.tokens[:40], found.tokens[40:80]), (found.tokens[:20], found.tokens[20:40])):
        assert first != second
    alone = sample(engine, PROMPTS, 40, 4, ends, seed=1, only=[2, 0])
    assert alone.tokens == found.tokens[80:] + found.tokens[:40]
    assert sample(engine, PROMPTS, 40, 4, ends, seed=2).tokens != found.tokens
    (started,) = LLM.started
    assert {(one.temperature, one.top_p, one.top_k, one.min_p) for one in started.asked} == {(1.0, 1.0, -1, 0.0)}


def test_what_is_not_whole_or_cannot_be_read_is_refused(folder, monkeypatch):
    engine = Vllm(folder, torch.float32)
    monkeypatch.setattr(LLM, "limit", 5)
    with pytest.raises(CannotContinue, match="of 3 responses vLLM gave 0 whole ones"):
        sample(engine, PROMPTS, 1, 20, 999, seed=0)
    with pytest.raises(CannotContinue, match="of 1 responses vLLM gave 0 whole ones"):  # not one token
        sample(engine, [list(range(1, 6))], 1, 2, END, seed=0)
    with pytest.raises(BadInput, match="vLLM refuses: The decoder prompt is longer"):
        sample(engine, [list(range(1, 9))], 1, 2, END, seed=0)
    with pytest.raises(BadInput, match="temperature must be"):
        sample(engine, PROMPTS, 1, 2, END, seed=0, temperature=0.001)


def test_a_model_answers_by_it_turn_by_turn(folder, tmp_path):
    path = lines(tmp_path / "prompts.jsonl", [{"turns": ["Count.", "On."]}, {"prompt": "Go."}])
    command = ["sample", folder, "--prompts", str(path), "--out", str(tmp_path / "out.jsonl"), "--max-tokens", "6"]
    assert cli.main([*command, "--engine", "vllm", "--dtype", "float32", "--seed", "3", "--temperature", "0.7"]) == 0
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    tokenizer = weights.load_tokenizer(folder)
    ids = prompt_ids(tokenizer, (first["prompt"][:1], [{"role": "user", "content": "Go."}]))
    found = sample(Vllm(folder, "float32"), ids, 1, 6, tokenizer.eos_token_id, seed=3, temperature=0.7)
    said = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in found.tokens]
    assert [first["prompt"][1]["content"], second["response"]] == said
    assert len(LLM.started) == 2  # one for all turns of the command, and that of this test


def test_the_student_writes_by_it_once_for_adpa(folder, tmp_path):
    rows = [{"prompt": f"Say {at}", "chosen": f"{at}", "rejected": "no"} for at in range(6)]
    data, kept = lines(tmp_path / "pairs.jsonl", rows), tmp_path / "kept"
    asked = {**QUICK, "student": folder, "data": data, "cache_teachers": kept, "teacher": "tiny-truth",
             "reference": "tiny-base", "max_length": 60, "responses": 2}  # fmt: skip
    own = training.train("adpa", out=tmp_path / "own", **asked)
    assert not LLM.started
    record = training.train("adpa", out=tmp_path / "one", engine="vllm", **asked)
    (started,) = LLM.started
    assert len(started.asked) == record["data"]["training"]["pairs"] + record["data"]["heldout"]["pairs"]
    assert {one.n for one in started.asked} == {2}
    assert record["files"] != own["files"]
    assert training.train("adpa", out=tmp_path / "two", engine="vllm", **asked)["files"] == record["files"]
    assert len(LLM.started) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "other"}, "engine must be one of own, vllm"),
        ({"method": "dpo"}, "engine: dpo samples nothing beforehand"),
        ({"method": "adpa_plus"}, "engine: vLLM reads whole models, and DCKD leaves an adapter; add --merge"),
        ({"student": "tiny-student"}, "engine: vLLM reads a model of the hub or a folder with config.json"),
        ({"student": f"healed:a/b@{40 * 'c'}"}, "engine: vLLM reads a model of the hub or a folder with config.json"),
    ],
)
def test_what_it_cannot_do_in_a_training_is_refused(options, words, folder, tmp_path):
    asked = {"method": "adpa", "student": folder, "engine": "vllm", "data": "none.jsonl", **options}
    if asked["method"] != "dpo":
        asked |= {"teacher": "tiny-truth", "reference": "tiny-base"}
    with pytest.raises(BadInput, match=words):
        training.train(out=tmp_path / "out", **asked)


def test_without_it_and_from_several_processes_it_is_refused(folder, tmp_path, monkeypatch):
    asked = {"prompts": tmp_path / "none.jsonl", "out": tmp_path / "out", "engine": "vllm"}
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(BadInput, match="engine: vLLM is started from one process"):
            sample_to(folder, **asked)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(BadInput, match="engine: vLLM is not installed; pip install vllm brings it"):
        sample_to(folder, **asked)
