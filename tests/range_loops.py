"""Loops for the tests of the range test."""

import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from superconv.rates.range_test import RangeTest

Batch = tuple[Tensor, Tensor]


class Augmented(TensorDataset):
    def __init__(self) -> None:
        inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))
        super().__init__(inputs, (inputs.sum(1) > 0).long())

    def __getitem__(self, index: int) -> Batch:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.rand(1), label  # in a worker, this is the worker's generator


class Training:
    """A training that uses every source of randomness there is."""

    def __init__(
        self, optimizer: str = "momentum", *, scaler: bool = False, workers: int = 0, own: bool = True
    ) -> None:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(3)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.optimizer = {
            "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
            "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
            "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
            "fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
        }[optimizer](self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.99)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3) if scaler else None
        generator = torch.Generator().manual_seed(11) if own else None
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        self.loader = DataLoader(Augmented(), batch_size=6, shuffle=True, generator=generator, **options)
        self.losses: list[float] = []

    def step(self, batch: Batch) -> Tensor:
        inputs, labels = batch
        noise = 0.01 * (np.random.rand() + random.random())
        loss = F.cross_entropy(self.model(inputs + noise + 0.01 * torch.randn_like(inputs)), labels)
        self.optimizer.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def epoch(self) -> None:
        for batch in self.loader:
            self.losses.append(self.step(batch).item())
            self.scheduler.step()

    def range_test(self, steps: int = 10, **options) -> RangeTest:
        return RangeTest(self.model, self.optimizer, max_lr=3.0, steps=steps, scaler=self.scaler, **options)

    def sweep(self, **options) -> RangeTest:
        with self.range_test(**options) as test:
            for batch in test.iterate(self.loader):
                test.record(self.step(batch))
        return test

    def state(self) -> list[object]:
        """All there is to compare."""
        generator = self.loader.generator
        return [
            self.losses,
            list(self.model.state_dict().values()),
            [p.grad for p in self.model.parameters()],
            self.optimizer.state_dict(),
            self.scheduler.state_dict(),
            None if self.scaler is None else self.scaler.state_dict(),
            torch.get_rng_state(),
            None if generator is None else generator.get_state(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        ]


def plain(*rates: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    parameters = [model.weight, model.bias]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates or (0.1, 0.1), strict=True)]
    return model, torch.optim.SGD(groups, lr=0.1)


def sweep(test: RangeTest, loss: Callable[[int], float] = lambda i: 1.0, **record) -> RangeTest:
    """A sweep whose losses are given; the optimizers step on zero gradients."""
    with test:
        for i, _ in enumerate(test.iterate(range(7))):
            for optimizer in test._optimizers:
                optimizer.step()
            test.record(loss(i), **{k: v(i) for k, v in record.items()})
    return test
