"""Bad inputs as data: a name, what is done, the exit code, and words that the message must hold.

`python bad_inputs.py FOLDER light|unread|heavy|models` runs the rows of one kind in one process, through the command
line's `main`, and prints what came of each as JSON. `LIGHT` rows need no model, so they must not load torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

from synthetic_records import lm_record

from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.mog.settings import MogSettings

LM = "run --world lm --preset tiny --device cpu --out OUT"
MOG = "run --world mog --preset tiny --device cpu --out OUT"


def settings(base: str, rows: str) -> list[tuple[str, str, int, str]]:
    """A row a line: a setting as it is written on the command line, and what the message must say of it."""
    made = []
    for line in rows.strip().splitlines():
        setting, words = (part.strip() for part in line.split(" | "))
        made.append((f"{base.split()[2]} {setting}", f"{base} --set {shlex.quote(setting)}", 2, words))
    return made


def below_range(base: str, kind: type) -> list[tuple[str, str, int, str]]:
    """Every number of a world's settings set to -1, and to 0 where that is below its least value."""
    numbers = [field.name for field in dataclasses.fields(kind) if type(field.default) in (int, float)]
    zero = [name for name in numbers if name not in ("dpo_label_noise", "trial_seed", "reward_clip")]
    wrong = [f"{name}=-1 | {name} must be" for name in numbers] + [f"{name}=0 | {name} must be" for name in zero]
    return settings(base, "\n".join(wrong))


def commands(base: str, rows: str) -> list[tuple[str, str, int, str]]:
    """A row a line: its name, what is written after `base`, and what the message must say."""
    made = []
    for line in rows.strip().splitlines():
        name, rest, words = (part.strip() for part in line.split("|"))
        made.append((f"{base.split()[0]} {name}", f"{base} {rest}", 2, words))
    return made


