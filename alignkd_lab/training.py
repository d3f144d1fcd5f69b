"""`alignkd train`: any method on one's own models, pairs or prompts, into a folder that transformers loads.

What `transformers.TrainingArguments` offers is taken by the same names: schedule, optimizer, intervals, reports. The
effective batch is per_device_train_batch_size x gradient_accumulation_steps x processes, run as micro-batches of one
step that are divided by the token counts of the whole, so the gradient is the same however it is split.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainerState
from transformers.pytorch_utils import Conv1D
from transformers.trainer import TRAINER_STATE_NAME

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import models, ranks, saved, training_losses, weights
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import backbone
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.folders import check_out
from alignkd_lab.lm.measured import (
    REFERENCE,
    Heldout,
    MeasuredTrainer,
    add_reference,
    check_measures,
    newest_checkpoint,
)
from alignkd_lab.lm.models import identity
from alignkd_lab.lm.own_pairs import (
    Texts,
    prompts_of_reward,
    read_texts,
    reference_log_probs,
    student_examples,
)
from alignkd_lab.lm.rewards import model_of, scorer
from alignkd_lab.lm.rollouts import HeldoutPrompts, Rollouts, paying
from alignkd_lab.lm.teacher_cache import CachedTeacher, cache_teacher
from alignkd_lab.lm.teachers import Full, LiveTeacher, share_head
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.lm.vocabulary import check_vocabularies
from alignkd_lab.options import (
    DEFAULTS,
    FREE,
    METHODS,
    PAIR,
    Options,
    read_options,
    to_argv,
    training_arguments,
)
from alignkd_lab.paths import alone, make_folder
from alignkd_lab.progress import processes
from alignkd_lab.provenance import commit, provenance, resolve_dtype
from alignkd_lab.store import Store, write_whole

_PLACES = ("out", "data", "prompts", "cache_teachers")  # of this machine, and in no record
_SAID = ("per_device_train_batch_size", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type",
         "warmup_steps", "optim", "weight_decay", "max_grad_norm", "gradient_checkpointing", "seed")  # fmt: skip


def train(method: str | None = None, *, data: Any = None, callbacks: Sequence = (), **options: Any) -> dict:
    """Trains a student by `method`, and writes it to the folder `out`; returns the record. For instance:

        train("adpa", student="S", teacher="T", reference="R", data="pairs.jsonl", out="model", learning_rate=1e-4)

    The command draws the curves, too, which lie in `curves.csv`: `plots.measured.draw_curves`.

    Args:
        method: `sft`, `dpo`, `kd`, `dckd`, `adpa`, `adpa_plus`, `gkd` or `rloo`.
        data: a source as `load_preferences` takes, or a `datasets.Dataset`; on-policy methods read its prompts alone.
        callbacks: `transformers.TrainerCallback`s.
        options: as `alignkd train --help` lists them: fields of `alignkd_lab.options.Options` (`student` and `out` are
            needed) and of `transformers.TrainingArguments`.

    Raises:
        BadInput: an option, a source or a file that cannot be used, before any weights are read.
        CannotContinue: network, disk or memory, or a loss that is not finite.
    """
    named = data is None or isinstance(data, str | Path)
    argv = to_argv({"method": method, "data": data if named else "in memory", **options})
    return run(*read_options(argv), data=None if named else data, callbacks=callbacks)


@ranks.watched()
def run(options: Options, given: dict, data: Any = None, callbacks: Sequence = ()) -> dict:
    """`train` on options that were read; `data` is a data set in memory."""
    commit()  # now: it may be another one at the end
    several = processes() > 1  # whose group is not made yet
    with contextlib.nullcontext() if several else alone(Path(options.out)):
        return _run(options, given, data, callbacks, options.student)


def _run(options: Options, given: dict, data: Any, callbacks: Sequence, start: str) -> dict:
    """`start` is the student that was named, from which ADPA+ is measured, too."""
    if options.method == "adpa_plus":
        check_out(Path(options.out))
        arguments = training_arguments(given, Path(options.out), options.is_measured)
        _, texts, _ = texts_of(options, arguments.seed, data)
        _reader(options.reference, arguments.device, texts.reach)  # what the second half would refuse
        first = replace(options, method="dckd", out=str(Path(options.out) / "dckd"), reference=None)
        run(first, given, data, callbacks)
        options = replace(options, student=first.out)
    out, method = Path(options.out), options.kind
    arguments = training_arguments(given, out, options.is_measured)
    device, seed = arguments.device, arguments.seed
    dtype = getattr(torch, resolve_dtype(options.dtype, device.type))
    tokenizer, texts, answered = texts_of(options, seed, data)
    judge = model_of(options.reward or "")
    sources = options.sources | ({"reward": judge} if judge else {})
    reach = max([texts.reach, *(len(row.prompt) + texts.max_tokens for row in answered)])
    size, parts = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps * ranks.count()
    batch = size * parts  # what is accumulated is one batch, which runs in micro-batches of this size
    check_measures(arguments, options, texts, answered, batch)
    arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = batch, 1
    request = {"options": asdict(options), "training": {**DEFAULTS, **given, "batch": batch}, "data": texts.about,
               "weights": {name: {"source": one, "checksum": identity(one)} for name, one in sources.items()},
               "dtype": str(dtype)}  # fmt: skip
    if (done := ranks.first(lambda: _same_training(out, request))) is not None:
        return done
    store = Store(Path(options.cache_teachers) if options.cache_teachers else out / "kept")
    pay = paying(scorer(options.reward, str(device)), tokenizer) if options.reward else None
    model = _student(options, device, reach)
    if method.on_policy:
        examples, kept, heldout = [texts.training, texts.heldout], {}, None
        if options.teacher:
            kept["teacher"] = _spread(LiveTeacher(_reader(options.teacher, device, reach), dtype=dtype))
    else:
        examples, kept, heldout = _from_pairs(options, texts, model, tokenizer, store, dtype, arguments, reach, start)
    model = _adapt(model, options, seed)
    rollouts = Rollouts(tokenizer, 1, texts.max_tokens, seed, dtype, pay)
    if method.on_policy:
        answered, rollouts.responses = texts.heldout, options.responses
        rollouts.reference = _reference(options, model, dtype, reach)
        rollouts.beta = options.beta if options.method == "rloo" else None
    if _shards() and (method.on_policy or answered):
        rollouts.keep_whole(model)
    measured = [heldout] if heldout else []
    if answered:
        measured.append(HeldoutPrompts(answered, rollouts, method.on_policy))
    end_token = tokenizer.eos_token_id if options.as_released else None
    trainer = MeasuredTrainer(
        _loss(options, kept, end_token), measured, rollouts if method.on_policy else None,
        micro_batch=options.micro_batch or (size if parts > 1 else None), dtype=dtype, model=model, args=arguments,
        train_dataset=examples[0], eval_dataset=texts.heldout or answered or None, callbacks=list(callbacks), aside=out,
    )  # fmt: skip
    curves, result = _fit(trainer, out / "checkpoints")
    if ranks.is_sharded(model):
        held = ranks.whole_weights(model)
        if ranks.index() == 0:
            model = _adapt(_student(options, torch.device("cpu"), reach), options, seed)
            model.load_state_dict(held, strict=options.full)
    if ranks.index():
        return ranks.exchange()[0]
    curves.to_csv(out / "curves.csv")
    named = {name: value for name, value in asdict(options).items() if name not in _PLACES}
    record = {
        "method": options.method, "options": named, "training": {name: getattr(arguments, name) for name in _SAID},
        "given": given, "processes": ranks.count(), "data": texts.about, "weights": request["weights"],
        "dtype": str(dtype), "wrapper": type(trainer.model_wrapped).__name__,
        "licence": saved.licence(options.student), "result": result, "provenance": provenance(str(device)),
    }  # fmt: skip
    merge = options.merge or not saved.can_be_base(options.student)
    record = saved.save(model, tokenizer, out, record, base=options.student, merge=merge)
    if not options.cache_teachers:
        shutil.rmtree(out / "kept", ignore_errors=True)
    return ranks.exchange(record)[0]


def texts_of(options: Options, seed: int, data: Any = None) -> tuple[Any, Texts, list]:
    """The student's tokenizer, the texts, and the prompts that are answered for a reward beside pairs."""
    tokenizers = {name: weights.load_tokenizer(source) for name, source in options.sources.items()}
    tokenizer = tokenizers.pop("student")
    check_vocabularies(tokenizer, **tokenizers)
    limits = options.max_length, options.max_prompt_length
    source, answered = options.data or options.prompts if data is None else data, []
    texts = read_texts(source, options.heldout, tokenizer, *limits, seed, pairs=not options.kind.on_policy)
    if options.reward and not options.kind.on_policy:
        answered, texts.about["reward"] = prompts_of_reward(texts, options.prompts, tokenizer)
    return tokenizer, texts, answered


