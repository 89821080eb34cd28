"""Several processes that train together, as torchrun or a cluster starts them: how they join, and what ends them."""

import atexit
import gc
import os
import sys
from datetime import timedelta

import torch.distributed as dist
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.distributed.rendezvous import rendezvous

from superconv.errors import UserError

JOINING = timedelta(seconds=50)
"""Time in which all processes must have come: they start together, so one that has not come will not."""
_LOST = ("connection closed by peer", "connection reset", "timed out", "nccl", "gloo", "broken pipe")


def size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(backend: str) -> None:
    """Bring the processes together, once.

    Raises:
        UserError: Not all of them came.
    """
    if dist.is_initialized():
        return
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=JOINING)))
        store.set_timeout(JOINING)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            f"process {os.environ.get('RANK', '0')} of {size()} waited for the others in vain: start all of them, with "
            f"the same MASTER_ADDR and MASTER_PORT ({str(error).splitlines()[0][:80]})"
        ) from None
    atexit.register(_leave)


def strategy(model: nn.Module | None) -> DDPStrategy:
    """How gradients are brought together, of a model where one is trained.

    A parameter that gets no gradient in some update (an expert that no sample is routed to, a block that is skipped) is
    waited for by the other processes for ever, unless DDP looks for such parameters in every update. That costs a tenth
    of a small network's update, so it is left out where every module is torch's or superconv's own, as none of those
    decides by its data which of its parameters it uses.
    """
    return DDPStrategy(find_unused_parameters=model is None or not _fixed(model))


def _fixed(model: nn.Module) -> bool:
    return all(type(module).__module__.startswith(("torch.nn.", "superconv.models.")) for module in model.modules())


def lost(error: BaseException) -> str | None:
    """What to say where an error means that another process has ended; `None` for any other error."""
    if size() == 1 or not isinstance(error, (RuntimeError, dist.DistError)):
        return None
    words = str(error).lower()
    if not isinstance(error, dist.DistError) and not any(sign in words for sign in _LOST):
        return None
    return (
        f"process {os.environ.get('RANK', '0')} of {size()} ends, as another one no longer answers, which says itself "
        "what was wrong; --resume goes on from the last checkpoint"
    )


def give_up(text: str, status: int) -> None:
    """End this process at once: what others do not answer to may neither be waited for nor be closed."""
    print(f"superconv: {text}", file=sys.stderr, flush=True)
    os._exit(status)


def _leave() -> None:
    """Join gloo's threads: one that still drops a tensor while Python finalizes aborts a run that has succeeded."""
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # DDP modules in reference cycles keep the group, and its threads, alive
