"""Whatever the architecture, the fast path computes what `model(ids).logits` says; the check sees what is broken."""

import copy
import warnings
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_lm import away_from_zero, log_prob, log_probs, said, said_of
from torch.testing import assert_close

from alignkd_lab import nano
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import admission, architecture, batch, chunked, sampling, teachers, training_losses, weights
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import backbone, head_of
from alignkd_lab.lm.batch import Example, collate, token_counts
from alignkd_lab.lm.sampling import Samples, draw, sample
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.student import block_influence, layer_cut
from alignkd_lab.lm.teacher_cache import cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.trainer import adapter_tensors, merge_adapter, train, with_lora

SIZE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
NEAR = {"sliding_window": 8}
GEMMA = {**NEAR, "head_dim": 16, "query_pre_attn_scalar": 16}
MADE = {
    "Llama": {}, "Llama, tied": {"tie_word_embeddings": True}, "Qwen2": {}, "Qwen3": {"head_dim": 16}, "Mistral": NEAR,
    "Gemma2": {**GEMMA, "final_logit_softcapping": 8.0, "attn_logit_softcapping": 5.0}, "Gemma3Text": GEMMA,
    "Phi": {"num_key_value_heads": 2}, "Phi3": NEAR, "GPT2": {}, "GPTNeoX": {}, "OPT": {"ffn_dim": 48}, "Olmo2": {},
    "Granite": {"logits_scaling": 4.0}, "Cohere": {"logit_scale": 0.25}, "Cohere2": {**NEAR, "logit_scale": 0.25},
    "StableLm": {}, "Starcoder2": NEAR, "Falcon": {}, "SmolLM3": {"no_rope_layers": [1, 1, 0]}, "Nemotron": {},
    "GPTJ": {"rotary_dim": 8},
}  # fmt: skip
REFUSED = ("Bloom", "Mpt", "Mixtral")  # `bad_inputs.py` has more
PROMPTS = [[5, 9, 3, 7, 11, 30, 31, 8, 4, 6, 12, 13], [3, 4, 5]]
ANSWERS = [[[14, 5, 6, 7, 8, 39, 17, 20, 2], [9, 21, 2]], [[6, 6, 2], [33, 12]]]
PAIRS = [
    Example(prompt, tokens, ["chosen", "rejected"], reference_log_probs=[-40.0, -9.0])
    for prompt, tokens in zip(PROMPTS, ANSWERS, strict=True)
]
WRITTEN = [Example(prompt, tokens, ["chosen", "sampled"]) for prompt, tokens in zip(PROMPTS, ANSWERS, strict=True)]


def make(name, changes=None, spread=5.0, seed=0, **size):
    """A random model whose logits have a standard deviation of at least `spread`: a difference shows.

    In float64; Gemma-2 in float32, since its softmax is, and makes NaN of a float64 mask's least number.
    """
    settings = {**SIZE, **MADE.get(name, {}), **(changes or {}), **size}
    config = getattr(transformers, f"{name.split(',')[0]}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).to(precision(name)).eval()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if weight.ndim > 1:
                    weight *= 8
                elif "bias" in key:
                    weight += 0.5 * torch.randn_like(weight)
            head = model.get_output_embeddings().weight
            while spread and logits(model, PROMPTS[0]).std() < spread:
                head *= 1.5
    return model


def precision(name):
    return torch.float64 if name in MADE and name != "Gemma2" else torch.float32


def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]


@cache
def fixed(name, **changes):
    return make(name, changes)