def _reader(source: str, device: torch.device, reach: int):
    """A model that reads texts of up to `reach` tokens beside the student."""
    return admit(models.read(source, device), source, reach=reach)


def _student(options: Options, device: torch.device, reach: int):
    model = admit(models.read(options.student, device), options.student, reach=reach, adapted=not options.full)
    layers = (name for name, layer in backbone(model).named_modules() if isinstance(layer, torch.nn.Linear | Conv1D))
    known = {"all-linear"} | {name.rpartition(".")[2] for name in layers}
    for name in set(options.lora_targets) - known:
        raise BadInput(f"lora_targets: the model has no layer {name!r}; give all or some of {', '.join(sorted(known))}")
    return model


def _adapt(model, options: Options, seed: int):
    if options.full:
        return model
    targets = "all-linear" if "all-linear" in options.lora_targets else options.lora_targets
    return with_lora(model, options.lora_rank, seed, targets, options.lora_dropout)


def _same_training(out: Path, request: dict) -> dict | None:
    """Writes down what is asked for; the record, where `out` holds it done already.

    Raises:
        BadInput: `out` holds another training, or something else, or not all machines see it.
    """
    asked = {f"{part}.{name}": value for part in ("options", "training", "data", "weights") for name, value in
             request[part].items() if name not in FREE} | {"dtype": request["dtype"]}  # fmt: skip
    if request["options"]["method"] == "adpa_plus":  # its student lies in `out`, which may be moved
        del asked["options.student"], asked["weights.student"]
        asked["student"] = request["weights"]["student"]["checksum"]
    asked, path = json.loads(json.dumps(asked, default=str)), out / "request.json"
    if ranks.index() and not path.is_file():
        raise BadInput(f"out: process {ranks.index()} does not see {path}; name a folder that all machines share")
    if path.is_file():
        held = json.loads(path.read_text())
        if "student" in asked and "weights.student" in held:  # of an older version
            held["student"] = held.pop("weights.student")["checksum"]
            held.pop("options.student")
        other = [name for name in held | asked if held.get(name) != asked.get(name)]
        if other and len(list(out.iterdir())) > 1:  # one that was refused before any work keeps no folder
            raise BadInput(f"out: {out} holds another training ({', '.join(other[:5])} differ); name another folder")
        if (out / saved.RECORD).is_file():
            print(f"{out} holds this training, done", file=sys.stderr)
            return json.loads((out / saved.RECORD).read_text())
    check_out(out)
    make_folder(out)
    write_whole(path, json.dumps(asked, indent=1))
    return None


