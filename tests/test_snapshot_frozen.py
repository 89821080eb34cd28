"""Frozen parameters cost a snapshot nothing, and what moves without gradients is put back all the same."""

import copy
import warnings

import pytest
import torch
from torch import nn

from superconv import RangeTest
from superconv.rates.snapshot import Snapshot


class Adapted(nn.Module):
    """A frozen layer with a small trainable path beside it, as LoRA has it."""

    def __init__(self, size: int = 1024) -> None:
        super().__init__()
        self.base = nn.Linear(size, size).requires_grad_(False)
        self.down, self.up = nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def copied(monkeypatch, model, optimizer) -> int:
    """Numbers that a snapshot clones."""
    cloned, clone = [], torch.Tensor.clone
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", lambda self, **k: cloned.append(self.numel()) or clone(self, **k))
        Snapshot([model], [optimizer])
    return sum(cloned)


def test_only_what_can_change_is_copied(monkeypatch):
    model = Adapted()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert copied(monkeypatch, model, torch.optim.SGD(trained, 0.1)) == 2 * 2 * 1024
    # Frozen ones in the optimizer may be moved by it.
    assert copied(monkeypatch, model, torch.optim.SGD(model.parameters(), 0.1)) > 1024 * 1024


def test_a_range_test_of_an_adapter_leaves_no_trace():
    model = Adapted(16)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with RangeTest(model, optimizer, max_lr=1.0, steps=5) as test:
            while not test.done:
                optimizer.zero_grad()
                loss = (model(torch.ones(2, 16)) - 1).square().mean()
                loss.backward()
                optimizer.step()
                test.record(loss)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_frozen_parameter_that_was_changed_is_told_of(dtype, hidden):
    model = Adapted(16).to(dtype)
    snapshot = Snapshot([model], [torch.optim.SGD([model.up.weight], 0.1)])
    with torch.no_grad():
        (model.base.weight.data if hidden else model.base.weight).add_(1.0)  # of .data torch counts no change
    with pytest.warns(UserWarning, match="frozen parameter of shape"):
        snapshot.restore()


def test_a_target_network_inside_the_model_comes_back():
    """Moving averages as in BYOL: frozen, but of the trained network's shapes."""
    online = nn.Linear(4, 3)
    model = nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})
    before = copy.deepcopy(model.state_dict())
    snapshot = Snapshot([model], [torch.optim.SGD(online.parameters(), 0.1)])
    with torch.no_grad():
        for parameter in model["target"].parameters():
            parameter.lerp_(torch.zeros_like(parameter), 0.5)
    snapshot.restore()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
