"""TRL's steps on the same tokens, through its public seams: constructors, `training_step`, `compute_loss`.

DPO is `DPOTrainer.training_step` whole, with the reference's log-probabilities precomputed as ours are.
`DistillationTrainer` samples inside `training_step`, so there the loss step alone is timed on given completions:
`compute_loss` and the backward pass, with forward KL. It asks a live teacher; the one handed to it answers with hidden
states that were kept, so both sides have a cached teacher. Collation is inside our steps and outside TRL's.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import io
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from alignkd_lab.bench.steps import BETA, PAIRS, PROMPT, Batch, Step, checkpoint_blocks
from alignkd_lab.lm.architecture import backbone
from alignkd_lab.lm.batch import autocast
from alignkd_lab.lm.quiet import quiet
from alignkd_lab.lm.shapes import with_layers

TIMED = {
    "dpo": "DPOTrainer.training_step, reference log-probabilities precomputed",
    "kd": "DistillationTrainer.compute_loss and backward on given completions (its training_step would sample them), "
    "forward KL, the teacher's hidden states kept",
}


def version() -> str:
    return importlib.metadata.version("trl")


class TrlSteps:
    """TRL's two trainers, built once on copies of `student`, which is the model before any LoRA."""

    def __init__(
        self, student, tokenizer, folder: Path, *, lora_config, checkpointing: bool, longest: int, dtype: torch.dtype
    ) -> None:
        self._device, self._dtype = student.device, dtype
        common = {
            "per_device_train_batch_size": PAIRS,
            "gradient_checkpointing": checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "bf16": dtype == torch.bfloat16,
            "use_cpu": self._device.type == "cpu",
            "report_to": "none",
            "disable_tqdm": True,
        }
        # The one row that each trainer is built on has progress bars of its own.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            from datasets import Dataset
            from trl import DistillationConfig, DistillationTrainer, DPOConfig, DPOTrainer

            # A trainer must have data; the batches are handed over directly.
            rows = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
            more = {"processing_class": tokenizer, "peft_config": lora_config}
            config = DPOConfig(str(folder / "dpo"), beta=BETA, precompute_ref_log_probs=True,
                               max_length=PROMPT + longest, **common)  # fmt: skip
            self._dpo = DPOTrainer(copy.deepcopy(student), args=config, train_dataset=rows, **more)
            self._kept, rows = _kept_teacher(student), Dataset.from_dict({"prompt": ["a"] * PAIRS})
            config = DistillationConfig(str(folder / "kd"), beta=0.0, temperature=1.0, max_completion_length=longest,
                                        **common)  # fmt: skip
            self._kd = DistillationTrainer(copy.deepcopy(student), self._kept, config, rows, **more)
            self._models = []
            for trainer in (self._dpo, self._kd):
                # What `train` does before its first step.
                if checkpointing:
                    checkpoint_blocks(trainer.model)
                trainer.current_gradient_accumulation_steps = 1
                self._models.append(trainer.accelerator.prepare(trainer.model))

    def steps(self, batch: Batch) -> list[Step]:
        dpo_model, kd_model = self._models
        preferences, completions = _preferences(batch, self._device), _completions(batch, self._device)
        length = len(batch.pairs[0].responses[0])

        def dpo() -> float:
            return self._dpo.training_step(dpo_model, dict(preferences), None).item()

        def kd() -> float:
            kd_model.train()
            kept = backbone(self._kept)
            kept.states = _teacher_states(batch, length, self._device)
            # Under bf16=True this trainer generates in bfloat16 and computes the loss in float32; ours does not.
            with autocast(self._device, self._dtype):
                loss = self._kd.compute_loss(kd_model, completions)
            self._kd.accelerator.backward(loss)
            del kept.states
            return loss.item()

        return [Step("dpo", "trl", dpo_model, dpo), Step("kd", "trl", kd_model, kd)]


def _kept_teacher(student):
    """A model with the student's head, whose backbone answers with the `states` that it is given."""
    teacher = type(student)(with_layers(student.config, 1))
    head = student.get_output_embeddings().weight.detach().clone()
    teacher.get_output_embeddings().weight = nn.Parameter(head, requires_grad=False)
    known = backbone(teacher)
    known.forward = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=known.states)
    return teacher


def _preferences(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """TRL's own form of a batch: chosen half first, right-padded (there is nothing to pad), mask unshifted."""
    rows = [(pair.prompt, pair.responses[side]) for side in (0, 1) for pair in batch.pairs]
    ids = torch.tensor([prompt + response for prompt, response in rows], device=device)
    completion = torch.ones_like(ids)
    completion[:, :PROMPT] = 0
    reference = torch.tensor([pair.reference_log_probs for pair in batch.pairs], device=device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": completion,
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }


def _completions(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    rows = [(pair.prompt, response) for pair in batch.pairs for response in pair.responses]
    prompts = torch.tensor([prompt for prompt, _ in rows], device=device)
    responses = torch.tensor([response for _, response in rows], device=device)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": responses,
        "completion_mask": torch.ones_like(responses),
        "num_items_in_batch": torch.tensor(float(responses.numel()), device=device),
    }


def _teacher_states(batch: Batch, length: int, device: torch.device) -> Tensor:
    """Hidden states that predict each completion token, and one more that nobody reads, [responses, length + 1, d]."""
    kept = [rows["hidden"] for pair in batch.pairs for rows in pair.signals["teacher"]]
    states = torch.stack(kept).to(device)
    return torch.cat([states, states[:, -1:]], dim=1)