def _from_pairs(
    options: Options, pairs: Texts, model, tokenizer, store, dtype, arguments, reach: int, start: str
) -> tuple:  # fmt: skip
    """What the loss reads, of training and of the held-out pairs; what teachers say of it; and what is measured."""
    examples = _examples(options, pairs, model, tokenizer, store, dtype, arguments.seed)
    kept: dict[str, CachedTeacher | LiveTeacher] = {}
    for name, source in options.sources.items() if options.kind.read else ():
        if name != "student":
            teacher = LiveTeacher(_reader(source, model.device, reach), dtype=dtype, digest=identity(source))
            kept[name] = _spread(teacher) if options.live_teachers else cache_teacher(
                teacher, list(chain(*examples)), store.root, name, roles=options.kind.read
            )  # fmt: skip
    if len(kept) == 2:
        share_head(*kept.values())
    policy = (options.reference if options.method == "dpo" else None) or start
    reference = model if policy == options.student else _reader(policy, model.device, reach)
    if options.method == "dpo":
        reference_log_probs(reference, examples[0], store, identity(policy), dtype)
    if not pairs.heldout:
        return examples, kept, None
    teacher, batch = LiveTeacher(reference, dtype=dtype, digest=identity(policy)), arguments.per_device_eval_batch_size
    said = cache_teacher(teacher, pairs.heldout, store.root, REFERENCE, batch=batch)
    said.head = said.head.detach().clone()  # where all weights are trained, the model's own moves
    add_reference(pairs.heldout, said, dtype, batch)
    for row, pair in zip(examples[1], pairs.heldout, strict=True) if options.method == "dpo" else ():
        row.reference_log_probs = pair.reference_log_probs
    return examples, kept, Heldout(examples[1], pairs.heldout, said)