LIGHT = [
    *below_range(LM, LmSettings),
    *below_range(MOG, MogSettings),
    *settings(
        LM,
        """
        beta=Infinity | beta must be a finite number
        beta=much | beta must be a finite number above 0, not 'much'
        beta=true | beta must be a finite number
        align_steps=2.5 | align_steps must be a whole number of at least 1, not 2.5
        align_learning_rates=[] | align_learning_rates must be a list such as
        align_learning_rates=1e-4 | align_learning_rates must be a list
        align_learning_rates=[0.0001,0] | align_learning_rates must be a finite number above 0, not 0
        kd_loss=token | kd_loss must be one of full, sequence, not 'token'
        kd_loss=3 | kd_loss must be a word
        gkd_divergence=backward | gkd_divergence must be one of forward, reverse, jsd
        adpa_form=paper | adpa_form must be one of formula, released, not 'paper'
        dtype=float16 | dtype must be one of default, float32, bfloat16
        preference_responses=1 | preference_responses must be a whole number of at least 2, not 1; responses to a prompt
        heldout_responses=1 | heldout_responses must be
        rlhf_generations=1 | rlhf_generations must be
        rlhf_prompts=9 | rlhf_prompts must be a finite number of at most 8, not 9; preference_prompts
        dpo_label_noise=0.6 | dpo_label_noise must be a finite number of at least 0 and of at most 0.5
        preference_prompts=5000 | preference_prompts: 5000 were asked for, and there are
        test_prompts=5000 | test_prompts: 5000
        reward=likelihoods | reward: unknown 'likelihoods'; use 'likelihood', 'rule', 'model:
        reward=model: | reward: unknown 'model:'
        reward=model:nosuch | reward: there is no folder 'nosuch'
        base=nosuch | base: there is no folder 'nosuch'
        student=healing | student: there is no folder 'healing'
        base= | base must be a word
        nosuch=1 | setting 'nosuch' is unknown. Accepted: truth
        on_policy_divergence=jsd | gkd_divergence, which it is called now
        """,
    ),
    *settings(
        MOG,
        """
        sharpening_high=1.5 | sharpening_high must be a finite number above 0 and of at most 1, not 1.5
        rlhf_batch=1 | rlhf_batch must be a whole number of at least 2, not 1; one draw has no baseline
        dpo_label_noise=0.7 | at 0.5 a label says nothing
        truth_sd=0.02 | truth_sd: the grid on which policies are compared has cells of 0.05
        reward_width=0.02 | a peak is 0.0071 wide, under 0.03; raise reward_width, or beta
        truth_weights=[0.5,0.5] | equally many, not 2 and 4
        truth_weights=[0.5,0.5,0.5,0.5] | truth_weights must sum to 1
        truth_weights=[1,0,0,0] | truth_weights must be
        truth_means=[[0,0],[1,1],[2,2],[3,3,3]] | truth_means must have two coordinates each, not (3, 3, 3)
        truth_means=[1,2,3,4] | truth_means must have two coordinates each, not 1
        truth_means=[["a",0],[1,1],[2,2],[3,3]] | truth_means must be a finite number, not 'a'
        targets=[3,3] | targets must name each mode once
        targets=[4] | targets must be a whole number of at least 0 and of at most 3, not 4
        base_components=401 | at most 400, not 401; it is fitted to so many points (training_draws)
        student_components=1001 | (teacher_samples)
        """,
    ),
    ("an unknown target", f"{LM} --target nosuch", 2, "target 'nosuch' is unknown. Accepted: simile"),
    ("a target of the other world", f"{MOG} --target simile", 2, "target: these settings have 'rare_mode'"),
    ("the seed of the trials", f"{LM} --seeds 1000003", 2, "1000003 is the seed of the learning-rate trials"),
    ("seeds that run backwards", f"{MOG} --seeds 4-2", 2, "runs backwards; write 2-4"),
    ("seeds without end", f"{MOG} --seeds 0-99999999999", 2, "at most 100,000 seeds"),
    ("a setting without a value", f"{MOG} --set beta", 2, "'beta' is no setting; write name=value"),
    ("no world", "run", 2, "--world mog or --world lm"),
    ("an unknown pipeline", f"{LM} --pipelines nosuch", 2, "pipeline 'nosuch' is unknown. Accepted: orders"),
    ("a pipeline under its old name", f"{LM} --pipelines on_policy_distillation", 2, "gkd, which it is called now"),
    ("a method on Gaussians", f"{MOG} --pipelines adpa", 2, "'adpa' teaches by next-token distributions"),
    ("a method under RLHF", f"{LM} --algorithm rlhf --pipelines dckd", 2, "'dckd' is compared under DPO"),
    ("a control under RLHF", f"{MOG} --algorithm rlhf --pipelines kd_then_align_base_preferences", 2,
     "'kd_then_align_base_preferences' means nothing under 'rlhf'"),
    ("an unknown command", "train-it", 2, "train-it"),
    ("a command under its old name", "reproduce FILES/old.json", 2, "alignkd run --from RECORD --check"),
    ("a check of nothing", "run --world mog --check", 2, "name it with --from FILE"),
    ("a record that is not there", "run --from FILES/none.json", 2, "none.json does not exist"),
    ("a world beside a record", "run --from FILES/whole.json --world lm", 2, "--world comes from the record"),
    ("a report of nothing", "report FILES/none", 2, "none does not exist: give the folder that"),
    ("a report of an empty folder", "report FILES/empty", 2, "no records (*.json, *.zip) below"),
    ("a garbled record", "report FILES/garbled", 2, "record.json: not a record"),
    ("an older record again", "run --from FILES/older --check", 2, "schema must be 2"),
    ("packed records that are none", "report FILES/packed", 2, "study.zip: no packed records"),
    *commands(
        "evaluate tiny-base --out OUT",
        """
        nothing | | model: nothing to measure; name --prompts, --pairs or --tasks
        prompts that are not there | --prompts FILES/none.jsonl | prompts: there is no file
        prompts of another kind | --prompts FILES/empty | prompts: unknown source 'FILES/empty'
        no prompts | --prompts FILES/prompts-none.jsonl | prompts: no row of prompts-none.jsonl can be used (it holds
        a wrong field | --prompts FILES/prompts-field.jsonl | row 2 of prompts-field.jsonl: missing prompt
        wrong JSON | --prompts FILES/prompts-json.jsonl | prompts: prompts-json.jsonl is wrong JSON at line 1
        an empty prompt | --prompts FILES/prompts-empty.jsonl | row 1 of prompts-empty.jsonl: empty prompt
        an answered prompt | --prompts FILES/prompts-answered.jsonl | jsonl: the prompt's last turn is not by the user
        a prompt that is a number | --prompts FILES/prompts-number.jsonl | prompt is neither text nor messages
        an instruction with an input | --prompts FILES/prompts-input.jsonl | row 1 of prompts-input.jsonl: has input
        several turns | --prompts FILES/prompts-turns.jsonl | row 1 has several turns, which only `alignkd sample` asks
        turns that are text | --prompts FILES/prompts-turn.jsonl | turns must be a list of what the user says
        an unknown rule | --prompts FILES/prompts.jsonl --reward smile | reward: unknown 'smile'; use 'module:function'
        an unknown reward model | --prompts FILES/prompts.jsonl --reward model:no | reward: there is no folder 'no'
        a rule without prompts | --tasks arc_easy --reward digit | reward: it pays answers; name what is asked
        two models without a rule | --prompts FILES/prompts.jsonl --against tiny-truth | against: a win rate needs
        against nobody | --prompts FILES/prompts.jsonl --reward digit --against no | against: there is no folder 'no'
        pairs without a reference | --pairs FILES/pairs.jsonl | name pi_ref with --reference
        a reference that is none | --pairs FILES/pairs.jsonl --reference no | reference: there is no folder 'no'
        pairs without chosen | --pairs FILES/lacking.jsonl --reference tiny-base | missing chosen: row 1
        pairs that are not there | --pairs FILES/none.jsonl --reference tiny-base | there is no file
        a reference for nothing | --tasks arc_easy --reference tiny-base | reference: nothing to compare
        a limit for nothing | --prompts FILES/prompts.jsonl --limit 3 | limit: it goes with --tasks
        chat for nothing | --prompts FILES/prompts.jsonl --chat-template | chat_template: it goes with --tasks
        no response | --prompts FILES/prompts.jsonl --responses 0 | '0' is no count
        a seed below 0 | --prompts FILES/prompts.jsonl --seed -1 | seed must be a whole number of at least 0
        pairs of one token | --pairs FILES/pairs.jsonl --reference tiny-base --max-length 1 | max_length must be
        twice | --prompts FILES/prompts.jsonl --out FILES/evaluated | holds an evaluation already; name another folder
        into a file | --prompts FILES/prompts.jsonl --out FILES/whole.json | whole.json cannot be made a folder
        """,
    ),
    *commands(
        "sample tiny-base --prompts FILES/prompts.jsonl",
        """
        into nothing | | the following arguments are required: --out
        into a file that is there | --out FILES/whole.json | whole.json is there already; name another file
        at no temperature | --out OUT --temperature 0 | temperature must be a finite number above 0, not 0
        below a file | --out FILES/whole.json/answers | whole.json cannot be made a folder
        """,
    ),
    *commands(
        "evaluate",
        """
        a model that is none | nosuch --prompts FILES/prompts.jsonl | model: there is no folder 'nosuch'
        a healed student of none | healed:nosuch --prompts FILES/prompts.jsonl | model: there is no folder 'nosuch'
        """,
    ),
    ("an Apple GPU", f"{LM} --device mps", 2, "invalid choice: 'mps'"),
    ("prompts that are not there", f"{LM} --prompts FILES/none.jsonl", 2, "none.jsonl"),
    ("too few prompts", f"{LM} --prompts FILES/few.txt", 2,
     "preference_prompts: 8 were asked for, and there are 7 training prompts of the 14 in FILES/few.txt"),
    ("hardly a prompt", f"{LM} --prompts FILES/two.txt", 2, "2 prompts of FILES/two.txt"),
    ("no prompt in the file", f"{LM} --prompts FILES/questions.csv", 2, "questions.csv can be used (missing prompt"),
    ("prompts of another version", f"{LM} --prompts FILES/few.txt@000000000000", 2, "few.txt has changed"),
    ("prompts on Gaussians", f"{MOG} --prompts FILES/few.txt", 2, "setting 'prompts' is unknown"),
    ("prompts beside a record", "run --from FILES/whole.json --prompts a.txt", 2, "--prompts comes from the record"),
    ("a reward in no module", f"{LM} --reward no_such:score", 2, "no_such cannot be imported from here (Module"),
    ("a module that is broken", f"{LM} --reward broken:score", 2, "broken cannot be imported from here (SyntaxError"),
    ("a reward that is not there", f"{LM} --reward own_rewards:nosuch", 2, "own_rewards.py has no function 'nosuch'"),
    ("a reward of another version", f"{LM} --reward own_rewards:good@000000000000", 2, "own_rewards.py has changed"),
    *((f"a reward, {name}", f"{LM} --reward own_rewards:{name}", 2, words) for name, words in (
        ("raising", "raises ZeroDivisionError (division by zero) for row 1, the response 'A small boat.'"),
        ("silent", "gives None for 1 responses; it must give a list"),
        ("undefined", "gives nan for row 1"),
        ("wordy", "gives 'good' for row 1"),
        ("missing", "gives None for row 1"),
        ("short", "gives 0 values for 1 responses"),
        ("single", "gives 0.5 for 1 responses"),
    )),
    ("a rule that is not there", f"{LM} --target own_rewards:nosuch", 2, "target: ", ),
    ("a rule of one's own that gives a number", f"{LM} --target own_rewards:number", 2, "gives 1 for response 1"),
    ("no repeats", "bench --repeats 0", 2, "'0' is no count"),
    ("no layers", "heal --layers 0", 2, "'0' is no count"),
    ("a base to heal that is not there", "heal --base nosuch", 2, "base: there is no folder 'nosuch'"),
]  # fmt: skip

