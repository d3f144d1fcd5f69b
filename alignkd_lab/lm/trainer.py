"""One trainer for every loss: `transformers.Trainer` with a loss function, LoRA through peft.

Checkpoints, schedules, clipping and devices come from transformers. What is added: the loss is any
function of (model, batch, items), matrix products run in the dtype that the caller names, and progress and curves reach
the caller. Several processes share one training (`lm.ranks`), with the gradient of one.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.pytorch_utils import Conv1D
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from alignkd_lab.errors import BadInput, CannotContinue, check_number
from alignkd_lab.lm import ranks
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.batch import Example, autocast, collate, plain, token_counts
from alignkd_lab.memory import halve


class LossTrainer(Trainer):
    """`loss(model, batch, items) -> (scalar, info)`, where `items` are the token counts of the whole step.

    The trainer's batch is the effective batch. It is collated and run `micro_batch` examples at a time, each part
    divided by the counts of the whole, so the gradient is the same however it is split. Where memory runs out the
    micro-batch halves, for good, and the step starts again: the effective batch stays. Forward passes multiply in
    `dtype`.

    With `write` the examples are prompts: before each step `write(model, prompts, step)` gives the step's examples.

    Of several processes each reads the whole batch, which is but lists, and so knows its counts and its order; it runs
    its share of the parts. Checkpoints are those of one process, whatever wraps the model.
    """

    def __init__(
        self,
        loss: Callable,
        micro_batch: int | None = None,
        dtype: torch.dtype = torch.float32,
        aside: Path | None = None,
        write: Callable | None = None,
        **kwargs,
    ) -> None:
        super().__init__(data_collator=lambda examples: {"examples": examples}, **kwargs)
        self._loss, self._dtype, self._aside, self._write = loss, dtype, aside, write
        self.micro_batch = micro_batch or self.args.per_device_train_batch_size
        self.infos: list = []
        self.is_fsdp_enabled = False  # its own checkpoints fit the number of processes that wrote them alone

    def get_train_dataloader(self) -> DataLoader:
        if ranks.count() == 1:
            return super().get_train_dataloader()
        from accelerate.data_loader import prepare_data_loader

        loader = DataLoader(self.train_dataset, self._train_batch_size, collate_fn=self.data_collator,
                            sampler=self._get_train_sampler(), drop_last=self.args.dataloader_drop_last)  # fmt: skip
        return prepare_data_loader(loader, num_processes=1, process_index=0, use_seedable_sampler=True,
                                   data_seed=self.args.data_seed)  # fmt: skip

    def training_step(self, model, inputs, num_items_in_batch=None):
        examples = inputs["examples"]
        if self._write:
            examples = self._write(self.model, examples, self.state.global_step)
        model.train()
        way_out = (
            "one example alone does not fit in training; shorten the responses (max_tokens), lower lora_rank, or use "
            "gradient checkpointing"
        )
        if ranks.count() > 1:  # where memory runs out in one, the others wait for it already, so none can start again
            way_out = f"{self.micro_batch} examples do not fit in training; lower micro_batch, or shorten the responses"
            (total, infos), _ = halve(lambda _: self._step(model, examples, self.micro_batch), 1, "", way_out)
            told = ranks.exchange((total.item(), [info._make(map(Tensor.cpu, info)) for info in infos]))
            total = torch.tensor(sum(loss for loss, _ in told), dtype=torch.float64, device=self.args.device)
            infos = [info for _, of_rank in told for info in of_rank]
        else:
            (total, infos), self.micro_batch = halve(
                lambda size: self._step(model, examples, size), self.micro_batch, "micro_batch", way_out,
                model.zero_grad,
            )  # fmt: skip
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not (total.isfinite() and ranks.whole(torch.nn.utils.get_total_norm(grads)).isfinite()):
            stop_at(self.state.global_step + 1, float(total), list(map(_said, examples)), self._aside)
        self.infos.append((float(total), _join(infos)))
        return total

    def _step(self, model, examples: list[Example], size: int) -> tuple[Tensor, list]:
        items, total, infos = token_counts(examples), torch.zeros((), device=self.args.device), []
        size = min(size, math.ceil(len(examples) / ranks.count()))
        mine = ranks.share([examples[start : start + size] for start in range(0, len(examples), size)])
        for number, (part, counts) in enumerate(mine, 1):
            # DDP need not average before the last part; FSDP2 has no no_sync, and keeps shards.
            wait = getattr(model, "no_sync", None) if number < len(mine) else None
            with self.compute_loss_context_manager(), wait() if wait else contextlib.nullcontext():
                loss, info = self.compute_loss(model, collate(part), return_outputs=True, num_items_in_batch=items)
                # What wraps the model takes the mean of the ranks' gradients, and the step's is their sum.
                self.accelerator.backward(loss if ranks.count() == 1 else loss * (ranks.count() if counts else 0))
            if counts:
                total = total + loss.detach()
                infos.append(info)
        return total, infos

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with autocast(plain(model).device, self._dtype):
            loss, info = ranks.inside(model, lambda inner: self._loss(inner, inputs, num_items_in_batch))
        return (loss, info) if return_outputs else loss

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, ranks.whole_weights(self.model) if ranks.is_sharded(self.model) else state_dict)

    def _save_optimizer_and_scheduler(self, output_dir):
        if not ranks.is_sharded(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)
        whole = ranks.whole_optimizer(self.optimizer)
        if self.args.should_save:
            torch.save(whole, os.path.join(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint):
        if not ranks.is_sharded(self.model):
            return super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            held = (torch.load(os.path.join(checkpoint, name), map_location="cpu", weights_only=True)
                    for name in (OPTIMIZER_NAME, SCHEDULER_NAME))  # fmt: skip
            ranks.load_optimizer(self.optimizer, next(held))
            self.lr_scheduler.load_state_dict(next(held))

    def floating_point_ops(self, inputs):
        return 0  # transformers counts by `input_ids`, which do not exist before collation


def _said(example: Example) -> dict:
    """What a training example holds, without what teachers say: that is views of whole files."""
    given = {name: list(getattr(example, name)) for name in ("prompt", "roles", "reference_log_probs", "advantages")}
    return {**given, "responses": list(map(list, example.responses))}


def stop_at(step: int, loss: float, batch, aside: Path | None) -> None:
    """Keeps the batch of a step whose loss or gradient is not finite, and raises CannotContinue, which names it."""
    path = (aside or Path(tempfile.mkdtemp(prefix="alignkd-"))) / f"not-finite-step-{step}.pt"
    if ranks.index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "loss": loss, "batch": batch}, path)
    raise CannotContinue(
        f"training: in step {step} the loss ({loss:g}) or its gradient is not finite; the step's batch is kept in "
        f"{path} (torch.load with weights_only=True); lower the learning rate, or look for what is odd in it"
    )


def _join(infos: list):
    """The diagnostics of a step from those of its parts."""
    first = infos[0]
    if len(infos) == 1:
        return first
    fields = zip(*infos, strict=True)
    return type(first)(*map(torch.cat, fields))


class Watch(TrainerCallback):
    """Tells the caller of every step as it ends."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step

    def on_step_end(self, args, state, control, **kwargs):
        self._on_step(state.global_step)