def _reference(options: Options, model, dtype, reach: int) -> LiveTeacher:
    """What an on-policy method measures the KL from: the model as it starts, unless another one is named."""
    if options.reference and options.reference != options.student:
        return _spread(LiveTeacher(_reader(options.reference, model.device, reach), dtype=dtype))
    if options.full:
        return _spread(LiveTeacher(copy.deepcopy(model), dtype=dtype))
    return LiveTeacher(model, dtype=dtype, without_adapter=True)


def _examples(options: Options, pairs: Texts, model, tokenizer, store: Store, dtype, seed: int) -> list:
    """What the loss reads: of training, and of the held-out pairs."""
    if "sampled" in options.kind.roles:
        depends = {"weights": identity(options.student), "responses": options.responses,
                   "dtype": str(dtype), "seed": seed, "max_tokens": pairs.max_tokens}  # fmt: skip
        if options.engine == "vllm":
            model, depends["engine"] = Vllm(weights.resolve(options.student), dtype), "vllm"
        return student_examples(model, tokenizer, [pairs.training, pairs.heldout], store, depends, dtype)
    only = [index for index, role in enumerate(PAIR) if role in options.kind.roles]
    return [
        [Example(row.prompt, [row.responses[at] for at in only], [row.roles[at] for at in only]) for row in rows]
        for rows in (pairs.training, pairs.heldout)
    ]


def _shards() -> bool:
    """Whether Accelerate is to shard the model that is trained."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def _spread(teacher: LiveTeacher) -> LiveTeacher:
    return teacher.shard() if _shards() else teacher


def _loss(options: Options, kept: dict[str, CachedTeacher | LiveTeacher], end_token: int | None):
    def ask(batch: dict) -> dict[str, Full]:
        return {name: one.signal(batch, roles=options.kind.read or None) for name, one in kept.items()}

    method = options.method.removesuffix("_plus")
    takes = inspect.signature(training_losses.LOSSES[method]).parameters
    more = {name: getattr(options, name) for name in METHODS[method].uses if name in takes}
    if "end_token" in takes:
        more["end_token"] = end_token
    return training_losses.asking(method, ask, **more)


def _fit(trainer: MeasuredTrainer, folder: Path) -> tuple[pd.DataFrame, dict]:
    """Trains, from the newest whole checkpoint on; the curves, a row a step, and what came of it."""
    newest = ranks.exchange(newest_checkpoint(folder))[0]
    trainer.args.eval_on_start = trainer.args.eval_on_start and newest is None
    state = TrainerState.load_from_json(str(newest / TRAINER_STATE_NAME)) if newest else None
    if state and state.global_step >= state.max_steps:  # the trainer would take one step more
        best = trainer.args.load_best_model_at_end and state.best_model_checkpoint
        trainer._load_from_checkpoint(str(folder / Path(best).name if best else newest))
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    history = trainer.state.log_history
    measured = [log["step"] for log in history if any(name.startswith("eval_") for name in log)]
    if trainer.eval_dataset and measured[-1:] != [trainer.state.global_step]:
        trainer.evaluate()
    curves = pd.DataFrame(history or [{"step": trainer.state.global_step}]).groupby("step").first()
    curves = curves[sorted(name for name in curves if not name.startswith(("train_", "total_flos")))]
    logged = [(log["step"], name, log[name]) for name in curves for log in history if name in log]
    before = {f"{name}_before": value for step, name, value in logged if step == 0 and name.startswith("eval_")}
    after = {name: value for _, name, value in logged}  # the last one, also where it is undefined
    if trainer.args.load_best_model_at_end:  # the weights at hand are those of that step, not of the last
        after |= {"best_step": trainer.state.best_global_step, **trainer.evaluate()}
    found = {name: float(value) if math.isfinite(value) else None for name, value in (before | after).items()}
    return curves, {"steps": trainer.state.global_step, **found}
