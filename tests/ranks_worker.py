"""What the processes of `tests/test_ranks.py` run: trainings, one after another, under DDP or FSDP2 on gloo.

On a CPU Accelerate gives DDP where FSDP2 is asked for. All else of its path works there, so for a job with "shard" the
processes pass for those of GPUs; the types of the wrapped modules are told to the test.
"""

import gc
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from alignkd_lab import training
from alignkd_lab.errors import AlignkdError
from alignkd_lab.lm import own_pairs, ranks, rollouts, weights

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
         "FSDP_RESHARD_AFTER_FORWARD": "true"}  # fmt: skip
LOAD, START = weights.load, PartialState.__init__


def letters(prompts, responses):
    """A reward that depends on the prompt, too."""
    pairs = zip(prompts, responses, strict=True)
    return [sum(map(str.isalpha, text)) / (1 + sum(map(ord, prompt)) % 7) for prompt, text in pairs]


def load_double(*args, **kwargs):
    model, tokenizer = LOAD(*args, **kwargs)
    return model.double(), tokenizer


def pass_for_gpus(state, *args, **kwargs):
    START(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


class Tell(TrainerCallback):
    """Tells the number of processes and of sharded modules; kills the last process after the step `kill`."""

    def __init__(self, told, kill):
        self.told, self.kill = told, kill

    def on_step_end(self, args, state, control, model=None, **kwargs):
        sharded = sum(isinstance(module, FSDPModule) for module in model.modules())
        self.told |= {"world": args.world_size, "sharded": sharded}
        if state.global_step == self.kill and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(options, double=False, shard=False, kill=None):
    told = {}
    with ExitStack() as stack:
        if double:
            stack.enter_context(patch.object(weights, "load", load_double))
        if shard:
            stack.enter_context(patch.dict(os.environ, FSDP2))
            stack.enter_context(patch.object(PartialState, "__init__", pass_for_gpus))
        sharded = stack.enter_context(patch.object(ranks, "shard", wraps=ranks.shard))
        stack.enter_context(patch.object(own_pairs, "BATCH", 4))
        wrote = [stack.enter_context(patch.object(at, "sample", wraps=at.sample)) for at in (own_pairs, rollouts)]
        record = training.train(callbacks=[Tell(told, kill)], **options)
    told["teachers"] = sharded.call_count
    told["wrote"] = ranks.exchange([sum(len(call.kwargs["only"]) for call in one.call_args_list) for one in wrote])
    return {**told, "wrapper": record["wrapper"], "processes": record["processes"], "result": record["result"]}


def main(path):
    gc.freeze()  # or each training looks through all that was imported
    found = []
    for job in json.loads(Path(path).read_text()):
        found.append(train(**job))
        if PartialState().is_main_process:
            Path(path).with_suffix(".found").write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except AlignkdError as error:
        sys.exit(f"{type(error).__name__}: {error}")
