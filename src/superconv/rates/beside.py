"""What stands beside a model and its optimizer while they train: schedulers, samplers' epochs, positions of streams."""

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import IterableDataset

Undo = Callable[[], object]
_PARTS = ("sampler", "batch_sampler", "dataset", "datasets")


def schedulers_of(optimizer: Optimizer) -> list[LRScheduler]:
    """The schedulers of torch that are attached to an optimizer; those know it, and it does not know them."""
    if not hasattr(optimizer.step, "_wrapped_by_lr_sched"):  # torch's mark of an optimizer that has one
        return []
    holders = gc.get_referrers(optimizer)
    owners = [owner for holder in holders if isinstance(holder, dict) for owner in gc.get_referrers(holder)]
    found = {id(o): o for o in (*holders, *owners) if isinstance(o, LRScheduler) and o.optimizer is optimizer}
    return list(found.values())


def take_state(value: Any) -> Undo | None:
    """Note the `state_dict` of anything that has one and `load_state_dict`; `None` for others."""
    if not (callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))):
        return None
    state = copy.deepcopy(value.state_dict())
    return lambda: value.load_state_dict(copy.deepcopy(state))


def take_positions(loader: object) -> list[Undo]:
    """Note the epochs of a loader's samplers and the positions of its streams; warn of those that cannot be had.

    Warns:
        UserWarning: A stream goes on where it stopped, by an iterator that it keeps.
    """
    undo: list[Undo] = []
    for part in _parts(loader):
        own = getattr(part, "__dict__", {})
        stream = isinstance(part, IterableDataset)
        state = take_state(part) if stream else None
        if state is not None:
            undo.append(state)
            continue
        for name, value in own.items():
            if type(value) is int and (name == "epoch" or stream):
                undo.append(partial(setattr, part, name, value))
            elif stream and isinstance(value, Iterator):
                warnings.warn(
                    f"{type(part).__name__}.{name} is an iterator, so the batches that a range test takes from it are "
                    "gone afterwards: give the data set state_dict and load_state_dict, or another loader",
                    stacklevel=4,
                )
    return undo


def _parts(loader: object) -> Iterator[object]:
    waiting: list[object] = [loader]
    seen: list[object] = []
    while waiting:
        part = waiting.pop()
        if part is None or any(part is other for other in seen):
            continue
        seen.append(part)
        yield part
        for name in _PARTS:
            held = getattr(part, name, None)
            waiting += held if name == "datasets" and isinstance(held, list) else [held]
