"""The reward model: one number a pair, whatever it is read together with, and no random head by accident."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import folder_of
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    Gemma3Config,
    Gemma3ForSequenceClassification,
    LlamaConfig,
)
from transformers import LlamaForSequenceClassification as Llama

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import weights
from alignkd_lab.lm.reward_model import RewardModel
from alignkd_lab.lm.rewards import scorer
from alignkd_lab.memory import shortages

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
PROMPTS = ["Name a bird.", "Name a much longer thing, please, and say why.", TURNS, "Name a bird.", "Count."]
RESPONSES = ["A wren.", "No.", "Because it is long, and longer, and longer still.", "A gull!", "1 2 3"]


def saved(folder, *, chat=True, labels=1, pad=0, **changes):
    """A folder with a random two-layer Llama classifier over bytes."""
    tokenizer = weights.load_tokenizer("tiny-base")
    if not chat:
        tokenizer.chat_template = None
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, num_labels=labels, pad_token_id=pad, bos_token_id=1,
        eos_token_id=2, **changes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        Llama(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("reward"))


@pytest.fixture
def one_by_one(device):
    """Oracle: each pair alone, nothing padded, the score at its very last token."""

    def score(folder, prompts=PROMPTS, responses=RESPONSES):
        model = Llama.from_pretrained(folder).to(device).eval()
        tokenizer = weights.load_tokenizer("tiny-base")
        found = []
        for prompt, response in zip(prompts, responses, strict=True):
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            turns = [*turns, {"role": "assistant", "content": response}]
            text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
            ids = torch.tensor([tokenizer(text).input_ids], device=device)
            with torch.no_grad():
                found.append(model.score(model.model(ids).last_hidden_state[0, -1]).item())
        return found

    return score


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 64])
def test_a_score_is_the_logit_at_the_end_of_the_chat_whatever_the_batch(folder, one_by_one, batch, device):
    model = RewardModel(folder, device=device)
    model.batch = batch
    scores = model(PROMPTS, RESPONSES)
    assert scores == pytest.approx(one_by_one(folder), abs=1e-5)
    assert len({round(score, 3) for score in scores}) == len(PROMPTS)


@pytest.mark.parametrize("pad", [1, None])
def test_the_pad_id_is_the_models_own_if_any_and_not_the_tokenizers(pad, tmp_path, one_by_one, device):
    folder = saved(tmp_path, pad=pad)  # the tokenizer pads with 0
    assert RewardModel(folder, device=device)(PROMPTS, RESPONSES) == pytest.approx(one_by_one(folder), abs=1e-5)


def test_without_a_pad_id_no_end_of_a_row_is_taken_for_padding(tmp_path, device):
    folder = saved(tmp_path, pad=None, chat=False)
    # Without a template a row ends with its response: here with the tokens of the lowest ids.
    prompts, responses = ["a"] * 3, ["<|endoftext|>", "b<|im_start|>", "b" * 9]
    model, tokenizer = Llama.from_pretrained(folder), weights.load_tokenizer("tiny-base")
    expected = []
    for response in responses:
        ids = torch.tensor([tokenizer("a" + response).input_ids])
        with torch.no_grad():
            expected.append(model(ids).logits.item())
    assert RewardModel(folder, device=device)(prompts, responses) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_without_a_chat_template_the_texts_go_in_as_a_pair(tmp_path, device):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "name", "a", "bird", "wren", "gull", "."]
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts, responses = ["name a bird.", "name a wren gull bird."], ["a wren gull gull.", "wren"]
    with torch.no_grad():
        expected = [
            model(**tokenizer(prompt, response, return_tensors="pt")).logits.item()
            for prompt, response in zip(prompts, responses, strict=True)
        ]
    assert RewardModel(str(tmp_path), device=device)(prompts, responses) == pytest.approx(expected, abs=1e-5)


def test_a_model_that_was_saved_anew_scores_anew(tmp_path):
    source, path = f"model:{saved(tmp_path)}", tmp_path / "model.safetensors"
    before, held = scorer(source, "cpu")(["a"], ["b"]), load_file(path)
    save_file({**held, "score.weight": -held["score.weight"]}, path, metadata={"format": "pt"})
    assert scorer(source, "cpu")(["a"], ["b"]) == pytest.approx([-before[0]])


def test_what_cannot_be_scored_is_refused_by_name(tmp_path):
    model = RewardModel(saved(tmp_path, max_position_embeddings=200))
    assert model([], []) == []
    with pytest.raises(BadInput, match="5 prompts and 4 responses"):
        model(PROMPTS, RESPONSES[:4])
    with pytest.raises(BadInput, match=r"response 2 have \d+ tokens together, .* at most 200"):
        model(["a", "b"], ["c", "d" * 190])
    model.model.score.weight.data[0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"gives nan for response 1, 'A wren.'"):
        model(PROMPTS, RESPONSES)
    model.tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(BadInput, match="refuses a prompt"):
        model(["a"], ["b"])


def test_a_model_of_text_and_images_reads_as_many_tokens_as_its_text_model(tmp_path):
    tokenizer, shape = weights.load_tokenizer("tiny-base"), {"hidden_size": 16, "num_hidden_layers": 1}
    text = {**shape, "vocab_size": len(tokenizer), "num_attention_heads": 2, "head_dim": 8,
            "intermediate_size": 16, "max_position_embeddings": 64}  # fmt: skip
    images = {**shape, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 28}
    config = Gemma3Config(text_config=text, vision_config=images, mm_tokens_per_image=4, num_labels=1)
    for part in (Gemma3ForSequenceClassification(config), tokenizer):
        part.save_pretrained(tmp_path)
    assert RewardModel(str(tmp_path)).longest == 64


def headless(folder):
    saved(folder)
    kept = {name: value for name, value in load_file(folder / "model.safetensors").items() if "score" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def with_code(folder):
    saved(folder)
    own = {"model_type": "gated-reward", "auto_map": {"AutoConfig": "modeling.GatedConfig"}}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | own))


def torn(folder, name="model.safetensors"):
    saved(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:64])


BROKEN = {
    "cannot be read": torn,
    "2 outputs": lambda folder: saved(folder, labels=2),
    "is LlamaForCausalLM": lambda folder: folder_of("tiny-base", folder),  # which would get a random head
    "no weights for score": headless,
    "reads no configuration from": with_code,
    "not a valid JSON": lambda folder: torn(folder, "config.json"),
    "is an adapter; merge it": lambda folder: (folder / "adapter_config.json").write_text("{}"),
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_is_no_classifier_with_one_output_is_refused(words, tmp_path):
    BROKEN[words](tmp_path)
    with pytest.raises(BadInput, match=words):
        RewardModel(str(tmp_path))


@pytest.mark.parametrize("limit", [3, 1, 0])
def test_where_memory_runs_out_fewer_pairs_are_read_together(folder, one_by_one, limit, device):
    model = RewardModel(folder, device=device)
    forward = model.model.forward

    def limited(input_ids, **rest):
        if len(input_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **rest)

    model.model.forward = limited
    if not limit:
        with pytest.raises(CannotContinue, match="choose a smaller reward model"):
            model(PROMPTS, RESPONSES)
        return
    with shortages() as found:
        scores = model(PROMPTS, RESPONSES)
    assert scores == pytest.approx(one_by_one(folder), abs=1e-4)
    assert found["reward_batch"] == model.batch <= limit