ONE_PROMPT = '{"prompt": "Why?", "chosen": "a", "rejected": "b"}\n{"prompt": "Why?", "chosen": "c", "rejected": "b"}\n'
QUICK = f"{LM} --pipelines kd_only --set test_prompts=2 test_responses=2 preference_prompts=2 distil_prompts=2"
QUICK += " truth_responses=1 heldout_responses=2"

AWAY = f"me/small@{'0' * 40}"
TRAIN = "train --student tiny-student --out OUT/train --use-cpu --max-length 48 --method"
# What is refused with torch, but before weights are read, and where Ray is not installed.
UNREAD = [
    *commands(
        TRAIN,
        """
        by no method | dpoo --data FILES/pairs.jsonl | method 'dpoo' is unknown
        without a teacher | kd --data FILES/pairs.jsonl | teacher: kd needs one
        without a reference | adpa --data FILES/pairs.jsonl --teacher tiny-truth | reference: adpa needs one
        a teacher for nothing | sft --data FILES/pairs.jsonl --teacher tiny-base | teacher: sft does not use it
        gamma for kd | kd --data FILES/pairs.jsonl --teacher tiny-base --gamma 1.0 | gamma: kd does not use it
        no student | sft --data FILES/pairs.jsonl --student models/nothere | there is no folder models/nothere
        an unknown option | sft --data FILES/pairs.jsonl --nosuch 1 | unrecognized arguments: --nosuch
        many steps | sft --data FILES/pairs.jsonl --max-steps many | 'many'
        bf16 | sft --data FILES/pairs.jsonl --bf16 True | bf16: use --dtype bfloat16
        no optimizer | sft --data FILES/pairs.jsonl --optim nosuch | nosuch
        a schedule that lacks | sft --data FILES/pairs.jsonl --lr-scheduler-type cosine_with_min_lr | One of min_lr or
        a reporter of nothing | sft --data FILES/pairs.jsonl --report-to nosuch | nosuch is not supported
        backwards | sft --data FILES/pairs.jsonl --learning-rate -1 | Invalid learning rate: -1
        a seed below 0 | sft --data FILES/pairs.jsonl --seed -1 | seed must be a whole number of at least 0
        a seed too long | sft --data FILES/pairs.jsonl --seed 20261130175054 | seed must be a whole number of at least
        a batch of none | sft --data FILES/pairs.jsonl --per-device-train-batch-size 0 | must be a whole number of at
        no batch to measure | sft --data FILES/pairs.jsonl --per-device-eval-batch-size 0 | per_device_eval_batch_size
        no epoch | sft --data FILES/pairs.jsonl --num-train-epochs 0 | num_train_epochs must be a finite number above 0
        without bound | sft --data FILES/pairs.jsonl --learning-rate inf | learning_rate must be a finite number
        a decay of NaN | sft --data FILES/pairs.jsonl --weight-decay nan | weight_decay must be a finite number
        no steps | sft --data FILES/pairs.jsonl --max-steps 0 | max_steps must be at least 1
        half a checkpoint | sft --data FILES/pairs.jsonl --save-only-model true | save_only_model: without
        to the hub | sft --data FILES/pairs.jsonl --push-to-hub | push_to_hub: upload the finished folder
        below a file | sft --data FILES/pairs.jsonl --max-length 256 --out FILES/whole.json/x | json/x cannot be made a
        beta below 0 | dpo --data FILES/pairs.jsonl --beta -1 | beta must be
        all held out | sft --data FILES/pairs.jsonl --heldout 1.5 | heldout: 1.5 must be
        held-out pairs of none | sft --data FILES/pairs.jsonl --heldout none.jsonl | there is no file none.jsonl
        a rank of nothing | sft --data FILES/pairs.jsonl --full --lora-rank 4 | lora_rank: --full
        prompts alone | sft --data FILES/pairs.jsonl --max-prompt-length 48 | max_prompt_length must be
        gkd without a teacher | gkd --prompts FILES/few.txt | teacher: gkd needs one
        without a reward | rloo --prompts FILES/few.txt | reward: rloo needs one
        without prompts | gkd --teacher tiny-base | prompts: gkd needs prompts; name them once
        prompts twice | gkd --teacher tiny-base --prompts a.txt --data FILES/pairs.jsonl | prompts; name them once
        without pairs | sft | data: sft needs one
        prompts for nothing | sft --data FILES/pairs.jsonl --prompts FILES/few.txt | name it with --reward
        pairs of one prompt | sft --data FILES/one.jsonl | no pair of one.jsonl is left to train on (2 held out); pairs
        a reward of nothing | sft --data FILES/pairs.jsonl --reward digit --heldout 0e0 | reward: nothing is held out
        one response | rloo --prompts FILES/few.txt --reward digit --responses 1 | responses must be a whole number of
        no divergence | gkd --teacher tiny-base --prompts FILES/few.txt --divergence backward | 'backward'
        beta for gkd | gkd --teacher tiny-base --prompts FILES/few.txt --beta 0.1 | beta: gkd does not use it
        an unknown reward | rloo --prompts FILES/few.txt --reward nosuch | reward: unknown 'nosuch'; use 'module:
        a broken reward | rloo --prompts FILES/few.txt --reward own_rewards:silent | gives None for 1 responses
        prompts of no file | rloo --prompts none.jsonl --reward digit | prompts: there is no file none.jsonl
        short prompts | rloo --prompts FILES/few.txt --reward digit --max-prompt-length 4 | no prompt of few.txt is left
        held-out prompts of none | rloo --prompts FILES/few.txt --reward digit --heldout no.txt | heldout: there is no
        """,
    ),
    *commands(
        "plan",
        """
        an unknown card | run --world lm --card H1000 | card: 'H1000'
        a card beside a CPU | run --world lm --card L4 --device cpu | card:
        a card for Gaussians | run --world mog --card L4 | card: the plan is of a CPU
        a record | run --world lm --from x.zip | --from
        a rate of 0 | run --world lm --target-rate 0 | target_rate
        no world | run | name a world
        an unknown setting | run --world lm --set betta=1 | 'betta'
        a healed student of none | run --world lm --set student=healed-mine | no folder 'healed-mine'
        a teacher that lacks | train adpa --student tiny-student --data x.jsonl --out y | teacher: adpa needs
        """,
    ),
    ("a student below a file", "heal --base tiny-base --out FILES/whole.json/x", 2, "json/x cannot be made a folder"),
    ("a plan of a base that is not here", f"plan run --world lm --set base={AWAY}", 1, "never fetched"),
    ("a plan of a student that is not here", f"plan train sft --student {AWAY} --data x --out y", 1, "is not here yet"),
    *commands(
        "run --world mog --preset tiny --out OUT --engine",
        """
        on Ray, no setting | ray --set nosuch=1 | setting 'nosuch' is unknown
        fewer GPUs than none | ray --num-gpus -1 | num_gpus must be a finite number of at least 0, not -1
        a GPU and a half | ray --num-gpus 1.5 | num_gpus must be a whole number or a part of 1, not 1.5
        retries below 0 | ray --max-retries -1 | max_retries must be a whole number of at least 0
        a GPU on a CPU | ray --num-gpus 1 --device cpu | num_gpus: 1 and device 'cpu' do not go together
        no GPU on a GPU | ray --num-gpus 0 --device cuda | num_gpus: 0 and device 'cuda' do not go together
        no Ray | ray | engine: Ray is not installed; pip install 'alignkd-lab[ray]' brings it
        an address without Ray | local --address auto | --engine ray
        GPUs without Ray | local --num-gpus 1 | --engine ray
        a record on Ray | ray --from x.json | --engine ray
        """,
    ),
]

