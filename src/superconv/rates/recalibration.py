"""Batch-norm statistics of the present weights: running ones lag behind, and remember the start."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

T = TypeVar("T")


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the statistics anew, as the mean over batches.

    Args:
        model: Whose batch norms are estimated.
        batches: Inputs, or sequences that begin with them.

    Raises:
        ValueError: There is no batch.
    """
    momenta = {part: part.momentum for part in model.modules() if isinstance(part, _BatchNorm)}
    try:
        update_bn(_some(batches), model)
    finally:
        for part, momentum in momenta.items():
            part.momentum = momentum


def _some(batches: Iterable[T]) -> Iterator[T]:
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:  # update_bn would leave the statistics at mean 0, variance 1
        raise ValueError("recalibrate_batch_norm gave no batch: it is called before every evaluation, for new ones")
