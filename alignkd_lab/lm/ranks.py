"""One training in several processes (ranks): who does what, what they tell one another, and states that are sharded.

Accelerate starts the processes and wraps the model, in DistributedDataParallel or FSDP2. Both see only what runs inside
the wrapped model's forward pass, so the whole loss runs there: outside it FSDP2's head is a shard, and DDP would not
average the gradients. A single process runs the same code, unwrapped.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from alignkd_lab.errors import CannotContinue, first_line
from alignkd_lab.lm.architecture import plain

Made = TypeVar("Made")


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    return dist.get_rank() if count() > 1 else 0


def leave() -> int:
    """Ends what was shared; the number that this rank had."""
    rank = index()
    if count() > 1:
        dist.destroy_process_group()
    return rank


def exchange(value: Any = None) -> list:
    """What every rank brings, in their order; it waits for all of them. Tensors should be on the CPU."""
    found = [value] * count()
    if count() > 1:
        dist.all_gather_object(found, value)
    return found


def first(work: Callable[[], Made]) -> Made:
    """`work()` on rank 0, and then on the others, who find what it left on the disk."""
    if index():
        exchange()
        return work()
    try:
        return work()
    finally:
        exchange()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises CannotContinue where another process is gone, as the collectives then say in many words."""
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not (isinstance(error, dist.DistError) or re.search("gloo|nccl", str(error), re.I)):
            raise
        raise CannotContinue(
            f"processes: another of the {count()} is gone ({first_line(error)}); start as many as before, or "
            "fewer with the same batch in all, and the training goes on from its newest checkpoint"
        ) from error


def share(parts: list) -> list[tuple[Any, bool]]:
    """This rank's parts, each with whether it counts.

    FSDP2's ranks gather each layer together, so each runs as many parts as any other: one that has too few runs the
    first part of all once more, which does not count.
    """
    mine = [(part, True) for part in parts[index() :: count()]]
    return mine + [(parts[0], False)] * (math.ceil(len(parts) / count()) - len(mine))


def gather(made: list) -> list:
    """What all ranks made of their parts that count (`share`), on each of them, in the order of the whole."""
    told = exchange(made)
    return [told[at % count()][at // count()] for at in range(sum(map(len, told)))]


def turns(parts: int) -> Iterator[int]:
    """The numbers of parts that are kept on the disk: this rank's share, and once all have made theirs, the others."""
    mine = range(index(), parts, count())
    yield from mine
    exchange()
    yield from (at for at in range(parts) if at not in mine)
    exchange()


def inside(model, run: Callable[[Any], Made]) -> Made:
    """`run` of the model, within the forward pass of what wraps it, where something does."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if inner is model and not is_sharded(model):
        return run(model)
    held = vars(inner).get("forward")  # what some library put in place of the class's own

    def forward() -> Made:
        if held is None:  # the model's own again, where `run` calls the model
            del inner.forward
        else:
            inner.forward = held
        return run(inner)

    inner.forward = forward
    return model()


def is_sharded(model) -> bool:
    return isinstance(model, FSDPModule)


def shard(model) -> None:
    """FSDP2 of each block and of the rest, in place, as Accelerate does it to the model that is trained."""
    blocks = set(plain(model)._no_split_modules or ())
    for module in list(model.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module)
    fully_shard(model)


def whole(tensor: Any) -> Any:
    """A sharded tensor whole, on every rank; anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(model) -> dict:
    """On rank 0 the state of a sharded model, on the CPU: of a PEFT model what is trained. Empty elsewhere."""
    return get_model_state_dict(
        model,
        options=StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=hasattr(model, "peft_config")
        ),
    )


def whole_optimizer(optimizer) -> dict:
    """Its state as that of one process, on the CPU; every rank takes part."""
    state = optimizer.state_dict()
    kept = {at: {name: whole(value).cpu() if hasattr(value, "cpu") else value for name, value in of.items()}
            for at, of in state["state"].items()}  # fmt: skip
    return {**state, "state": kept}


def load_optimizer(optimizer, state: dict) -> None:
    """Loads the state of one process into an optimizer of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for at, of in state["state"].items():
        like = parameters[at]
        for name, value in of.items():
            if getattr(value, "ndim", 0):
                of[name] = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    optimizer.load_state_dict(state)
