"""One's own model in a folder: its tokenizer, its template and its head are taken as they are meant, or refused."""

import json

import pytest
import transformers
from own_models import CHATML, INST, OWN, STRICT, adapted, save, tokenizer_of
from peft import LoraConfig
from tiny_lm import small

from alignkd_lab import experiment, records
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import student, weights
from alignkd_lab.lm.preference_data import load_preferences, to_examples
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.templates import COURSE, encode, end_ids, fit, frame_of
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.store import Store

# Templates --------------------------------------------------------------------------------------------

NAMED = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\n"
    f"{NAMED}<|im_end|>\n' "
    "}}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_and_its_system_text_stay_as_they_are_and_its_end_of_turn_ends_a_response():
    found = fit(tokenizer_of(OWN), ends=(0,))
    assert found.chat_template == OWN
    assert (found.eos_token, end_ids(found)) == ("<|im_end|>", [0, 1, 3])
    assert found.pad_token_id is not None


def test_the_courses_template_is_smollm2s_alone():
    found = fit(tokenizer_of(SMOLLM2))
    assert (found.chat_template, found.eos_token, found.pad_token) == (COURSE, "<|im_end|>", "<|endoftext|>")
    briefed = SMOLLM2.replace("['content'] +", "['content'] + ('/think' if message['role'] == 'system' else '') +")
    for own in (OWN.replace("Be brief.", NAMED), briefed):
        assert fit(tokenizer_of(own)).chat_template == own


def test_a_tokenizer_without_a_template_reads_plain_text():
    found = fit(tokenizer_of(None))
    ids = encode(found, ["Why?"])[0]
    assert found.decode(ids) == "Why?\n"
    assert frame_of(found) == (found.eos_token, found.eos_token_id)


def test_what_begins_every_text_begins_a_plain_one_once():
    found = tokenizer_of(None, bos_token="<|im_start|>")
    found.backend_tokenizer.post_processor = transformers.tokenization_utils_tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 2)]
    )
    assert encode(fit(found), ["a"])[0].count(2) == 1


@pytest.mark.parametrize("template", [CHATML, OWN, INST, STRICT, None])
@pytest.mark.parametrize("fitted", [True, False])
def test_prompt_and_response_are_the_conversation_as_the_template_renders_it(template, fitted, tmp_path):
    found, row = tokenizer_of(template), {"prompt": "Why?", "chosen": "a", "rejected": "b"}
    if fitted or not template:
        fit(found)
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    encoded = to_examples(
        load_preferences(tmp_path / "pairs.jsonl"), found, max_prompt_tokens=99, max_response_tokens=9
    )
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "a"}]
    whole = found.apply_chat_template(turns, tokenize=False)
    (example,) = encoded.examples
    assert found.decode([*example.prompt, *example.responses[0]]) == whole.rstrip("\n")


# Folders ----------------------------------------------------------------------------------------------


def test_every_end_of_the_generation_config_ends_a_sampled_response(tmp_path):
    model, tokenizer = weights.load(save(tmp_path, ends=[1, 0, 40]))
    assert end_ids(tokenizer) == [0, 1, 3, 40]
    drawn = sample(model, [[5, 6]], 40, 60, end_ids(tokenizer), seed=0)
    assert {0, 1, 3, 40} == {tokens[-1] for tokens in drawn.tokens if len(tokens) < 60}
    assert not any({0, 1, 3, 40} & {*tokens[:-1]} for tokens in drawn.tokens)


def test_rows_of_a_head_that_no_token_has_are_cut(tmp_path):
    padded, whole = (weights.load(save(tmp_path / str(rows), "Phi", rows=rows))[0] for rows in (300, 260))
    assert padded.get_output_embeddings().weight.shape == whole.get_output_embeddings().weight.shape
    assert len(padded.get_output_embeddings().bias) == padded.config.vocab_size == 260


def test_an_adapter_fills_rows_that_its_base_has_for_no_token_and_ends_where_its_base_ends(tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    folder = adapted(tmp_path, "base", config, rows=300, ends=[1, 0, 40])
    tokenizer = tokenizer_of(CHATML)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)
    model, tokenizer = weights.load(str(folder))
    assert model.config.vocab_size == 261
    assert end_ids(tokenizer) == [0, 1, 3, 40]


def test_gemma_2_is_read_with_the_attention_that_knows_its_cap(tmp_path):
    assert weights.load(save(tmp_path, "Gemma2"))[0].config._attn_implementation == "eager"


# Runs -------------------------------------------------------------------------------------------------


def test_two_tokenizers_of_one_size_are_refused_before_a_model_is_read(tmp_path, monkeypatch):
    base, other = save(tmp_path / "base"), save(tmp_path / "student", swap=True)
    monkeypatch.setattr(weights, "load", lambda *given: pytest.fail("a model was read"))
    with pytest.raises(BadInput, match="vocabulary: 2 of 260 ids differ"):
        LmWorld(small(base=base, truth=base, student=other), "dpo", 0, Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("kind", "words"), [("GPT2", "GPT2LMHeadModel has no blocks"), ("Gemma4Text", "a layer cut of .* does not run")]
)
def test_a_base_that_cannot_be_cut_is_refused_before_it_is_sampled(kind, words, tmp_path, monkeypatch):
    monkeypatch.setattr(student, "sample", lambda *given, **more: pytest.fail("something was sampled"))
    with pytest.raises(BadInput, match=words):
        student.heal(save(tmp_path / "base", kind), 1, tmp_path / "out")


def run(folder, pipelines=("kd_then_align", "adpa"), **sources):
    return experiment.run_experiment(
        world="lm", preset="tiny", pipelines=pipelines, yardsticks=(), seeds=[0], out=folder / "out",
        overrides={**sources, "preference_prompts": 4, "distil_prompts": 4, "test_prompts": 2, "align_steps": 2},
    )  # fmt: skip


def test_a_run_goes_through_on_gpt_2_and_gpt_neox(tmp_path):
    run(tmp_path, base=save(tmp_path / "base"), student=save(tmp_path / "student", "GPTNeoX", rows=300))
    found = records.load(tmp_path / "out")
    assert {*found.metrics["pipeline"]} == {"kd_then_align", "adpa"}
    assert (found.stages.groupby("pipeline")["informative_pairs"].max() > 0).all()
