"""Traits of a network and its optimizers, on which rules for rates and decay depend."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from superconv import optim
from superconv.models.dropout import dropout_rates

HEAVY_BALL = (torch.optim.SGD, torch.optim.ASGD, optim.CaffeSGD)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What rules for rates and decay depend on."""

    optimizers: tuple[str, ...]
    """Names of their classes."""
    heavy_ball: bool
    """Whether the steps of all grow with the gradient; others' are of the rate's size."""
    momentum: bool
    """Whether all have momentum or betas; momentum lengthens a heavy ball's steps."""
    decoupled: bool
    """Whether the decay of all is apart from the gradient, as AdamW's."""
    normalises: bool
    """Whether any layer does; then the weights' scale is free, grows with the rate, and tames it."""
    batch_norm: bool
    """Whether any does over the batch, as in networks whose every weight but the last has a free scale."""
    dropout: tuple[float, ...]
    """Rates of its dropout layers, ascending, each once."""


def traits_of(model: nn.Module, optimizers: Sequence[Optimizer]) -> Traits:
    """Read the traits of a network and the optimizers of its parameters."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return Traits(
        optimizers=tuple(type(optimizer).__name__ for optimizer in optimizers),
        heavy_ball=all(isinstance(optimizer, HEAVY_BALL) for optimizer in optimizers),
        momentum=all({"momentum", "betas"} & group.keys() for group in groups),
        decoupled=all(
            isinstance(optimizer, optim.DECOUPLED) or optimizer.param_groups[0].get("decoupled_weight_decay")
            for optimizer in optimizers
        ),
        dropout=dropout_rates(model),
        batch_norm=any(isinstance(module, _BatchNorm) for module in model.modules()),
        normalises=any("norm" in type(module).__name__.lower() for module in model.modules()),
    )
