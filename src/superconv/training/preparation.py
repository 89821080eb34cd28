"""What is made once of a network and its optimizers, before their first update."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from superconv.rates.lr_scheduler import ScheduledLR
from superconv.rates.schedules import Schedule
from superconv.recipe import Recipe
from superconv.training.plan import CompileMode


def compile_model(model: nn.Module, mode: CompileMode) -> None:
    """What `Module.compile` does, through one more frame: Dynamo passes over torch's own, so over a `Sequential`."""

    def call(*arguments: Any, **options: Any) -> Any:
        return model._call_impl(*arguments, **options)  # type: ignore[no-untyped-call]  # torch's own

    model._compiled_call_impl = torch.compile(call, mode=mode)


def schedulers_of(optimizers: Sequence[Optimizer], recipe: Recipe) -> list[ScheduledLR]:
    """One for each optimizer, whose rate keeps its ratio to the very first one's; momentum moves where there is any."""
    rate, momentum = recipe.learning_rate(), recipe.momentum_schedule()
    first = float(optimizers[0].param_groups[0]["lr"])

    def scaled(ratio: float) -> Schedule:
        return rate if ratio == 1 else lambda t: ratio * rate(t)

    return [
        ScheduledLR(
            optimizer,
            scaled(float(optimizer.param_groups[0]["lr"]) / first if first else 1.0),
            momentum if all({"momentum", "betas"} & group.keys() for group in optimizer.param_groups) else None,
        )
        for optimizer in optimizers
    ]
