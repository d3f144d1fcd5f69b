"""The trainer of `alignkd train`: held-out pairs are measured while it trains, and what its losses tell is logged.

All goes through `Trainer.log`, so that the curves are part of every checkpoint, and reporters and callbacks see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import losses, ranks
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, autocast, collate, hidden_states, token_counts
from alignkd_lab.lm.chunked import default_chunk, token_log_probs
from alignkd_lab.lm.rollouts import HeldoutPrompts, Rollouts, in_parts
from alignkd_lab.lm.scoring import TIE
from alignkd_lab.lm.teacher_cache import CachedTeacher
from alignkd_lab.lm.trainer import LossTrainer
from alignkd_lab.store import damage, seal

REFERENCE = "policy-reference"


@dataclass(frozen=True)
class Heldout:
    """Pairs that training never sees, and what the reference policy says of their tokens.

    Attributes:
        examples: as the method's loss reads them.
        pairs: [chosen, rejected], with the states and the log-probabilities of `reference`.
    """

    examples: list[Example]
    pairs: list[Example]
    reference: CachedTeacher

    @torch.no_grad()
    def measure(self, model, loss: Callable, dtype: torch.dtype, batch: int, quiet: bool) -> dict[str, float]:
        """The method's `loss`, and how far the policy is from the reference, pi_ref, on the pairs.

        `reward_accuracy` is the share of pairs whose chosen response has the larger reward log pi - log pi_ref, ties
        (within rounding) counting one half; `reward_margin` is the mean difference in nats; `kl` is KL(pi || pi_ref)
        over the whole vocabulary, nats a token of the pairs' responses.
        """
        model.eval()
        items = token_counts(self.examples)

        def read(part: slice, model) -> tuple:
            of_method = float(loss(model, collate(self.examples[part]), items)[0])
            return of_method, *self._against_reference(model, collate(self.pairs[part]))

        found = in_parts(model, read, len(self.examples), batch, dtype, quiet)
        losses_of, margins, kl = zip(*found, strict=True)
        total, margin = sum(losses_of), torch.cat(margins)
        accuracy = (margin > TIE).double() + 0.5 * (margin.abs() <= TIE)
        return {
            "loss": total,
            "reward_accuracy": float(accuracy.mean()),
            "reward_margin": float(margin.mean()),
            "kl": float(torch.cat(kl).mean()),
        }

    def _against_reference(self, model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, head = hidden_states(model, batch), head_of(model)
        labels, response, known = (batch[name].to(head.device) for name in
                                   ("shift_labels", "response", "reference_log_probs"))  # fmt: skip
        chunk, reference = default_chunk(head), self.reference.signal(batch)
        _, of_pairs = losses.dpo(hidden, head, labels, response, known, beta=1.0, chunk=chunk)
        _, of_tokens = losses.kd(hidden, head, reference, divergence="reverse", chunk=chunk)
        return (of_pairs.chosen_rewards - of_pairs.rejected_rewards).cpu(), of_tokens.divergence.cpu()


@torch.no_grad()
def add_reference(pairs: list[Example], reference: CachedTeacher, dtype: torch.dtype, batch: int) -> None:
    """Gives each example the log-probabilities of its responses, by what the reference was cached to say of them."""
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        packed = collate(part)
        said = reference.signal(packed)
        labels = packed["shift_labels"].to(said.hidden.device)
        with autocast(said.hidden.device, dtype):
            found = token_log_probs(said.hidden, said.head, labels, default_chunk(said.head))
        lengths = [len(tokens) for row in part for tokens in row.responses]
        sums = iter([float(tokens.sum()) for tokens in found.split(lengths)])
        for row in part:
            row.reference_log_probs = [next(sums) for _ in row.responses]


class MeasuredTrainer(LossTrainer):
    """`LossTrainer` whose `evaluate` measures all that is held out, and whose log has the means of what the loss tells.

    With `rollouts` the batches are prompts (`lm.batch.EncodedPrompt`), and the loss reads what the policy writes.
    """

    def __init__(
        self, loss: Callable, heldout: list[Heldout | HeldoutPrompts], rollouts: Rollouts | None = None, **kwargs
    ) -> None:
        super().__init__(loss, write=self._written if rollouts else None, **kwargs)
        self._heldout, self._rollouts, self._told, self._said = heldout, rollouts, [], {}

    def _written(self, model, prompts: list, step: int) -> list[Example]:
        examples, self._said = self._rollouts.write(model, prompts, step, 0)
        return examples

    def training_step(self, model, inputs, num_items_in_batch=None):
        total = super().training_step(model, inputs, num_items_in_batch)
        _, info = self.infos.pop()  # of every token: too much to keep over a long training
        told = {name: found.float().mean() for name, found in info._asdict().items() if found.is_floating_point()}
        told |= {name: torch.tensor(value) for name, value in self._said.items()}
        self._told.append({name: float(mean) for name, mean in told.items() if mean.isfinite()})
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._told:
            names = {name: None for told in self._told for name in told}
            found = {name: [told[name] for told in self._told if name in told] for name in names}
            logs |= {name: sum(values) / len(values) for name, values in found.items()}
            self._told = []
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        size = self.args.per_device_eval_batch_size
        metrics = {}
        for part in self._heldout:
            found = part.measure(self.model, self._loss, self._dtype, size, self.args.disable_tqdm)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model, trial) -> None:
        most, self.args.save_total_limit = self.args.save_total_limit, None
        Trainer._save_checkpoint(self, model, trial)
        self.args.save_total_limit = most
        ranks.exchange()  # every rank has written its random state
        if self.args.should_save:
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")  # the older go once it is whole
            rotate_checkpoints(self.args.output_dir, save_total_limit=most,
                               best_model_checkpoint=self.state.best_model_checkpoint, use_mtime=True)  # fmt: skip


def check_measures(arguments, options, texts, answered: list, batch: int) -> None:
    """Raises BadInput for training arguments that fit neither the number of examples nor what is measured."""
    if arguments.dataloader_drop_last and len(texts.training) < batch:
        raise BadInput(f"dataloader_drop_last: {len(texts.training)} examples make no batch of {batch}; leave it out")
    names = ["response_length", "mean_reward"] if answered else []
    if texts.heldout:
        own = ["response_length", *(["mean_reward"] if options.reward else [])]
        names += ["loss", "kl", *(own if options.kind.on_policy else ["reward_accuracy", "reward_margin"])]
    best = (arguments.metric_for_best_model or "").removeprefix("eval_")
    if best and best not in names:
        use = f"use one of {', '.join(names)}" if names else "hold something out with --heldout"
        raise BadInput(f"metric_for_best_model: {best!r} is not measured here; {use}")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest that is whole, as its checksums say; None where there is none."""
    names = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)  # without somebody's copy of one
    return next((path for step in steps if not damage(path := folder / f"checkpoint-{step}")), None)
