"""What notebook 05 shows: layer cuts, one row for several contexts; and its hints."""

import pytest
import torch
from matplotlib.colors import to_hex
from transformers import LlamaConfig, LlamaForCausalLM

from alignkd_lab.course.exercises.ask import task
from alignkd_lab.course.explorers import layer_cuts
from alignkd_lab.course.explorers.layer_cuts import CUTS
from alignkd_lab.course.shipped import measured_influence
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.student import layer_cut
from alignkd_lab.plots.style import number

OPTIONS = task("layers_to_drop").options
FOUND = {"first": -11.0, "middle": -7.0, "last": -21.0, "every second": -13.0}


def test_of_the_cuts_of_fourteen_layers_the_middle_turns_the_state_least_and_not_by_a_hair():
    assert set(CUTS) == set(OPTIONS)
    assert all(len(set(dropped) & set(range(30))) == len(dropped) == 14 for dropped in CUTS.values())
    influence = measured_influence()
    summed = {name: sum(influence[layer] for layer in dropped) for name, dropped in CUTS.items()}
    assert min(summed, key=summed.get) == task("layers_to_drop").outcome()
    assert summed["middle"] < 0.8 * min(value for name, value in summed.items() if name != "middle")


def test_recalls_are_those_of_the_cuts():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, vocab_size=50, **sizes)).eval()
    samples = sample(model, [[5, 6], [7]], 2, 3, eos=-1, seed=0)
    found = layer_cuts.recalls(model, samples)
    kept = [layer for layer in range(30) if layer not in CUTS["every second"]]
    assert set(found) == set(CUTS)
    assert found["every second"] == pytest.approx(pooled_mean(score(layer_cut(model, kept), samples)))
    assert model.config.num_hidden_layers == len(model.model.layers) == 30


def test_the_picture_shows_every_layer_s_influence_and_which_layers_each_cut_drops():
    influence = measured_influence()
    bars, cuts = layer_cuts.draw(influence, FOUND, -2.5, OPTIONS).axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(influence)
    best_first = sorted(FOUND, key=FOUND.get, reverse=True)
    assert [label.get_text() for label in cuts.get_yticklabels()] == [f"without {OPTIONS[name]}" for name in best_first]
    for name, row, words in zip(best_first, cuts.collections, cuts.texts, strict=True):
        grey = [to_hex(colour).upper() == layer_cuts.DROPPED for colour in row.get_facecolors()]
        assert grey == [layer in CUTS[name] for layer in range(30)]
        assert words.get_text().endswith(f"recall {number(FOUND[name])}")