def with_lora(model, rank: int, seed: int = 0, targets: str | list[str] = "all-linear", dropout: float = 0.0):
    """The model with a fresh LoRA on every linear layer of its blocks: B = 0, so it starts unchanged; A from `seed`.

    `targets` are the layers, by the ends of their names, where it is not to be all of them.

    Raises BadInput where a block holds a matrix that LoRA does not reach, as a mixture of experts does.
    """
    from peft import LoraConfig, get_peft_model

    admit(model, adapted=True)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=targets, bias="none")
    # peft draws A from the global generator, whose state depends on all that ran before in this process.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def train(
    model,
    examples: list[Example],
    loss: Callable,
    *,
    learning_rate: float,
    steps: int,
    batch: int,
    seed: int,
    schedule: str = "linear",
    warmup: float = 0.1,
    dtype: torch.dtype = torch.float32,
    micro_batch: int | None = None,
    gradient_checkpointing: bool = False,
    on_step: Callable[[int], None] | None = None,
    aside: Path | None = None,
    write: Callable | None = None,
) -> list:
    """Trains `model` in place for `steps` steps of `batch` examples; returns `(loss, info)` of every step.

    `dtype` is that of matrix products; weights and optimizer stay in float32. `micro_batch` examples run at a time (all
    of the batch unless given); with `gradient_checkpointing` the backward pass computes a block's activations again.
    `aside` is the folder for the batch of a step whose loss or gradient is not finite, a temporary one unless given.
    With `write`, which answers them at each step (`LossTrainer`), the examples are prompts, and every step has `batch`.

    Raises:
        BadInput: the model is refused (`lm.admission`), an example has an id that it does not know, there is none, or
            a number is out of its range.
        CannotContinue: a loss or gradient that is not finite.
        CannotContinue: one example alone does not fit in memory.
    """
    check_number("learning_rate", learning_rate, above=0)
    check_number("warmup", warmup, least=0, most=1)
    for name, value in (("steps", steps), ("batch", batch), ("micro_batch", micro_batch or batch)):
        check_number(name, value, least=1, whole=True)
    check_number("seed", seed, least=0, below=2**32, whole=True)
    if not examples:
        raise BadInput("examples: there are none to train on")
    if write and len(examples) < batch:
        raise BadInput(f"batch: {batch} prompts a step are asked for, and there are {len(examples)}; lower it")
    _check(model, examples)
    recomputing: dict = {}
    if gradient_checkpointing:
        recomputing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=round(warmup * steps),
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=seed,
            data_seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=plain(model).device.type == "cpu",
            dataloader_drop_last=write is not None,
            **recomputing,
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # or transformers would split a batch that it cannot see into
        trainer = LossTrainer(
            loss,
            micro_batch,
            dtype,
            aside,
            write,
            model=model,
            args=arguments,
            train_dataset=examples,
            callbacks=[Watch(on_step)] if on_step else None,
        )
        trainer.remove_callback(PrinterCallback)  # the caller has its own progress
        trainer.train()
    return trainer.infos


