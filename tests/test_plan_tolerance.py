"""Plans that a network or its optimizer does not tolerate."""

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from superconv import fit, train
from superconv.data.source import TensorSource
from superconv.recipe import Recipe
from superconv.runs.runner import plan_for
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweep import search_rates
from superconv.training.task import Task

RECIPE = Recipe(steps=20, batch_size=16, max_lr=0.05)


class Viewing(nn.Module):
    """As in many a tutorial: .view after a convolution, which channels_last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4 * 64, 3)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.head(x.view(x.shape[0], -1))


class ViewingLater(Viewing):
    """In evaluation only."""

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1)) if self.training else super().forward(x)


class ViewingInput(nn.Module):
    """Images without a weight of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 3)

    def forward(self, x):
        return self.head(x.view(x.shape[0], -1))


class Volumes(nn.Module):
    """Weights of five dimensions, which have another format."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 2, 3, padding=1), nn.Linear(2 * 192, 3)

    def forward(self, x):
        return self.head(self.conv(x[:, None]).flatten(1))


class ViewingSGD(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.view(-1).mul_(1.0)
        return super().step(closure)


def task_of(model, **fields) -> Task:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(128, 3, 8, 8, generator=generator), torch.arange(128) % 3
    images[torch.arange(128), labels] += 1.0
    source = TensorSource(images, labels)
    return Task(name="views", model=model, train=source, validation=source, loss=F.cross_entropy, **fields)


def tolerant():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


TASKS = {
    "network": lambda: task_of(Viewing),
    "evaluation": lambda: task_of(ViewingLater),
    "input": lambda: task_of(ViewingInput),
    "volumes": lambda: task_of(Volumes),
    "optimizer": lambda: task_of(tolerant, optimizer=lambda m, r: ViewingSGD(m.parameters(), lr=0.05, momentum=0.9)),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_view_is_trained_in_channels_first_with_a_note(task):
    with pytest.warns(UserWarning, match="channels_first is taken in place of channels_last"):
        run = train(task(), RECIPE)
    plain = train(task(), RECIPE, plan=ExecutionPlan(channels_last=False))
    assert run.scores == plain.scores


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_fit_and_range_test_do_without_channels_last_too(task, tmp_path):
    with pytest.warns(UserWarning, match="channels_first"):
        result = fit(task(), tmp_path / "run", steps=20, max_lr=0.05, progress=False)
    assert result.scores["validation_accuracy"] > 0.4
    with pytest.warns(UserWarning, match="channels_first"):
        assert len(search_rates(task(), RECIPE, max_lr=1.0, steps=10).curve.lr) > 2
    with pytest.warns(UserWarning, match="channels_first"):
        assert not plan_for(task(), RECIPE, device="cpu", words="fp32,channels_last").channels_last


def test_a_search_drops_such_plans_and_says_so():
    found = find_plan(TASKS["network"](), replace(RECIPE, steps=200_000), device="cpu", limit=1.0, use_cache=False)
    assert not found.plan.channels_last
    assert not any(trial.plan.channels_last for trial in found.trials)
    assert "channels_last,eager" in found.reason
    assert "cannot run here (view size" in found.reason


def test_a_network_that_tolerates_channels_last_keeps_it_and_one_that_is_broken_says_its_own_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_plan(task_of(tolerant), RECIPE, device="cpu").plan.channels_last
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            train(task_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 3))), RECIPE)


def test_a_network_without_images_is_not_trained_to_find_out():
    updates = []

    class Vectors(nn.Linear):
        def forward(self, x):
            updates.append(self.training)
            return super().forward(x)

    source = TensorSource(torch.randn(64, 4), torch.arange(64) % 3)
    task = Task(name="vectors", model=lambda: Vectors(4, 3), train=source, validation=None, loss=F.cross_entropy)
    train(task, RECIPE)
    assert sum(updates) == RECIPE.steps