# What needs a model, a run or what draws to be noticed.
HEAVY = [
    ("a GPU where there is none", f"{LM} --device cuda", 2, "device: 'cuda' was asked for, and torch finds no GPU"),
    ("a folder that is a file", f"{MOG} --out FILES/whole.json", 2, "whole.json cannot be made a folder"),
    ("a rule that raises", f"{QUICK} --target raising", 2, "the rule of 'raising' raises ZeroDivisionError"),
    ("a rule that gives NaN", f"{QUICK} --target undefined", 2, "gives nan for response 1"),
    ("a reward that fails on the way", f"{QUICK} --reward own_rewards:later", 2, "gives inf for row 1"),
    *commands(
        "evaluate tiny-student --out OUT/evaluated",
        """
        a text longer than it reads | --prompts FILES/prompts.jsonl --max-tokens 5000 | tiny-student: texts of up to 50
        long pairs | --pairs FILES/pairs.jsonl --reference tiny-base --max-length 8 | none can be read within max_length
        """,
    ),
    *commands(
        f"{TRAIN} sft --data FILES/pairs.jsonl --max-length 256",
        """
        no such layer | --lora-targets q_proj nosuch | no layer 'nosuch'; give all or some of all-linear, down_proj
        the head as a layer | --lora-targets lm_head | has no layer 'lm_head'
        """,
    ),
    ("a folder without a model", f"{LM} --set truth=FILES/empty", 2, "FILES/empty"),
    ("a reward model that is none", f"{LM} --set reward=model:FILES/empty", 2, "FILES/empty"),
    ("a hub id without its commit", f"{LM} --set base=some/model", 2, "some/model"),
    ("a page below a file", "report FILES/fine --out FILES/whole.json/page.html", 2, "cannot be made a folder"),
    ("a page that is a folder", "report FILES/fine --out FILES/empty", 2, "empty is a folder; name the page's file"),
    ("a torn record of a finished run", f"{MOG} --out TORN --pipelines base --seeds 0", 2, "not a record"),
]

