"""Promise 1's machinery: what is taken down comes back bit for bit, in the same objects."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from superconv.rates.snapshot import Snapshot, isolated_rng, probing


def update(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    def closure() -> torch.Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).pow(2).mean()
        loss.backward()
        return loss

    for optimizer in optimizers:
        optimizer.step(closure)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


def test_parameters_buffers_and_flags_come_back_in_the_same_objects():
    model = network()
    model.register_buffer("hidden", torch.arange(3.0), persistent=False)
    model.register_buffer("cache", torch.zeros(2), persistent=False)
    model.register_buffer("absent", None)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = {id(t): t.detach().clone() for t in (*model.parameters(), *model.buffers())}
    names, saved = [n for n, _ in model.named_buffers()], list(model.state_dict())
    snapshot = Snapshot([model])
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(3).add_(torch.nan)
    model.hidden = None
    model.register_buffer("cache", torch.ones(1))  # makes it persistent
    model.absent = torch.ones(2)
    model.register_buffer("new", torch.ones(1))
    model[1].running_mean = torch.full((5,), 7.0)
    model[1].running_var.zero_()
    model.train()
    model.requires_grad_(True)
    model[3].weight.data = torch.zeros(1, 1, dtype=torch.float64)
    model[3].bias = nn.Parameter(torch.zeros(2))
    snapshot.restore()
    now = {id(t): t.detach() for t in (*model.parameters(), *model.buffers())}
    assert now.keys() == before.keys()
    assert all(torch.equal(now[i], before[i]) and now[i].dtype == before[i].dtype for i in now)
    assert [n for n, _ in model.named_buffers()] == names
    assert list(model.state_dict()) == saved
    assert model.absent is None
    assert [part.training for part in model.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]


def test_a_buffer_that_became_part_of_a_graph_is_a_leaf_again():
    model = nn.Linear(2, 2)
    model.register_buffer("trace", torch.zeros(2))
    snapshot = Snapshot([model])
    model.trace.add_(model.weight.sum())
    snapshot.restore()
    assert model.trace.is_leaf
    assert not model.trace.requires_grad
    assert torch.equal(model.trace, torch.zeros(2))


def test_expanded_buffers_which_cannot_be_written_to_are_no_obstacle():
    model = nn.Identity()
    model.register_buffer("expanded", torch.ones(2, 1).expand(2, 3))
    snapshot = Snapshot([model])
    model.expanded[:, :1] = 5.0
    snapshot.restore()
    assert torch.equal(model.expanded, torch.ones(2, 3))


def test_gradients_come_back_and_none_stays_none():
    model = nn.Linear(3, 2)
    model.weight.grad = torch.arange(6.0).reshape(2, 3)
    gradient, values = model.weight.grad, model.weight.grad.clone()
    snapshot = Snapshot([model])
    gradient.zero_()
    model.weight.grad = None
    model.bias.grad = torch.ones(2)
    snapshot.restore()
    assert model.weight.grad is gradient
    assert torch.equal(gradient, values)
    assert model.bias.grad is None


def test_sparse_gradients_come_back():
    model = nn.Embedding(5, 2, sparse=True)
    model(torch.tensor([1, 2])).sum().backward()
    values = model.weight.grad.to_dense()
    snapshot = Snapshot([model])
    model(torch.tensor([0, 1])).sum().backward()
    snapshot.restore()
    assert torch.equal(model.weight.grad.to_dense(), values)


def test_extra_state_comes_back():
    class Counting(nn.Module):
        count = 0

        def get_extra_state(self) -> dict[str, int]:
            return {"count": self.count}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    model = Counting()
    model.count = 4
    snapshot = Snapshot([model])
    model.count = 9
    snapshot.restore()
    assert model.count == 4


def test_lazy_modules_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="run one batch"):
        Snapshot([nn.LazyLinear(3)])


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False),
    "fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, history_size=3),
}


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_as_if_nothing_had_been(name: str, updates: int):
    def trained(*, interrupted: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        for _ in range(updates):
            update(model, optimizer)
        if interrupted:
            snapshot = Snapshot([model], [optimizer])
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.3
                group["invented"] = 1
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(7.0)
            if name != "lbfgs":  # which refuses more than one group
                optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
            for _ in range(3):
                update(model, optimizer)
            snapshot.restore()
            assert bool(optimizer.state) == bool(updates)  # empty again if it was empty
        for _ in range(3):
            update(model, optimizer)
        return model, optimizer

    alone, interrupted = trained(interrupted=False), trained(interrupted=True)
    for ours, theirs in zip(alone[0].state_dict().values(), interrupted[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    states = [optimizer.state_dict() for _, optimizer in (alone, interrupted)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_references_into_the_optimizer_stay_valid():
    # pytorch-lr-finder hands its copy to load_state_dict, so that the "saved" momentum changes with the next step
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9)
    update(model, optimizer)
    group, entry = optimizer.param_groups[0], optimizer.state[model[0].weight]
    rate, momentum = group["lr"], entry["momentum_buffer"]
    values = momentum.clone()
    snapshot = Snapshot([model], [optimizer])
    for _ in range(2):
        update(model, optimizer)
        snapshot.restore()
        assert optimizer.param_groups[0] is group
        assert group["lr"] is rate
        assert optimizer.state[model[0].weight] is entry
        assert entry["momentum_buffer"] is momentum
        assert torch.equal(momentum, values)


def test_parameters_of_the_optimizer_alone_and_wrapped_optimizers_come_back():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, parameters: list[nn.Parameter]) -> None:
            super().__init__(parameters, {})
            self.inner = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
            self.calls = 0

        def step(self, closure=None) -> None:
            self.calls += 1
            self.inner.step()

    scale = nn.Parameter(torch.ones(2))
    optimizer = Wrapper([scale])
    snapshot = Snapshot([nn.Identity()], [optimizer])
    scale.grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(scale, torch.ones(2))
    snapshot.restore()
    assert torch.equal(scale, torch.ones(2))
    assert not optimizer.inner.state
    assert optimizer.calls == 0


@pytest.mark.parametrize("used", [False, True])
def test_a_gradient_scaler_comes_back_even_halfway_through_an_update(used: bool):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    def step(*, finish: bool = True) -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(4, 3)).mean()).backward()
        scaler.unscale_(optimizer)
        if finish:
            scaler.step(optimizer)
            scaler.update()

    if used:
        step()
    before = scaler.state_dict()
    snapshot = Snapshot([model], [optimizer], scaler)
    step()
    step()
    step(finish=False)
    assert scaler.state_dict() != before
    snapshot.restore()
    assert scaler.state_dict() == before
    assert (scaler._scale is None) is not used
    step()  # unscale_ would raise, had it been called already


def draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_default_generators_come_back():
    state = Snapshot()
    first = draws()
    state.restore()
    assert draws() == first
    state.restore()
    with isolated_rng():
        assert draws() == first
        torch.manual_seed(9)
    assert draws() == first


def test_default_generators_come_back_after_an_error():
    @isolated_rng()
    def interrupted() -> None:
        torch.rand(1)
        raise KeyboardInterrupt

    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(torch.get_rng_state(), state)


class Noisy(TensorDataset):
    def __init__(self) -> None:
        super().__init__(torch.arange(12.0))
        self.noise, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)

    def __getitem__(self, index: int) -> torch.Tensor:
        extra = torch.rand(1, generator=self.noise).item() + self.numpy.random() + self.python.random()
        return super().__getitem__(index)[0] + extra


def loaders() -> dict[str, DataLoader]:
    data = Noisy()
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(1))
    return {
        "loader": DataLoader(data, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(1)),
        "sampler": DataLoader(data, batch_size=3, sampler=sampler),
        "batch sampler": DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 3, False)),
        "subset": DataLoader(torch.utils.data.Subset(data, range(5)), batch_size=3),
    }


@pytest.mark.parametrize("name", loaders())
def test_generators_of_loaders_samplers_and_data_come_back(name: str):
    loader = loaders()[name]
    list(loader)
    snapshot = Snapshot(loaders=[loader])
    first = torch.cat(list(loader))
    snapshot.add_loader(loader)  # the first note counts
    snapshot.restore()
    assert torch.equal(torch.cat(list(loader)), first)


def test_probing_puts_back_what_forward_passes_change():
    model = network()
    model[2].eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    with probing(model):
        model.train()
        model(torch.randn(8, 3))
        model.eval()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [part.training for part in model.modules()] == [True, True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generators_come_back():
    torch.cuda.init()
    with isolated_rng():
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), first)
