"""`alignkd train gkd` and `rloo`: what the policy writes is trained on, and rewards are measured on the way."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_lm_reward_model import TURNS, saved
from test_training import QUICK, Last, Stop
from tiny_lm import away_from_zero, lines, log_probs
from transformers import AutoModelForCausalLM, TrainerCallback

from alignkd_lab import nano, training
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import rollouts as written
from alignkd_lab.lm import training_losses, weights
from alignkd_lab.lm.batch import collate, token_counts
from alignkd_lab.lm.preference_data import Prompt, encode_prompts
from alignkd_lab.lm.reward_model import RewardModel
from alignkd_lab.lm.rollouts import Rollouts, paying
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.training import train

REWARDS = """
def digits(prompts, responses):
    assert all(isinstance(prompt, str) for prompt in prompts)
    return [float(sum(letter.isdigit() for letter in text)) for text in responses]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a reward, forty prompts, and pairs about some of them."""
    monkeypatch.chdir(tmp_path)
    Path("own_rewards.py").write_text(REWARDS)
    Path("prompts.txt").write_text("".join(f"Say {at}\n" for at in range(40)))
    rows = [{"prompt": f"Say {at}", "chosen": f"{at}{at}", "rejected": "no"} for at in range(12)]
    lines(Path("pairs.jsonl"), rows)


def run(method, out="out", **options):
    needs = {"gkd": {"teacher": "tiny-base"}, "rloo": {"reward": "own_rewards:digits"}}.get(method, {})
    source = {} if "data" in options else {"prompts": "prompts.txt"}
    limits = {"max_length": 56, "max_prompt_length": 32}
    return train(method, student="tiny-student", out=out, **{**QUICK, **limits, **needs, **source, **options})


def rollouts(**options):
    model, tokenizer = weights.load("tiny-student")
    rows = [Prompt(at, [{"role": "user", "content": f"Say {at}"}], [], {}) for at in range(3)]
    prompts = encode_prompts(rows, tokenizer, 99).examples
    made = Rollouts(tokenizer, 4, 8, seed=0, dtype=torch.float32, **options)
    return away_from_zero(with_lora(model, 4)), prompts, made


def grads_of(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_what_rloo_learns_from_is_the_reward_less_the_kl_beside_the_others(tmp_path):
    asked = []

    def score(prompts, responses):
        asked.extend(prompts)
        return [float(len(text)) for text in responses]

    model, prompts, made = rollouts(beta=0.7)
    made.pay = paying(score, made.tokenizer)
    made.reference = LiveTeacher(model, without_adapter=True)
    examples, told = made.write(model, prompts, 5)
    base, gaps, rewards, expected = weights.load("tiny-student")[0], [], [], 0.0
    assert asked == [f"Say {at}" for at in range(3) for _ in range(4)]
    for example in examples:
        own, other = (
            torch.stack([log_probs(policy, example.prompt, tokens).sum() for tokens in example.responses])
            for policy in (model, base)
        )
        texts = [made.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in example.responses]
        earned = torch.tensor([float(len(text)) for text in texts])
        gaps.append(float((own - other).mean()))
        rewards.append(float(earned.mean()))
        expected += nano.rlhf_loss(own, other, earned, 0.7) / 3  # whose baseline makes it RLOO of a prompt's responses
    count = token_counts(examples)["tokens"] / 12
    assert told["kl"] == pytest.approx(sum(gaps) / 3 / count, rel=1e-4)
    assert told["mean_reward"] == pytest.approx(sum(rewards) / 3)
    assert told["objective"] == pytest.approx(sum(rewards) / 3 - 0.7 * sum(gaps) / 3, rel=1e-4)
    found, _ = training_losses.rloo(model, collate(examples), token_counts(examples))
    own = [weight for weight in model.parameters() if weight.requires_grad]
    by_hand, fast = (torch.autograd.grad(loss, own) for loss in (expected, found))
    assert found.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)
    for one, other in zip(fast, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_rloo_is_that_of_trl_on_what_that_drew(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from trl.trainer.utils import add_fused_lm_head

    model, prompts, made = rollouts(pay=lambda _, samples: [len(tokens) / 2 for tokens in samples.tokens], beta=0.3)
    drawn, grads = {}, {}

    def paid(completion_ids, at, **_):
        drawn.update(tokens=completion_ids, asked=[prompts[one] for one in at[::4]])
        return [len(tokens) / 2 for tokens in completion_ids]

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            grads.update(grads_of(model))

    arguments = trl.RLOOConfig(
        str(tmp_path / "trl"), num_generations=4, beta=0.3, per_device_train_batch_size=12, max_steps=1,
        learning_rate=0.0, max_grad_norm=0.0, max_completion_length=8, gradient_checkpointing=False, bf16=False,
        use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"prompt": [{"role": "user", "content": f"Say {at}"}], "at": at} for at in range(3)]
    trainer = trl.RLOOTrainer(model, paid, arguments, train_dataset=Dataset.from_list(rows),
                              processing_class=made.tokenizer, callbacks=[Keep()])  # fmt: skip
    theirs = weights.load("tiny-base")[0]
    add_fused_lm_head(theirs, temperature=trainer.temperature)
    trainer.ref_model = trainer.accelerator.prepare_model(theirs, evaluation_mode=True)
    trainer.train()
    made.reference = LiveTeacher(weights.load("tiny-base")[0])
    samples = Samples([row.prompt for row in drawn["asked"]], [at // 4 for at in range(12)], drawn["tokens"])
    monkeypatch.setattr(written, "sample", lambda *_, **__: samples)
    model, _, _ = rollouts()  # afresh, since TRL has wrapped the forward pass of the other
    examples, told = made.write(model, drawn["asked"], 0)
    assert told["kl"] > 0.01
    training_losses.rloo(model, collate(examples), token_counts(examples))[0].backward()
    ours = grads_of(model)
    assert set(ours) == set(grads)
    for name, grad in ours.items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-3, atol=1e-4)


def test_draws_depend_on_seed_and_step_alone():
    model, prompts, made = rollouts()
    first, again, other = (made.write(model, prompts, step)[0] for step in (1, 1, 2))
    assert [row.responses for row in first] == [row.responses for row in again]
    assert [row.responses for row in first] != [row.responses for row in other]


def test_in_bfloat16_the_policy_of_this_step_writes_and_not_the_one_before():
    model, prompts, made = rollouts()
    made.dtype = torch.bfloat16
    made.write(model, prompts, 0)
    away_from_zero(model, 0.3, seed=1)
    anew = Rollouts(made.tokenizer, 4, 8, seed=0, dtype=torch.bfloat16)
    (kept, _), (fresh, _) = (writer.write(model, prompts, 1) for writer in (made, anew))
    assert [row.responses for row in kept] == [row.responses for row in fresh]


def test_rloo_earns_more_and_gkd_comes_nearer():
    more = {"max_steps": 10, "learning_rate": 3e-2, "per_device_train_batch_size": 8, "max_length": 40}
    more |= {"logging_steps": 10, "eval_steps": 10}
    found = run("rloo", "rloo", responses=8, beta=0.01, **more)["result"]
    assert found["eval_mean_reward"] > found["eval_mean_reward_before"] + 0.3
    assert found["eval_loss"] < found["eval_loss_before"] - 0.3
    found = run("gkd", "gkd", responses=2, **more)["result"]
    assert found["eval_loss"] < 0.8 * found["eval_loss_before"]


@pytest.mark.parametrize(("method", "full"), [("gkd", False), ("rloo", False), ("rloo", True)])
def test_a_stopped_on_policy_training_goes_on_with_all_its_curves(method, full):
    options = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "full": full}
    if not full:
        options["lora_dropout"] = 0.1
    whole = run(method, "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(method, callbacks=[Stop(3)], **options)
    resumed = run(method, **options)
    one, two = (pd.read_csv(f"{name}/curves.csv", index_col="step") for name in ("whole", "out"))
    pd.testing.assert_frame_equal(one, two)
    assert resumed["files"] == whole["files"]


@pytest.mark.parametrize("method", ["gkd", "rloo"])
def test_an_accumulated_batch_of_prompts_is_the_batch_and_activations_may_be_computed_again(method):
    found = []
    for size, parts in ((4, 1), (1, 4)):
        last, sizes = Last(), {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        more = {"optim": "sgd", "learning_rate": 0.1, "gradient_checkpointing": parts > 1}
        run(method, str(size), callbacks=[last], **sizes, **more)
        found.append(last.logits)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "source"), [("sft", {"data": "pairs.jsonl"}), ("rloo", {})])
def test_dropout_of_the_lora_is_on_while_pairs_or_what_was_written_are_trained_on(method, source, monkeypatch):
    seen, loss = [], training_losses.LOSSES[method]

    def look(model, *rest, **options):
        seen.extend((part.p, part.training) for part in model.modules() if isinstance(part, torch.nn.Dropout))
        return loss(model, *rest, **options)

    monkeypatch.setitem(training_losses.LOSSES, method, look)
    run(method, lora_dropout=0.2, heldout=0, **source)
    assert set(seen) == {(0.2, True)}


def test_another_reference_is_what_the_kl_is_measured_from():
    assert run("rloo", "one", max_steps=1)["result"]["eval_kl_before"] == pytest.approx(0, abs=1e-6)
    assert run("rloo", "two", reference="tiny-base", max_steps=1)["result"]["eval_kl_before"] > 0.1


def test_a_reward_is_measured_on_held_out_prompts_while_pairs_are_trained_on():
    record = run("dpo", data="pairs.jsonl", prompts="prompts.txt", reward="own_rewards:digits")
    about = record["data"]["reward"]
    assert about["prompts"] == 40 - record["data"]["training"]["pairs"]
    assert about["skipped"] == {"is trained on": record["data"]["training"]["pairs"]}
    curves = pd.read_csv("out/curves.csv", index_col="step")
    assert {"loss", "eval_reward_accuracy", "eval_kl", "eval_mean_reward"} <= set(curves)
    assert curves["eval_mean_reward"].notna().all()
    assert record["options"]["reward"].startswith("own_rewards:digits@")
    assert "prompts" not in record["options"]  # a place on this machine
    alone = run("dpo", "alone", data="pairs.jsonl", reward="own_rewards:digits")
    assert alone["data"]["reward"]["prompts"] == alone["data"]["heldout"]["pairs"]


def written_after(prompts, responses, tokens, tokenizer):
    """What the saved model writes to these prompts."""
    model = AutoModelForCausalLM.from_pretrained("out")
    rows = Rollouts(tokenizer, responses, tokens, 42, torch.float32).write(model, prompts, "heldout")[0]
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for row in rows for tokens in row.responses]


def test_the_mean_reward_is_that_of_what_the_saved_model_writes():
    record = run("sft", data="pairs.jsonl", reward="own_rewards:digits", dtype="float32", logging_steps=3, eval_steps=3)
    tokenizer = weights.load_tokenizer("tiny-student")
    texts = training.read_texts("pairs.jsonl", "0.25", tokenizer, 56, 32, 42, pairs=True)
    asked, _ = training.prompts_of_reward(texts, None, tokenizer)
    digits = [sum(map(str.isdigit, text)) for text in written_after(asked, 1, texts.max_tokens, tokenizer)]
    assert record["result"]["eval_mean_reward"] == pytest.approx(sum(digits) / len(digits))


def test_a_reward_model_reads_prompts_of_many_turns():
    source, tokenizer = saved("judge"), weights.load_tokenizer("tiny-student")
    rows = [{"prompt": [*TURNS[:2], {"role": "user", "content": f"Say {at}"}]} for at in range(8)]
    lines(Path("turns.jsonl"), rows)
    record = run("rloo", prompts="turns.jsonl", reward=f"model:{source}", max_length=120, max_prompt_length=100)
    assert record["weights"]["reward"]["checksum"] == weights.checksum(source)
    heldout = training.read_texts("turns.jsonl", "0.25", tokenizer, 120, 100, 42, pairs=False).heldout
    assert [row.said[:2] for row in heldout] == [TURNS[:2]] * 2
    asked = [row.said for row in heldout for _ in range(4)]
    paid = RewardModel(source)(asked, written_after(heldout, 4, 20, tokenizer))
    assert record["result"]["eval_mean_reward"] == pytest.approx(sum(paid) / len(paid), abs=1e-4)


def test_another_version_of_the_reward_is_another_training():
    run("rloo")
    Path("own_rewards.py").write_text(REWARDS.replace("isdigit", "isalpha"))
    with pytest.raises(BadInput, match=r"another training \(options.reward differ\)"):
        run("rloo")


def test_training_and_held_out_texts_share_no_prompt_and_prompts_of_pairs_split_as_the_pairs_do():
    tokenizer = weights.load_tokenizer("tiny-student")
    Path("prompts.txt").write_text("Say 3\nSay 5\nSay 3\nSay 77\n")
    Path("few.jsonl").write_text("\n".join(Path("pairs.jsonl").read_text().splitlines()[:3]))
    found = {}
    for heldout, pairs in (("0.3", True), ("0.3", False), ("prompts.txt", False), ("few.jsonl", True)):
        texts = training.read_texts("pairs.jsonl", heldout, tokenizer, 56, 32, 0, pairs=pairs)
        sides = found[heldout, pairs] = [
            {tuple(row.prompt) for row in side} for side in (texts.training, texts.heldout)
        ]
        assert all(sides)
        assert not sides[0] & sides[1]
    assert found["0.3", True] == found["0.3", False]
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'] | trim")
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    lines(Path("spaced.jsonl"), [*rows, *({**row, "prompt": f"{row['prompt']} "} for row in rows)])
    texts = training.read_texts("spaced.jsonl", "0.3", tokenizer, 56, 32, 0, pairs=True)
    sides = [{tuple(row.prompt) for row in side} for side in (texts.training, texts.heldout)]
    assert not sides[0] & sides[1]
    assert texts.about["training"]["skipped"]["is held out"] == 2 * len(rows) - len(texts.training) - len(texts.heldout)
