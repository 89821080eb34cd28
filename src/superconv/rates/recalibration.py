"""Batch-norm statistics of the present weights: running ones lag behind, and remember the start."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the statistics anew, as the mean over batches; those of frozen batch norms stay.

    Frozen are batch norms in evaluation mode while the model is in training mode, and those that an overridden
    `train()` keeps there.

    Args:
        model: Model whose batch norms are estimated.
        batches: Inputs, sequences that begin with them, or functions that make the forward pass of the model that they
            are given.

    Raises:
        ValueError: There is no batch.
    """
    modes = [(part, part.training) for part in model.modules()]
    frozen = [part for part, training in modes if model.training and not training]
    try:
        model.train()
        for part in frozen:
            part.training = False
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
        momenta = [part.momentum for part in norms]
        try:
            for part in norms:
                part.reset_running_stats()
                part.momentum = None
            for batch in _some(batches) if norms else ():
                if callable(batch):
                    batch(model)
                else:
                    model(batch[0] if isinstance(batch, list | tuple) else batch)
        finally:
            for part, momentum in zip(norms, momenta, strict=True):
                part.momentum = momentum
    finally:
        model.train(modes[0][1])
        for part, training in modes:
            part.training = training


def _some(batches: Iterable[T]) -> Iterator[T]:
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:  # the statistics would be left at mean 0, variance 1
        raise ValueError("recalibrate_batch_norm gave no batch: it is called before every evaluation, for new ones")
