"""Tasks that train in no time."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from superconv.data.source import TensorSource
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

PLAN = ExecutionPlan(channels_last=False, threads=1)


class Quadratic(nn.Module):
    """One weight per input, whose squared distance from a target is the loss: stable below 2 / curvature."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 3.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weight


def quadratic(samples: int = 512, *, scale: float = 1.0) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = scale * torch.randn(samples, 4, generator=generator)
    targets = inputs * torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1 * torch.randn(samples, 4, generator=generator)
    source = TensorSource(inputs, targets)
    return Task(name="quadratic", model=Quadratic, train=source, validation=source, loss=F.mse_loss, metric=None)


def recipe(**fields) -> Recipe:
    plain = {"momentum": 0.0, "min_momentum": None, "optimizer_args": {}, "weight_decay": 0.0}
    return Recipe(**{"steps": 200, "batch_size": 32, "max_lr": 1.0, **plain, **fields})


def kept(folder: Path) -> dict[str, Path]:
    """Where `train` keeps a run in a folder."""
    return {"history": RunFolder(folder).history.path, "checkpoint": RunFolder(folder).checkpoint}