# What is no error: a rule without a second one, and a target that nothing ever shows; what does not exist is null.
FINE = [
    ("a rule of one's own", f"{QUICK} --target lengthy", 0, ""),
    ("a target that is never shown", f"{QUICK} --target never", 0, ""),
    ("a page on both", "report OUT", 0, ""),
]


def of_models(broken: dict) -> list[tuple[str, str, int, str]]:
    """Rows for models, tokenizers and templates of one's own that are broken (`own_models.BROKEN`)."""
    roles = {
        "as a base": f"{LM} --pipelines kd_only --set base=OWN student=OWN",
        "trained": "train sft --student OWN --data FILES/pairs.jsonl --out OUT/trained --max-steps 1 --use-cpu",
    }
    return [
        (f"{name}, {role}", command.replace("OWN", shlex.quote(f"FILES/models/{name}")), 2, words)
        for name, (_, words) in broken.items()
        for role, command in roles.items()
    ]


SHELL = ("lm beta=much", "a garbled record", "seeds that run backwards")


def prepare(folder: Path) -> None:
    """The files that rows name, below `folder`."""
    whole = lm_record(0)
    held = {"fine": json.dumps(whole), "older": json.dumps({**whole, "schema": 1}), "garbled": json.dumps(whole)[:200]}
    for name, record in held.items():
        (folder / name / "runs").mkdir(parents=True)
        (folder / name / "runs" / "record.json").write_text(record)
    (folder / "whole.json").write_text(json.dumps(whole))
    (folder / "own_rewards.py").write_text(OWN_REWARDS)
    (folder / "broken.py").write_text("def score(")
    for name, count in (("few", 14), ("two", 2)):
        (folder / f"{name}.txt").write_text("".join(f"Say {at}\n" for at in range(count)))
    (folder / "questions.csv").write_text("question\nWhat floats?\n")
    texts = {
        "one": ONE_PROMPT,
        "prompts": '{"prompt": "Count."}', "prompts-none": "", "prompts-json": '{"prompt": ',
        "prompts-field": '{"prompt": "a"}\n{"question": "b", "id": 2}', "prompts-empty": '{"prompt": " "}',
        "prompts-answered": '{"prompt": [{"role": "assistant", "content": "a"}]}', "prompts-number": '{"prompt": 7}',
        "prompts-input": '{"instruction": "a", "input": "b"}', "prompts-turns": '{"turns": ["a", "b"]}',
        "prompts-turn": '{"turns": "a"}',
        "lacking": '{"prompt": "a", "rejected": "c"}',
    }  # fmt: skip
    pairs = [{"prompt": f"Why {at}?", "chosen": "a", "rejected": "b"} for at in range(9)]
    texts["pairs"] = "\n".join(map(json.dumps, pairs))
    for name, text in texts.items():
        (folder / f"{name}.jsonl").write_text(text)
    for name in ("empty", "packed", "evaluated"):
        (folder / name).mkdir()
    (folder / "packed/study.zip").write_text("no zip")
    (folder / "evaluated/evaluation.json").write_text("{}")