def adapted(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return away_from_zero(with_lora(copy.deepcopy(fixed(name)), 2), 0.02, seed=1)


@cache
def tutor(seed, dtype):
    """A teacher of another architecture, width and depth, with a bias on its head."""
    return admit(
        make("Phi", {"num_hidden_layers": 2, "hidden_size": 16, "num_key_value_heads": 2}, seed=seed).to(dtype)
    )


@pytest.mark.parametrize("name", MADE)
def test_a_model_is_admitted_and_scored_as_its_logits_say(name):
    model = admit(fixed(name))
    assert logits(model, PROMPTS[0]).std() >= 4
    samples = Samples(PROMPTS, [1, 0, 1, 0], [ANSWERS[1][0], ANSWERS[0][0], [2], ANSWERS[0][1]])
    for number, found in enumerate(score(model, samples)):
        expected = log_probs(model, PROMPTS[samples.prompt_of[number]], samples.tokens[number])
        assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_a_model_is_sampled_as_its_logits_say(name):
    model, ends = fixed(name), [2, 3, 17]
    drawn = sample(model, PROMPTS, 2, 12, ends, seed=3)
    uniform = torch.rand(4, 12, generator=torch.Generator().manual_seed(3))
    for row, tokens in enumerate(drawn.tokens):
        expected = said(model, PROMPTS[drawn.prompt_of[row]], tokens)
        assert draw(expected, 1.0, uniform[row, : len(tokens)]).tolist() == tokens
        assert_close(drawn.log_probs[row], expected.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).float())
        assert not {*tokens[:-1]} & {*ends}
        assert tokens[-1] in ends or len(tokens) == 12


def dpo_by_hand(model):
    own = torch.stack([log_probs(model, row.prompt, tokens).sum() for row in PAIRS for tokens in row.responses])
    return nano.dpo_loss(own[0::2], own[1::2], torch.tensor(-40.0), torch.tensor(-9.0), 0.1)


def kd_by_hand(model):
    return nano.kd_loss(*(said_of(one, WRITTEN) for one in (model, tutor(1, model.dtype))), "forward")


def adpa_by_hand(model):
    taught = (said_of(tutor(seed, model.dtype), WRITTEN, "sampled") for seed in (1, 2))
    tokens = torch.tensor([token for row in WRITTEN for token in row.responses[0]])
    own, written = (said_of(model, WRITTEN, role) for role in ("chosen", "sampled"))
    return nano.adpa_loss(own, tokens, written, *taught, 1.5)


def step(loss, examples, model):
    with torch.no_grad():
        inputs = collate(examples)
    return loss(model, inputs, token_counts(examples))[0]


def kd(model, inputs, items):
    with torch.no_grad():
        inputs["signals"] = {"teacher": {"hidden": batch.hidden_states(tutor(1, model.dtype), inputs)}}
    carried = training_losses.carried(head_of(tutor(1, model.dtype)).detach())
    return training_losses.asking("kd", carried)(model, inputs, items)


def adpa(model, inputs, items):
    signals = {
        name: LiveTeacher(tutor(seed, model.dtype)).signal(inputs, roles=("sampled",))
        for name, seed in {"teacher": 1, "reference": 2}.items()
    }
    return training_losses.adpa(model, inputs, items, **signals, gamma=1.5)


STEPS = {
    "dpo": (partial(step, partial(training_losses.dpo, beta=0.1), PAIRS), dpo_by_hand),
    "kd": (partial(step, kd, WRITTEN), kd_by_hand),
    "adpa": (partial(step, adpa, WRITTEN), adpa_by_hand),
}


