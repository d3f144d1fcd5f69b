"""The options of `alignkd train`: ours, those of `transformers.TrainingArguments`, and what each method needs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import DistributedType
from transformers import HfArgumentParser, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from alignkd_lab.errors import BadInput, UnknownName, check_number, refusing
from alignkd_lab.lm.engines import check_engine
from alignkd_lab.lm.request import check_policy, check_reward, read_share
from alignkd_lab.provenance import USUAL_DTYPE


class Method(NamedTuple):
    """The responses that it trains on, the options that it needs and may have, and the responses that teachers read.

    Without responses of its own it is on-policy: it needs prompts, and what it trains on is written step by step.
    """

    roles: tuple[str, ...]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    @property
    def on_policy(self) -> bool:
        return not self.roles


TEACHERS, PAIR = ("teacher", "reference"), ("chosen", "rejected")
METHODS = {
    "sft": Method(("chosen",)),
    "dpo": Method(PAIR, uses=("reference", "beta")),
    "kd": Method(("chosen",), ("teacher",), ("temperature",), ("chosen",)),
    "dckd": Method(PAIR, ("teacher",), ("alpha",), PAIR),
    "adpa": Method(("chosen", "sampled"), TEACHERS, ("gamma", "as_released", "responses"), ("sampled",)),
    "adpa_plus": Method(("chosen", "sampled"), TEACHERS, ("alpha", "gamma", "as_released", "responses"), ("sampled",)),
    "gkd": Method((), ("teacher",), ("divergence", "responses")),
    "rloo": Method((), ("reward",), ("reference", "beta", "responses")),
}


def _help(words: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": words})


@dataclass
class Options:
    """Of `alignkd train`, beside those of transformers.TrainingArguments."""

    method: str = field(metadata={"help": ", ".join(METHODS)})
    student: str = field(metadata={"help": "model to train: id@commit of the hub, folder, adapter, or built-in name"})
    out: str = field(metadata={"help": "folder for the model, its record and its curves; resumes what it holds"})
    data: str | None = _help("preference pairs: file, known set, or id@commit of the hub; gkd, rloo: or prompts alone")
    prompts: str | None = _help("prompts, as for data: gkd, rloo train on them, others answer them for the reward")
    reward: str | None = _help("module:function, model:SOURCE or a rule: rloo's, and measured on held-out prompts")
    teacher: str | None = _help("the aligned teacher (adpa: the DPO teacher), a source as for student")
    reference: str | None = _help(
        "adpa: what the teacher was aligned from; dpo, rloo: reference policy (default: student)"
    )
    heldout: str = _help("pairs or prompts kept out of training: a share of the prompts, or a file", "0.05")
    beta: float = _help("dpo, rloo: weight of the KL to the reference", 0.1)
    alpha: float = _help("dckd: weight of the two KL terms", 0.2)
    gamma: float = _help("adpa: weight of the advantage", 1.5)
    divergence: Literal["forward", "reverse", "jsd"] = _help("gkd: from the teacher", "reverse")
    temperature: float = _help("kd: of the teacher's distribution", 1.0)
    as_released: bool = _help("adpa: as its published code has it, not its equation", False)
    responses: int | None = _help(
        "that the student writes to each prompt: adpa beforehand, gkd, rloo at every step (default: 1; rloo: 4)"
    )
    engine: str | None = _help("adpa: vllm, where you have it, writes the student's responses; untried here")
    full: bool = _help("train all weights, not a LoRA", False)
    lora_rank: int = _help("of the LoRA", 16)
    lora_targets: list[str] = field(default_factory=lambda: ["all-linear"], metadata={"help": "layers, e.g. q_proj"})
    lora_dropout: float = _help("on what enters the LoRA", 0.0)
    merge: bool = _help("merge the LoRA into its base before saving", False)
    dtype: Literal["default", "float32", "bfloat16"] = _help("of matrix products; weights stay float32", "default")
    micro_batch: int | None = _help("examples that run at a time; changes memory, not the gradient")
    max_length: int = _help("most tokens of prompt and response; longer responses are cut, and counted", 1024)
    max_prompt_length: int | None = _help("longer prompts are left out, and counted (default: half of max_length)")
    live_teachers: bool = _help("ask teachers anew in each step, sharded where the student is; no cache", False)
    cache_teachers: str | None = _help("folder that keeps hidden states and responses for later trainings")

    @property
    def kind(self) -> Method:
        return METHODS[self.method]

    @property
    def is_measured(self) -> bool:
        """Whether a share above 0 or a file is held out, or prompts are answered for a reward beside the training."""
        return bool(read_share(self.heldout) != 0 or (self.prompts and not self.kind.on_policy))

    @property
    def sources(self) -> dict[str, str]:
        """Of weights: of the student, and of the teacher and the reference where they are named."""
        return {name: source for name in ("student", *TEACHERS) if (source := getattr(self, name))}


# Where transformers' own default would log nothing, report to whatever is installed, or drop the examples.
DEFAULTS = {
    "num_train_epochs": 1, "logging_steps": 0.02, "eval_strategy": "steps", "eval_steps": 0.1, "eval_on_start": True,
    "save_steps": 0.1, "save_total_limit": 1, "report_to": "none", "remove_unused_columns": False,
    "dataloader_pin_memory": False, "ddp_timeout": 86400,  # the others wait for the one that writes most
}  # fmt: skip
_FURTHER = (
    "Every field of transformers.TrainingArguments is an option, too: --learning-rate, --num-train-epochs, "
    "--max-steps, --per-device-train-batch-size, --gradient-accumulation-steps, --warmup-steps, --lr-scheduler-type, "
    "--optim, --weight-decay, --gradient-checkpointing, --eval-steps, --save-steps, --report-to, --seed and so on."
)
_LAUNCHER = "accelerate launch takes it; see notebooks/TRAIN.md"
REFUSED = {
    "output_dir": "use --out", "resume_from_checkpoint": "the newest checkpoint in --out is picked up by itself",
    "bf16": "use --dtype bfloat16", "fp16": "use --dtype bfloat16", "bf16_full_eval": "use --dtype bfloat16",
    "fp16_full_eval": "use --dtype bfloat16", "label_smoothing_factor": "the losses here know none",
    "auto_find_batch_size": "where memory runs out the micro-batch halves by itself",
    "use_liger_kernel": "the losses here are chunked already", "torch_compile": "untried here",
    "deepspeed": "untried here", "parallelism_config": "untried here", "fsdp": _LAUNCHER, "local_rank": _LAUNCHER,
    "remove_unused_columns": "it must stay False",
    "dataloader_num_workers": "texts are tokens already, so it gains nothing",
    "push_to_hub": "upload the finished folder with `hf upload`",
    "save_only_model": "without the optimizer a stopped training would not go on as it was",
    "train_sampling_strategy": "untried here", "include_num_input_tokens_seen": "tokens are counted in the record",
}  # fmt: skip
# What may change between a training and its resumption.
FREE = {"out", "cache_teachers", "micro_batch", "report_to", "run_name", "disable_tqdm", "save_steps", "logging_steps",
         "save_total_limit", "log_level", "per_device_train_batch_size",
         "gradient_accumulation_steps", "ddp_timeout", "ddp_find_unused_parameters"}  # fmt: skip

_COUNT, _WEIGHT = {"least": 1, "whole": True}, {"least": 0}
# What transformers takes as it is, and would train nothing with, or break off at after the teachers were asked.
_BOUNDS = {
    "seed": {"least": 0, "below": 2**32, "whole": True}, "num_train_epochs": {"above": 0},
    "per_device_train_batch_size": _COUNT, "per_device_eval_batch_size": _COUNT, "gradient_accumulation_steps": _COUNT,
    "learning_rate": _WEIGHT, "weight_decay": _WEIGHT, "max_grad_norm": _WEIGHT,
}  # fmt: skip


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise BadInput(f"train: {message}")


class _Given(_Parser):
    """What is not given is not set."""

    def add_argument(self, *names, **options):
        return super().add_argument(*names, **{**options, "default": argparse.SUPPRESS})


def read_options(argv: Sequence[str]) -> tuple[Options, dict]:
    """Our options, and those given of `TrainingArguments`; `--config FILE` is YAML that names the same ones.

    Raises:
        BadInput: one that there is not, one that is missing, or a value that does not fit.
    """
    argv = ["--method", *argv] if argv and not argv[0].startswith("-") else list(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    config, rest = first.parse_known_args(argv)
    helps = bool({"-h", "--help"} & set(argv))
    parser = (_Parser if helps else _Given)(
        (Options,) if helps else (Options, TrainingArguments), prog="alignkd train", allow_abbrev=False,
        usage="alignkd train METHOD --student SOURCE --data FILE --out DIR [option ...]", epilog=_FURTHER,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="options by name, in YAML; those given beside it win")
    given = vars(parser.parse_args([*_from_file(config.config), *rest]))
    ours = {entry.name: given.pop(entry.name) for entry in fields(Options) if entry.name in given}
    options = Options(**ours)
    _check(options, ours, given)
    return options, given


def _from_file(path: Path | None) -> list[str]:
    if path is None:
        return []
    import yaml

    with refusing(f"config: {path} cannot be read as YAML", OSError, UnicodeDecodeError, yaml.YAMLError):
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise BadInput(f"config: {path} holds no options by name, such as 'learning_rate: 0.0001'")
    return to_argv(held)


def to_argv(options: Mapping[str, Any]) -> list[str]:
    """Options by name as a command line has them."""
    made = []
    for name, value in options.items():
        flag = f"--{str(name).replace('_', '-')}"
        if isinstance(value, list | tuple):
            made += [flag, *map(str, value)] if value else []
        elif value is not None:
            made.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return made


def _check(options: Options, ours: dict, given: dict) -> None:
    """All that can be refused before a file is read."""
    if options.method not in METHODS:
        raise UnknownName("method", options.method, METHODS)
    method = options.kind
    for name in (*method.needs, *(() if method.on_policy else ("data",))):
        if getattr(options, name) is None:
            raise BadInput(f"{name}: {options.method} needs one; name its source with --{name}")
    if method.on_policy and (options.data is None) == (options.prompts is None):
        raise BadInput(f"prompts: {options.method} needs prompts; name them once, with --prompts or with --data")
    if options.prompts and not options.reward and not method.on_policy:
        raise BadInput("prompts: what is written to them is measured by a reward; name it with --reward, or leave both")
    if options.reward and options.method != "rloo" and not options.is_measured:
        raise BadInput("reward: nothing is held out to measure it on; name prompts with --prompts, or hold pairs out")
    of_methods = {name for other in METHODS.values() for name in (*other.needs, *other.uses)} - {"reward"}
    for name in ours:
        if name in of_methods and name not in (*method.needs, *method.uses):
            raise BadInput(f"{name}: {options.method} does not use it; leave it out")
    for name in given:
        if name in REFUSED:
            raise BadInput(f"{name}: {REFUSED[name]}")
    for name, source in options.sources.items():
        check_policy(name, source)
    options.reward = options.reward and check_reward(options.reward)
    if options.engine:
        _check_engine(options, method)
    least = 2 if options.method == "rloo" else 1
    if options.responses is None:
        options.responses = 4 if options.method == "rloo" else 1
    check_number("responses", options.responses, least=least, whole=True)
    for name in ("beta", "alpha", "gamma", "temperature"):
        check_number(name, getattr(options, name), above=0)
    check_number("max_length", options.max_length, least=2, whole=True)
    for name, most in (("lora_rank", None), ("micro_batch", None),
                       ("max_prompt_length", options.max_length - 1)):  # fmt: skip
        if getattr(options, name) is not None:
            check_number(name, getattr(options, name), least=1, most=most, whole=True)
    check_number("lora_dropout", options.lora_dropout, least=0, below=1)
    if options.full and (lora := [name for name in ours if name.startswith("lora_") or name == "merge"]):
        raise BadInput(f"{lora[0]}: --full trains all weights and no LoRA; leave one of the two out")


def _check_engine(options: Options, method: Method) -> None:
    if "sampled" not in method.roles:
        raise BadInput(f"engine: {options.method} samples nothing beforehand; leave it out")
    check_engine(options.engine, options.student)
    if options.engine == "vllm" and options.method == "adpa_plus" and not (options.full or options.merge):
        raise BadInput("engine: vLLM reads whole models, and DCKD leaves an adapter; add --merge or --full")


def training_arguments(given: dict, out: Path, evaluate: bool) -> TrainingArguments:
    quiet = {} if evaluate else {"eval_strategy": "no", "eval_on_start": False}
    for name in ("gradient_checkpointing", "activation_checkpointing"):  # its older and its newer name
        if given.get(name):
            given = {f"{name}_kwargs": {"use_reentrant": False}, **given}
    try:
        made = TrainingArguments(**{**DEFAULTS, **given, **quiet, "output_dir": str(out / "checkpoints")})
        # Made for one number: what lacks a package or an option of its own would fail after all teachers were asked.
        if not made.optim_target_modules:  # which are sought in the model itself
            kind, more = Trainer.get_optimizer_cls_and_kwargs(made)
            optimizer, warmup = kind([torch.zeros(1)], **more), made.get_warmup_steps(2)
            get_scheduler(made.lr_scheduler_type, optimizer, warmup, 2, made.lr_scheduler_kwargs)
        for reporter in get_reporting_integration_callbacks(made.report_to):
            reporter()
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise BadInput(f"train: {error}") from error
    for name, bounds in _BOUNDS.items():
        check_number(name, getattr(made, name), **bounds)
    if made.max_steps == 0:
        raise BadInput("max_steps must be at least 1; leave it out to go through num_train_epochs")
    if made.device.type not in USUAL_DTYPE:
        raise BadInput(f"device: {made.device.type} is untried here; use --use-cpu")
    _check_launch(made)
    made._n_gpu = min(made.n_gpu, 1)  # or transformers would split a batch that it cannot see into
    return made


def _check_launch(made: TrainingArguments) -> None:
    """Refuses what Accelerate's launcher asks for through the environment and what cannot be had here."""
    asked = {name: value for name, value in os.environ.items() if value.lower() not in ("", "no", "false")}
    other = (f"ACCELERATE_USE_{name}" for name in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"))
    refused = {**dict.fromkeys(other, "use DDP or FSDP2"), "ACCELERATE_MIXED_PRECISION": "use --dtype bfloat16"}
    if "ACCELERATE_USE_FSDP" in asked:
        refused |= {"FSDP_CPU_RAM_EFFICIENT_LOADING": "each process reads the weights; set it to false",
                    "FSDP_OFFLOAD_PARAMS": "untried here; set it to false",
                    "FSDP_ACTIVATION_CHECKPOINTING": "use --gradient-checkpointing"}  # fmt: skip
        if asked.get("FSDP_VERSION") != "2":
            refused["ACCELERATE_USE_FSDP"] = "set fsdp_version to 2"
        elif made.distributed_state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
            refused["ACCELERATE_USE_FSDP"] = "without GPUs accelerate would give DDP or nothing; leave it out"
        if made.load_best_model_at_end:
            raise BadInput("load_best_model_at_end: sharded weights do not read it; leave it or FSDP2 out")
    for name in refused.keys() & asked.keys():
        raise BadInput(f"{name.lower()}={asked[name]}: {refused[name]}")