OWN_REWARDS = """
def good(prompts, responses): return [1.0 for _ in responses]
def raising(prompts, responses): return 1 / 0
def silent(prompts, responses): return None
def undefined(prompts, responses): return [float("nan") for _ in responses]
def wordy(prompts, responses): return ["good" for _ in responses]
def missing(prompts, responses): return [None for _ in responses]
def short(prompts, responses): return [1.0 for _ in responses][1:]
def single(prompts, responses): return 0.5
def later(prompts, responses): return [1.0 if text == "A small boat." else float("inf") for text in responses]
def number(text): return 1
"""


def rules_of_ones_own() -> None:
    from alignkd_lab.lm.rewards import TARGETS

    TARGETS.update(
        raising=lambda text: 1 / 0,
        undefined=lambda text: float("nan"),
        lengthy=lambda text: len(text) > 3,
        never=lambda text: False,
    )


def tear(folder: Path, main) -> None:
    """A finished run whose record lost its end."""
    assert main(shlex.split(f"{MOG} --pipelines base --seeds 0 --algorithm dpo".replace("OUT", str(folder)))) == 0
    for path in folder.glob("runs/*.json"):
        path.write_text(path.read_text()[:-100])


def run(command: str, folder: Path, main) -> dict:
    """Of one command: its exit code, the last lines that it said, its seconds, and whether torch is loaded."""
    command = (
        command.replace("OUT", str(folder / "out")).replace("FILES", str(folder)).replace("TORN", str(folder / "torn"))
    )
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(shlex.split(command))
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            code = traceback.format_exc(limit=-3)
    said = err.getvalue().strip()
    seconds = time.process_time() - began
    return {
        "code": code,
        "said": said.replace(str(folder), "FILES"),
        "seconds": seconds,
        "torch": "torch" in sys.modules,
    }


if __name__ == "__main__":
    from alignkd_lab.cli import main

    where, kind = Path(sys.argv[1]), sys.argv[2]
    prepare(where)
    os.chdir(where)  # where modules of one's own lie
    rows = LIGHT
    if kind == "models":
        from own_models import BROKEN

        rows = of_models(BROKEN)
        for name, (write, _) in BROKEN.items():
            write(where / "models" / name)
    if kind == "unread":
        from alignkd_lab.lm import weights

        rows, weights.load, sys.modules["ray"] = UNREAD, None, None
    if kind == "heavy":
        rows = HEAVY + FINE
        rules_of_ones_own()
        with contextlib.redirect_stdout(io.StringIO()):
            tear(where / "torn", main)
    print(json.dumps({name: run(command, where, main) for name, command, _, _ in rows}))
