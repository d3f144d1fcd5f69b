"""What TRL's `DPOTrainer` makes of given pairs, to compare with: its own tokens, masks and sums; nothing is trained."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence

from transformers import PrinterCallback

from alignkd_lab.lm.quiet import quiet


def trl_dpo(policy, reference, tokenizer, rows: Sequence[dict[str, str]], beta: float) -> dict[str, float]:
    """`loss`, `chosen_rewards` and `rejected_rewards`, means over the pairs, by `DPOTrainer.evaluate`.

    Args:
        policy, reference: models of transformers; both keep the forward pass that TRL gives them, which computes
            the same as their own.
        rows: `prompt`, `chosen` and `rejected` as text. TRL appends the end token to both responses.
        beta: KL weight.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    with tempfile.TemporaryDirectory() as scratch, quiet(), _no_bars():
        arguments = DPOConfig(
            output_dir=scratch,
            beta=beta,
            per_device_eval_batch_size=len(rows),
            max_length=None,
            bf16=False,
            use_cpu=policy.device.type == "cpu",
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        data = Dataset.from_list(list(rows))
        trainer = DPOTrainer(policy, reference, arguments, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate(data)
    logged = trainer.state.log_history[-1]
    names = {"loss": "loss", "rewards/chosen": "chosen_rewards", "rewards/rejected": "rejected_rewards"}
    return {ours: logged[f"eval_{theirs}"] for theirs, ours in names.items()}


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of `datasets`, which a notebook would keep as widgets, and without words on stderr."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()
