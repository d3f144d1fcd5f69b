"""The student: which layers are kept, what a cut changes and what it leaves, and how healing is kept and found."""

import functools
import json
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import assert_near, smollm2

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import student, weights
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.models import Models
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.student import Recipe, heal, healed_student, layer_cut, student_identity, write_student
from alignkd_lab.lm.templates import encode
from alignkd_lab.paths import data_folder

EXAMPLES = [Example([1, 60, 61], [[70, 71, 72], [73, 2]]), Example([1, 80, 81, 82, 83], [[90], [91, 92]])]


@pytest.fixture
def deep():
    """A random model of six layers, the third and the fifth of which do nothing."""
    config = weights.load("tiny-base")[0].config
    config.num_hidden_layers = 6
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = type(weights.load("tiny-base")[0])(config).eval()
    with torch.no_grad():
        for layer in (model.model.layers[2], model.model.layers[4]):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def logits(model, rows=((1, 60, 61, 70), (1, 80, 81, 82))):
    with torch.inference_mode():
        return model(torch.tensor(rows)).logits


# Cutting ----------------------------------------------------------------------------------------------


def test_influence_is_one_minus_the_mean_cosine_of_what_enters_and_leaves_a_layer(deep):
    found = student.block_influence(deep, EXAMPLES)
    deep.model.norm = torch.nn.Identity()  # after which transformers gives the last state
    expected, count = torch.zeros(6, dtype=torch.float64), 0
    for example in EXAMPLES:
        for number, tokens in enumerate(example.responses):
            # Every prompt is read once, and every response token but the last: the packed row holds no more.
            row, first = [*example.prompt, *tokens[:-1]], len(example.prompt) if number else 0
            with torch.inference_mode():
                states = deep.model(torch.tensor([row]), output_hidden_states=True).hidden_states
            count += len(row) - first
            for layer, (a, b) in enumerate(pairwise(state[0, first:].double() for state in states)):
                expected[layer] += (1 - torch.cosine_similarity(a, b, dim=-1)).sum()
    assert_near(found.double(), expected / count)


def test_a_layer_that_does_nothing_has_no_influence_and_goes_first_without_a_change(deep):
    influence, before = student.block_influence(deep, EXAMPLES), logits(deep)
    assert influence[[2, 4]].abs().max() < 1e-6
    assert student.choose_layers(deep, EXAMPLES, 4, influence, near=1.0) == [0, 1, 3, 5]
    assert not any(module._forward_pre_hooks for module in deep.modules())  # no trace of the measuring
    assert_near(logits(layer_cut(deep, [0, 1, 3, 5])), before)


def test_a_cut_is_a_copy_with_its_embeddings_tied_and_layers_that_make_no_sense_are_refused(deep):
    cut, before = layer_cut(deep, [1, 3]), logits(deep)
    assert cut.lm_head.weight is cut.model.embed_tokens.weight
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.add_(1.0)
    assert_near(logits(deep), before, 0)
    assert len(deep.model.layers) == deep.config.num_hidden_layers == 6
    for layers in ([], [3, 1], [1, 1], [-1, 2], [0, 6]):
        with pytest.raises(BadInput, match="0 to 5"):
            layer_cut(deep, layers)


def test_near_ties_in_influence_are_decided_by_the_recall_of_the_cut(deep):
    # Layer 2 does nothing and layer 1 does, but the figures claim that they are about equal.
    influence = torch.tensor([9.0, 1.0, 1.01, 9.0, 0.1, 9.0])
    rows = encode(weights.load_tokenizer("tiny-base"), prompts("healing", 6))
    written = sample(deep, rows, 4, 10, 2, seed=0)
    examples = [Example(row, written.tokens[4 * at : 4 * at + 4]) for at, row in enumerate(rows)]
    assert student.choose_layers(deep, examples, 4, influence) == [0, 1, 3, 5]
    assert student.choose_layers(deep, examples, 4, influence, near=1.0) == [0, 2, 3, 5]


# Keeping and finding ----------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(student, "data_folder", lambda: tmp_path / "data")
    return tmp_path


def adapter(seed=0):
    draw, name = torch.Generator().manual_seed(seed), "model.layers.0.mlp.down_proj"
    return {f"{name}.A": torch.randn(2, 64, generator=draw), f"{name}.B": torch.randn(32, 2, generator=draw)}


def shipped(folder, base="tiny-base", seed=0, **recipe):
    write_student(folder, adapter(seed), {"base_checksum": weights.checksum(base), "kept_layers": [1], **recipe})
    return folder


def test_the_healed_student_is_the_adapter_on_the_cut(places):
    shipped(places / "data" / "student")
    found = healed_student("tiny-base")
    cut = layer_cut(weights.load("tiny-base")[0], [1])
    with torch.no_grad():
        change = adapter()["model.layers.0.mlp.down_proj.B"] @ adapter()["model.layers.0.mlp.down_proj.A"]
        cut.model.layers[0].mlp.down_proj.weight += change
    torch.testing.assert_close(logits(found), logits(cut))
    assert not found.training


def test_a_student_healed_here_comes_before_the_shipped_one_and_none_is_taken_of_another_base_or_damaged(places):
    path = shipped(places / "data" / "student") / "adapter.safetensors"
    before = student_identity("tiny-base")
    here = shipped(student._cache("tiny-base"), seed=1)
    assert student_identity("tiny-base") != before
    with pytest.raises(CannotContinue, match=r"no healed student of tiny-truth.*alignkd heal --base tiny-truth"):
        healed_student("tiny-truth")
    shutil.rmtree(here)
    for harm in (lambda: save_file(adapter(seed=1), path), path.unlink):
        harm()
        with pytest.raises(CannotContinue, match=r"missing or damaged.*alignkd heal"):
            healed_student("tiny-base")