@pytest.mark.parametrize("name", MADE)
def test_steps_of_dpo_kd_and_adpa_and_the_adapter_are_those_of_the_plain_computation(name):
    model = adapted(name)
    core, loose = model.get_base_model(), 1 if precision(name) == torch.float64 else 1e3
    close = loose * (1e-8 if name == "GPTJ" else 1e-9)  # it rotates in float32, whose rounding differs by processor
    linear = {
        key for key, layer in fixed(name).named_modules()
        if isinstance(layer, admission.Conv1D | torch.nn.Linear) and layer is not fixed(name).get_output_embeddings()
    }  # fmt: skip
    assert {key.rsplit(".", 1)[0] for key in adapter_tensors(model)} == linear
    for ours, by_hand in STEPS.values():
        grads = []
        for loss in (ours, by_hand):
            model.zero_grad()
            value = loss(model.train() if loss is ours else core.eval())
            value.backward()
            grads.append(
                (value.detach(), {key: w.grad.clone() for key, w in model.named_parameters() if w.requires_grad})
            )
        (found, by_ours), (expected, plainly) = grads
        assert_close(found.double(), expected.double(), rtol=close, atol=close)
        largest = max(grad.abs().max() for grad in plainly.values())
        assert largest > 1e-4
        assert_close(by_ours, plainly, rtol=loose * 1e-5, atol=float(loose * 1e-6 * largest))
    merged = copy.deepcopy(fixed(name))
    merge_adapter(merged, {key: tensor.double() for key, tensor in adapter_tensors(model, torch.float64).items()})
    assert_close(logits(merged, PROMPTS[0]), logits(core.eval(), PROMPTS[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(name):
    with pytest.raises(BadInput, match=rf"{name} .*|{name}: LoRA does not reach"):
        admit(make(name, spread=0), name, adapted=True)


@pytest.mark.parametrize("name", ["Qwen3", "Gemma3Text", "Cohere2", "Granite", "SmolLM3"])
def test_a_cut_of_some_layers_is_the_model_without_the_others_also_when_saved(name, tmp_path):
    model = fixed(name)
    assert_close(logits(layer_cut(model, [0, 1, 2]), PROMPTS[0]), logits(model, PROMPTS[0]))
    cut, config = layer_cut(model, [0, 2]), model.config
    of_layers = {key: getattr(config, key, None) for key in ("layer_types", "no_rope_layers")}
    kept = {key: [value[0], value[2]] for key, value in of_layers.items() if value}
    shallow = make(name, kept, num_hidden_layers=2)
    weights = {
        key.replace("layers.2.", "layers.1."): w for key, w in model.state_dict().items() if "layers.1." not in key
    }
    shallow.load_state_dict(weights)
    assert_close(logits(admit(cut), PROMPTS[0]), logits(shallow, PROMPTS[0]))
    cut.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=cut.dtype).eval()
    assert_close(logits(again, PROMPTS[0]), logits(shallow, PROMPTS[0]), rtol=1e-3, atol=1e-4)


def test_the_influence_of_blocks_whose_norm_serves_elsewhere_is_not_measured():
    with pytest.raises(BadInput, match="the final norm of NanoChatForCausalLM serves elsewhere"):
        block_influence(make("NanoChat"), PAIRS)


# The check bites --------------------------------------------------------------------------------------


def uncapped(head):
    return getattr(head, "weight", head), None


def without_norm(model):
    core, norm = backbone(model), torch.nn.Identity()

    def run(**inputs):
        kept, core.norm = core.norm, norm
        try:
            return core(**inputs)
        finally:
            core.norm = kept

    return run


def leaking(model, mask, positions):
    return architecture.masks(model, torch.ones_like(mask).tril(), positions)


def plainly(model, mask, positions):
    return mask


def unbiased(model):
    return torch.cat([architecture.head_of(model)[:, :-1], torch.zeros(40, 1)], 1)


def unscaled(model, states):
    return states


BROKEN = {
    "cap": ("Gemma2", [(module, "parts_of", uncapped) for module in (admission, chunked, sampling)], "head"),
    "scale": ("Granite", [(batch, "to_head", unscaled)], "head"),
    "bias": ("Phi", [(admission, "head_of", unbiased)], "head"),
    "window": ("Mistral", [(batch, "masks", plainly)], "window"),
    "windows of some layers": ("Gemma3Text", [(batch, "masks", plainly)], "window"),
    "norm": ("Llama", [(batch, "backbone", without_norm)], "head"),
    "packing": ("Qwen2", [(batch, "masks", leaking)], "packed rows"),
    "eager": ("GPTJ", [(batch, "masks", plainly)], "takes no mask"),
    "sampling": ("Cohere", [(sampling, "to_head", unscaled)], "sampling"),
    "dropout": ("Llama", [(admission, "without_dropout", lambda model: model)], "dropout"),
}


@pytest.mark.parametrize("feature", BROKEN)
def test_a_feature_broken_on_purpose_is_seen(feature, monkeypatch):
    name, patches, cause = BROKEN[feature]
    model = make(name, {"attention_dropout": 0.2} if feature == "dropout" else None).float()
    for module, attribute, value in patches:
        monkeypatch.setattr(module, attribute, value)
    with pytest.raises(BadInput, match=cause):
        admit(model, "mine")
    monkeypatch.undo()
    assert admit(model).admitted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits_rounding_passes_and_a_broken_head_does_not(dtype, monkeypatch):
    assert admit(make("Granite").to(dtype)).admitted
    monkeypatch.setattr(batch, "to_head", unscaled)
    with pytest.raises(BadInput, match="head"):
        admit(make("Granite").to(dtype))


def test_products_in_sixteen_bits_are_no_difference():
    with torch.autocast("cpu", torch.bfloat16):
        assert admit(make("Llama").float()).admitted


def test_a_window_is_checked_once_a_text_can_reach_beyond_it(monkeypatch):
    model = admit(make("Mistral", {"sliding_window": 40}, max_position_embeddings=256))
    assert model.admitted == admission.LENGTH
    monkeypatch.setattr(batch, "masks", plainly)
    assert admit(model, reach=40)
    with pytest.raises(BadInput, match="window"):
        admit(model, reach=60)


def test_a_text_longer_than_the_model_reads_is_refused():
    with pytest.raises(BadInput, match="up to 65 tokens are asked for, and it reads at most 64"):
        admit(make("GPT2"), reach=65)


def test_a_model_and_its_copies_are_checked_once(monkeypatch):
    model = admit(make("Llama"))
    monkeypatch.setattr(admission, "_compare", lambda *given: pytest.fail("checked again"))
    admit(copy.deepcopy(model), reach=50)


# Dropout, training, teachers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"), [("Llama", {"attention_dropout": 0.2}), ("GPT2", {}), ("OPT", {"layerdrop": 0.5})]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dpo_begins_at_log_2_on_a_model_with_dropout(name, changes, checkpointing):
    model = make(name, changes).float()
    examples = [
        replace(row, reference_log_probs=[log_prob(model, row.prompt, tokens) for tokens in row.responses])
        for row in PAIRS
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        infos = train(
            with_lora(model, 2), examples, partial(training_losses.dpo, beta=0.1), learning_rate=1e-3, steps=1, batch=2,
            seed=0, gradient_checkpointing=checkpointing,
        )  # fmt: skip
    assert infos[0][0] == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize("unknown", [40, -100])
def test_an_id_that_is_not_the_models_is_refused_before_training(unknown):
    with pytest.raises(BadInput, match=f"example 1 holds the id {unknown}, and the model knows 40"):
        train(make("Llama"), [WRITTEN[0], Example([unknown], [[3]])], training_losses.nll, learning_rate=1e-3, steps=1,
              batch=2, seed=0)  # fmt: skip


@pytest.mark.parametrize("name", ["Gemma2", "Phi", "Granite"])
def test_a_cached_teacher_says_what_a_live_one_does(name, tmp_path):
    model = copy.deepcopy(fixed(name)).float()
    live, examples = LiveTeacher(model), [Example(row.prompt, row.responses) for row in PAIRS]
    kept = cache_teacher(live, examples, tmp_path / "kept")
    inputs = collate(examples)
    for signal in (live.signal(inputs), kept.signal(inputs)):
        expected = said_of(model, examples)
        assert_close(signal.over_vocabulary(slice(None)), expected.float(), rtol=1e-4, atol=1e-4)
        assert_close(teachers.advantage(signal, signal, slice(None)), torch.zeros(len(expected), 40), atol=1e-4, rtol=0)


def test_student_and_teacher_of_two_tokenizers_of_one_size_cannot_read_one_batch(tmp_path):
    student, _ = weights.load("tiny-student")
    teacher, tokenizer = weights.load("tiny-base")
    inputs = collate([Example([3, 4], [[5, 2]])])
    batch.hidden_states(student, inputs)
    LiveTeacher(copy.deepcopy(teacher)).signal(inputs)
    ids = tokenizer.get_vocab()
    swapped = SimpleNamespace(get_vocab=lambda: ids | {"A": ids["B"], "B": ids["A"]})
    teacher.vocabulary = type(teacher.vocabulary)(swapped)
    examples = [Example([3, 4], [[5, 2]])]
    cached = cache_teacher(LiveTeacher(teacher), examples, tmp_path / "kept")
    for asked in (LiveTeacher(teacher), cached):
        inputs = collate(examples)
        asked.signal(inputs)
        with pytest.raises(BadInput, match="vocabulary: 2 of 259 ids differ"):
            batch.hidden_states(student, inputs)