def _check(model, examples: list[Example]) -> None:
    admit(model, reach=max(len(row.prompt) + max(map(len, row.responses), default=0) for row in examples))
    known = plain(model).get_input_embeddings().num_embeddings
    for number, row in enumerate(examples):
        ids = list(chain(row.prompt, *row.responses))
        for one in (min(ids), max(ids)):
            if not 0 <= one < known:
                raise BadInput(
                    f"examples: example {number} holds the id {one}, and the model knows {known}; encode it with the "
                    "model's own tokenizer"
                )


def adapter_tensors(model, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The LoRA of a model as `{"model.layers.0.self_attn.q_proj.A": [r, in], "....B": [out, r]}`, B scaled."""
    made = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            made[f"{name}.A"] = module.lora_A["default"].weight.detach().to("cpu", dtype).contiguous()
            scaled = module.lora_B["default"].weight.detach() * module.scaling["default"]
            made[f"{name}.B"] = scaled.to("cpu", dtype).contiguous()
    return made


def merge_adapter(model, tensors: dict[str, Tensor]) -> None:
    """W += B A for every layer that the adapter names; plain torch, so no peft is needed to use a trained policy."""
    with torch.no_grad():
        for name in {key.rsplit(".", 1)[0] for key in tensors}:
            layer = model.get_submodule(name)
            weight, delta = layer.weight, tensors[f"{name}.B"].float() @ tensors[f"{name}.A"].float()
            if isinstance(layer, Conv1D):  # [in, out], as in GPT-2
                delta = delta.T
            weight += delta.to(weight.device, weight.dtype)