# Healing ----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(places, monkeypatch):
    """Healing in a second: few prompts, few steps, a base of two layers of which one is kept."""
    options = {"layers": 1, "rank": 8, "responses": 3, "max_tokens": 10, "steps": 60, "learning_rate": 1e-2}
    monkeypatch.setattr(student, "Recipe", functools.partial(Recipe, **options))
    real = student.prompts
    monkeypatch.setattr(student, "prompts", lambda split, all_frames: real(split, 24))
    return places


def test_healing_brings_the_cut_towards_its_base_the_same_every_time_and_the_result_is_found(quick):
    folder = heal("tiny-base")
    recipe = json.loads((folder / "recipe.json").read_text())
    recall = recipe["heldout_recall"]
    assert recall["cut"] < recall["healed"] < recall["base"]
    assert recall["healed"] - recall["cut"] > 0.3 * (recall["base"] - recall["cut"])
    assert recipe["gap"] == pytest.approx(recall["base"] - recall["healed"])
    assert recipe["cost"]["tokens"]["sampled"] > 0
    torch.manual_seed(2)
    again = load_file(heal("tiny-base", out=quick / "again") / "adapter.safetensors")
    assert all(torch.equal(again[name], value) for name, value in load_file(folder / "adapter.safetensors").items())
    # What was judged is what is found: the same samples under the student read back from the files.
    base, tokenizer = weights.load("tiny-base")
    asked = encode(tokenizer, prompts("validation", 24))
    heldout = sample(base, asked, 3, 10, tokenizer.eos_token_id, Recipe().heldout_seed)
    assert pooled_mean(score(healed_student("tiny-base"), heldout)) == pytest.approx(recall["healed"], abs=1e-5)
    assert student_identity("tiny-base") == f"sha256:{recipe['adapter_sha256']}"


def test_a_student_of_a_chosen_depth_is_kept_beside_the_usual_one(places):
    shipped(places / "data" / "student")
    usual = student_identity("tiny-base")
    with pytest.raises(CannotContinue, match=r"healed-2.*alignkd heal --base tiny-base --layers 2"):
        student_identity("tiny-base", "healed-2")
    shipped(student._cache("tiny-base", 2), seed=1, kept_layers=[0, 1], layers=2)
    assert healed_student("tiny-base", "healed-2").config.num_hidden_layers == 2
    assert student_identity("tiny-base", "healed-2") != usual == student_identity("tiny-base")
    policy = Policy("healed-2:tiny-base")
    torch.testing.assert_close(logits(Models().of(policy)), logits(healed_student("tiny-base", "healed-2")))
    shipped(places / "data" / "student", layers=1)
    assert student_identity("tiny-base", "healed-1") == student_identity("tiny-base")  # which has that depth


def test_below_the_bar_a_student_of_chosen_depth_is_made_once_and_used_and_the_usual_one_is_not(quick, monkeypatch):
    monkeypatch.setattr(student, "HEALING_BAR", 1e-4)
    monkeypatch.setattr(student, "Recipe", functools.partial(student.Recipe, steps=2))
    for _ in range(2):  # made, and then at hand
        with pytest.raises(CannotContinue, match=r"nats per token below the base's.*more than 1 layers"):
            student.ensure_healed_student("tiny-base", "healed", "cpu")
    student.ensure_healed_student("tiny-base", "healed-1", "cpu")
    made = student_identity("tiny-base", "healed-1")
    monkeypatch.setattr(student, "heal", lambda *given, **options: pytest.fail("healed again"))
    student.ensure_healed_student("tiny-base", "healed-1", "cpu")
    assert student_identity("tiny-base", "healed-1") == made


def test_more_layers_than_the_base_has_are_refused_before_anything_is_sampled(places, monkeypatch):
    monkeypatch.setattr(student, "sample", lambda *given, **options: pytest.fail("sampled"))
    with pytest.raises(BadInput, match="9 of 2 cannot be kept"):
        student.ensure_healed_student("tiny-base", "healed-9", "cpu")


# The real file ----------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.skipif(not (data_folder() / "student" / "recipe.json").is_file(), reason="no student is shipped yet")
def test_the_shipped_student_fits_its_base_and_meets_the_bar():
    folder = data_folder() / "student"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["base_checksum"] == weights.checksum(weights.BUILT_IN)
    assert recipe["gap"] <= student.HEALING_BAR
    assert (folder / "adapter.safetensors").stat().st_size <= 10_000_000
    assert len(recipe["kept_layers"]) == recipe["layers"]
    model, tokenizer = smollm2()
    found = layer_cut(model, recipe["kept_layers"])
    written = sample(model, encode(tokenizer, prompts("validation", 4)), 2, 20, tokenizer.eos_token_id, seed=1)
    cut = pooled_mean(score(found, written))
    student.merge_adapter(found, load_file(folder / "adapter.safetensors"))
    healed = pooled_mean(score(found, written))
    # Eight responses: the bar itself is judged on the recipe's own, larger sample.
    assert pooled_mean(written.log_probs) - healed < 1.5 * student.HEALING_BAR
    assert healed > cut + 0.5
