"""What stands beside model and optimizer comes back after a range test too, or is told of."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from superconv import OneCycle, RangeTest

DATA = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)))


class Mean(nn.Module):
    """A metric as torchmetrics makes them: its sums are plain attributes, which no state_dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.count, self.values = torch.zeros(()), 0, []

    def update(self, value):
        self.total = self.total + value
        self.count += 1
        self.values.append(value)


class Counter:
    def __init__(self) -> None:
        self.seen = {"batches": 3}

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = state


class Stream(IterableDataset):
    def __init__(self) -> None:
        self.position = 0

    def __iter__(self):
        while True:
            self.position += 1
            yield torch.full((4,), float(self.position))


def swept(loader, each=lambda epoch: None, *, made=None, extra=()):
    model, optimizer = made or pair()
    epoch = 0
    with RangeTest(model, optimizer, max_lr=0.1, steps=6, extra=extra) as test:
        while not test.done:
            for batch in test.iterate(loader):
                x = batch[0] if isinstance(batch, list) else batch
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                test.record(loss)
                epoch += 1
                each(epoch)


def pair():
    model = nn.Linear(4, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_an_average_a_metric_and_anything_with_a_state_come_back_as_extra():
    model, optimizer = pair()
    average, metric, counter = AveragedModel(model), Mean(), Counter()
    metric.update(torch.tensor(2.0))
    before = copy.deepcopy(average.state_dict())

    def each(epoch):
        average.update_parameters(model)
        metric.update(torch.tensor(5.0))
        counter.seen["batches"] += 1

    swept(DataLoader(DATA, batch_size=8), each, made=(model, optimizer), extra=[average, metric, counter])
    assert all(torch.equal(average.state_dict()[name], value) for name, value in before.items())
    assert (float(metric.total), metric.count, metric.values) == (2.0, 1, [torch.tensor(2.0)])
    assert counter.seen == {"batches": 3}
    with pytest.raises(TypeError, match="extra takes what has state_dict"):
        swept(DataLoader(DATA), extra=[object()])


@pytest.mark.parametrize(
    "attach",
    [lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), lambda o: OneCycle(o, 0.5, 50)],
    ids=["torch's", "ours"],
)
def test_a_scheduler_that_the_loop_steps_comes_back(attach):
    model, optimizer = pair()
    scheduler = attach(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    state, groups = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(optimizer.state_dict()["param_groups"])
    swept(DataLoader(DATA, batch_size=8), lambda epoch: scheduler.step(), made=(model, optimizer))
    assert scheduler.state_dict() == state
    assert optimizer.state_dict()["param_groups"] == groups
    optimizer.step()
    scheduler.step()
    assert scheduler.last_epoch == 6


def test_a_sampler_s_epoch_and_a_stream_s_position_come_back():
    sampler = DistributedSampler(DATA, num_replicas=1, rank=0)
    sampler.set_epoch(2)
    swept(DataLoader(DATA, batch_size=8, sampler=sampler), lambda epoch: sampler.set_epoch(epoch + 10))
    assert sampler.epoch == 2
    stream = Stream()
    next(iter(stream))
    swept(DataLoader(stream, batch_size=8))
    assert stream.position == 1


def test_a_stream_that_cannot_be_put_back_is_told_of_once():
    class Once(Stream):
        def __init__(self) -> None:
            super().__init__()
            self.lines = iter(range(10_000))

        def __iter__(self):
            return (torch.full((4,), float(line)) for line in self.lines)

    with pytest.warns(UserWarning, match=r"Once\.lines is an iterator") as said:
        swept(DataLoader(Once(), batch_size=8))
    assert len(said) == 1
