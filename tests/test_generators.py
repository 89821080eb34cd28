"""Generators that a data set's transforms keep for themselves."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from small_tasks import PLAN, kept, quadratic
from small_tasks import recipe as recipe_of
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from superconv import RangeTest, train
from superconv.data.source import DatasetSource
from superconv.rates.generators import generators_of
from superconv.training.hooks import Hook


class Noise:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rng = {
            "numpy": lambda: np.random.default_rng(7),
            "python": lambda: random.Random(7),
            "legacy": lambda: np.random.RandomState(7),
            "torch": lambda: torch.Generator().manual_seed(7),
        }[kind]()

    def __call__(self, x):
        if self.kind == "torch":
            return x + 0.1 * torch.randn((), generator=self.rng)
        return x + 0.1 * float(self.rng.gauss(0, 1) if self.kind == "python" else self.rng.normal())


class Compose:
    def __init__(self, *transforms):
        self.transforms = list(transforms)

    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x


def closed(noise):
    return lambda x: noise(x)


class Varied(Dataset):
    def __init__(self, transform, samples: int = 64) -> None:
        self.x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
        self.transform = transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.transform(self.x[index]), self.x[index] * torch.tensor([1.0, -2.0, 0.5, 0.0])


WRAPPED = {
    "attribute": lambda noise: Varied(noise),
    "compose": lambda noise: Varied(Compose(lambda x: x, noise)),
    "module": lambda noise: Varied(nn.Sequential(Module(noise))),
    "closure": lambda noise: Varied(closed(noise)),
    "partial": lambda noise: Varied(partial(Noise.__call__, noise)),
    "method": lambda noise: Varied(noise.__call__),
    "concat": lambda noise: ConcatDataset([Varied(noise, 32), Varied(Compose(noise), 32)]),
    "subset": lambda noise: Subset(ConcatDataset([Varied(noise)]), list(range(64))),
}


class Module(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, x):
        return self.noise(x)


@pytest.mark.parametrize("kind", ["numpy", "python", "legacy", "torch"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_range_test_puts_back_generators_wherever_they_hang(wrap, kind):
    noise = Noise(kind)
    loader = DataLoader(wrap(noise), batch_size=16)
    assert [noise.rng] == [g for g in generators_of(loader) if g is noise.rng]
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = Noise(kind)(0.0)
    with RangeTest(model, optimizer, max_lr=0.5, steps=6) as test:
        for x, y in test.iterate(loader):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert noise(0.0) == expected


def test_generators_of_collate_functions_and_samplers_are_found():
    own, other = np.random.default_rng(1), random.Random(2)

    class Sampler(torch.utils.data.Sampler):
        def __init__(self):
            self.rng = other

        def __iter__(self):
            return iter(range(64))

    loader = DataLoader(Varied(lambda x: x), sampler=Sampler(), collate_fn=lambda batch: (own, batch))
    assert {id(g) for g in generators_of(loader)} >= {id(own), id(other)}


def test_cycles_and_large_data_are_no_obstacle():
    data = Varied(Noise("numpy"))
    data.me, data.samples = data, [object()] * 1_000_000
    assert generators_of(data) == [data.transform.rng]


class Early(Hook):
    def on_update(self, run):
        run.stop = run.step == 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["numpy", "python", "legacy", "torch"])
def test_a_resumed_run_sees_the_same_samples(tmp_path, kind, workers):
    def task():
        source = DatasetSource(Varied(Compose(Noise(kind), Noise(kind))), workers=workers)
        return type(quadratic())(**{**vars(quadratic()), "train": source})

    recipe = recipe_of(steps=20, batch_size=16, max_lr=0.1)
    whole = train(task(), recipe, plan=PLAN).model.state_dict()
    train(task(), recipe, plan=PLAN, hooks=[Early()], **kept(tmp_path))
    again = train(task(), recipe, plan=PLAN, resume=True, **kept(tmp_path)).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())
