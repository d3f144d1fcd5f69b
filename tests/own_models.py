"""Models of one's own, made on the spot: random weights, a byte tokenizer and a template, whole or broken."""

from __future__ import annotations

import json
from functools import partial

import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HEADED = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML = HEADED + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
OWN = "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
CLOSED = CHATML.replace("assistant\n{% endif", "helper\n{% endif")
DEAF = "<|im_start|>{% if add_generation_prompt %}{% endif %}"
RAISING = "{{ raise_exception('no') }}"
STRICT = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"


def tokenizer_of(template, eos="</s>", swap=False, **special):
    tokens = ["<|endoftext|>", "</s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if swap:
        tokens[70:72] = tokens[71], tokens[70]
    backend = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(tokens[:4])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, **special)
    made.chat_template = template
    return made


def save(folder, kind="GPT2", template=CHATML, rows=260, ends=None, **tokens):
    """A random model and its tokenizer in a folder, and the folder's name."""
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512}
    if kind.startswith("Gemma"):
        size |= {"num_key_value_heads": 1, "head_dim": 8}
    config = getattr(transformers, f"{kind}Config")(vocab_size=rows, intermediate_size=32, eos_token_id=1, **size)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer_of(template, **tokens).save_pretrained(folder)
    return str(folder)


def adapted(folder, base, config=None, **base_options):
    """An adapter (a LoRA of all linear layers unless `config` says else) of a base in `base` below its folder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(save(folder / base, "Llama", **base_options))
    config = config or LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def other(name, folder, **more):
    """A random model of a class that `save` does not make."""
    size = {"vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **more}
    config = getattr(transformers, f"{name.split('For')[0]}Config")(**size)
    getattr(transformers, name)(config).save_pretrained(folder)
    tokenizer_of(CHATML).save_pretrained(folder)


def foreign(folder):
    save(folder)
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the repository ran')")


def adapter(folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def torn_adapter(folder):
    adapted(folder, "base").joinpath("adapter_model.safetensors").write_bytes(b"torn")


def prompt_adapter(folder):
    adapted(folder, "base", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def overwritten(name, text, folder):
    save(folder)
    (folder / name).write_text(text)


def diverged(folder):
    save(folder, "Llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[0] = torch.nan
    model.save_pretrained(folder)


def pickled(folder):
    save(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def torn(folder):
    save(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


SCORING = {"tie_word_embeddings": False, "num_labels": 1}
EXPERTS = {"num_key_value_heads": 1, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
# How each is written, and what must be said of it.
BROKEN = {
    "a classifier": (partial(other, "GPT2ForSequenceClassification", **SCORING), "has no weights for lm_head"),
    "an encoder-decoder": (partial(other, "T5ForConditionalGeneration"), "is an encoder-decoder"),
    "code of its own": (foreign, "custom code"),
    "an adapter that is none": (adapter, "cannot be read as an adapter's"),
    "a torn adapter": (torn_adapter, "does not fit its base"),
    "an adapter of prompts": (prompt_adapter, "cannot be merged into weights"),
    "a model that diverged": (diverged, "no finite numbers"),
    "a torn generation configuration": (partial(overwritten, "generation_config.json", "{"), "not a valid JSON file"),
    "a width in words": (partial(overwritten, "config.json", '{"model_type": "gpt2", "n_embd": "wide"}'), "n_embd"),
    "a recurrent model": (partial(other, "MambaForCausalLM"), "mamba"),
    "a mixture of experts": (partial(other, "Qwen3MoeForCausalLM", **EXPERTS), "LoRA does not reach"),
    "pickled weights": (pickled, "safetensors"),
    "torn weights": (torn, "file not fully covered"),
    "fewer rows than tokens": (partial(save, rows=200), "has 260 tokens and the model reads 200"),
    "no end token": (partial(save, template=None, eos=None), "names no end token"),
    "no generation prompt": (partial(save, template=HEADED), "has no generation prompt"),
    "another generation prompt": (partial(save, template=CLOSED), "does not begin"),
    "a deaf template": (partial(save, template=DEAF), "does not render a question and its answer"),
    "a template that raises": (partial(save, template=RAISING), "fails on a question and its answer"),
    "a template that is none": (partial(save, template="{% for"), "template"),
}
