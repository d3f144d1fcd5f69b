"""What notebook 05 shows: layer cuts, one row for several contexts; and its hints."""

import pytest
import torch
from scene import Scene, value
from transformers import LlamaConfig, LlamaForCausalLM

from alignkd_lab.course.exercises.ask import task
from alignkd_lab.course.explorers import layer_cuts, one_row
from alignkd_lab.course.explorers.layer_cuts import CUTS
from alignkd_lab.course.shipped import measured_influence
from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.lm import weights
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


def test_the_words_give_the_cuts_by_influence_and_by_recall():
    words = layer_cuts.rankings(measured_influence(), FOUND)
    by_recall = ", ".join(sorted(FOUND, key=FOUND.get, reverse=True))
    assert words.startswith("From least influence to most: middle, ")
    assert words.endswith(f"From most recall to least: {by_recall}.")


@pytest.mark.parametrize("cut", [*CUTS, "shipped"])
def test_a_cut_s_layers_are_grey_and_its_recall_is_marked(cut):
    kept, influence = range(0, 30, 2), measured_influence()
    scene = Scene(layer_cuts.show(influence, kept, FOUND, -2.5, OPTIONS, cut=cut))
    bars = scene.places("rect")[0]
    goes = CUTS.get(cut, range(1, 30, 2))
    assert [bar["fill"] == layer_cuts.DROPPED for bar in bars] == [layer in goes for layer in range(30)]
    heights = [value(290 - bar["y"], 290, 0.01, 1.2, True) for bar in bars]
    assert heights == pytest.approx(influence)
    (points,) = scene.places("symbol")
    best_first = sorted(FOUND, key=FOUND.get, reverse=True)
    assert [value(point["x"], 300, 1.06 * -21.0, 0) for point in points] == pytest.approx(
        [FOUND[n] for n in best_first]
    )
    assert [point["fill"] == POINT for point in points] == [name == cut for name in best_first]
    assert all(f"without\n{OPTIONS[name]}" in scene.words for name in CUTS)
    assert ("healed" if cut == "shipped" else f"to {number(FOUND[cut])} nats") in scene.words.lower()


def test_the_table_of_rows_has_the_likeliest_tokens_of_each():
    _, tokenizer = weights.load("tiny-base")
    rows = {
        name: torch.randn(259, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
        for seed, name in enumerate(("one", "two", "student"))
    }
    tokens = one_row.likeliest(rows, each=2)
    assert tokens[:2] == rows["one"].topk(2).indices.tolist()
    assert {int(row.argmax()) for row in rows.values()} <= set(tokens)
    figure = one_row.draw(rows, ["student"], tokenizer, "Tiny: random weights.", each=2)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(rows)
