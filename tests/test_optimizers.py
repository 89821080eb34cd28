"""Optimizers by name, with networks whose gradients are not all there at every update."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN, kept
from torch import nn

from superconv import UserError, fit
from superconv.data.source import TensorSource
from superconv.recipe import Recipe
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.optimizers import make
from superconv.training.task import Task


class Experts(nn.Module):
    """Top-1 routing, a block skipped at random, and a head that begins to train after ten updates."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 8) for _ in range(6))
        self.skipped, self.head, self.late = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.calls = 0

    def forward(self, x):
        chosen = int(x.detach().sum().abs() * 100) % 6
        hidden = self.experts[chosen](x).relu()
        if torch.rand(()) < 0.5:
            hidden = hidden + self.skipped(hidden)
        self.calls += self.training
        late = self.late(hidden) if self.calls > 10 else self.late(hidden).detach()
        return self.head(hidden) + late


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).real


class Words(nn.Module):
    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(16, 8, sparse=sparse), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.table((x[:, 3] * 4).long().clamp(-8, 7) + 8))


def task_of(model, samples: int = 256) -> Task:
    inputs = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    source = TensorSource(inputs, inputs @ torch.diag(torch.tensor([1.0, -2.0, 0.5, 3.0])))
    return Task(name="made", model=model, train=source, validation=source, loss=F.mse_loss, metric=None)


def learned(model, **fields) -> float:
    """The loss at the end of a short training, as a share of that of the mean."""
    sets = {"steps": 80, "batch_size": 8, "max_lr": 0.02, "weight_decay": 0.0, "optimizer_args": {}, **fields}
    task = task_of(model)
    run = train(task, Recipe(**sets), plan=PLAN, seed=0)
    return run.scores["validation_loss"] / float(task.validation.targets.square().mean())


@pytest.mark.parametrize("optimizer", ["SGD", "CaffeSGD", "Adam", "AdamW"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_gradients_that_come_late_or_not_at_all_are_no_obstacle(optimizer, clip_norm):
    assert learned(Experts, optimizer=optimizer, clip_norm=clip_norm, weight_decay=1e-4) < 0.95


def test_late_gradients_train_as_with_torch_s_own_sgd():
    recipe = Recipe(steps=40, batch_size=8, max_lr=0.02)
    plain = replace(recipe, optimizer_args={"nesterov": True, "fused": False, "foreach": True})
    own, torchs = (train(task_of(Experts), r, plan=PLAN).model.state_dict() for r in (recipe, plain))
    for name, value in torchs.items():
        torch.testing.assert_close(own[name], value, msg=name)


def test_a_run_with_late_gradients_resumes_where_it_stopped(tmp_path):
    recipe = Recipe(steps=40, batch_size=8, max_lr=0.02)

    class Gated(Experts):  # whose late head opens by what is in the checkpoint
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += self.training
            self.calls = int(self.seen)
            return super().forward(x)

    class Early(Hook):
        def on_update(self, run):
            run.stop = run.step == 20

    whole = train(task_of(Gated), recipe, plan=PLAN).model.state_dict()
    train(task_of(Gated), recipe, plan=PLAN, hooks=[Early()], **kept(tmp_path))
    again = train(task_of(Gated), recipe, plan=PLAN, resume=True, **kept(tmp_path)).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize("optimizer", ["SGD", "CaffeSGD", "Adam", "AdamW"])
def test_complex_parameters_train(optimizer):
    assert learned(Complex, optimizer=optimizer, clip_norm=1.0) < 0.9


@pytest.mark.parametrize("decay", [0.0, 1e-4])
@pytest.mark.parametrize("optimizer", ["SGD", "CaffeSGD"])
def test_sparse_gradients_train(optimizer, decay):
    assert learned(Words, optimizer=optimizer, max_lr=0.1, weight_decay=decay) < 0.7


def test_an_optimizer_that_takes_no_sparse_gradients_says_so():
    with pytest.raises(UserError, match=r"AdamW takes no sparse gradients.*sparse=False"):
        learned(Words, optimizer="AdamW")
    with pytest.raises(UserError, match="SparseAdam takes sparse gradients only"):
        learned(Words, optimizer="SparseAdam")
    with pytest.raises(UserError, match="clip_norm is not for sparse gradients"):
        learned(Words, clip_norm=1.0)
    table = lambda: nn.Sequential(nn.Flatten(), Table())  # noqa: E731
    assert learned(table, optimizer="SparseAdam", max_lr=0.1) < 0.9


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 4, sparse=True)

    def forward(self, x):
        return self.table((x[:, 3] * 4).long().clamp(-8, 7) + 8)


CLASSES = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)


@pytest.mark.parametrize("optimizer", [n for n in CLASSES if n not in ("SparseAdam", "LBFGS")])
def test_every_class_of_torch_trains_by_its_name(optimizer, tmp_path):
    """SparseAdam and LBFGS have tests of their own: the one takes sparse gradients only, the other a closure."""
    task = task_of(lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4)))
    rate = {"Adadelta": 1.0, "ASGD": 0.1, "SGD": 0.1}.get(optimizer, 0.02)
    result = fit(task, folder=tmp_path, optimizer=optimizer, steps=100, batch_size=32, max_lr=rate, progress=False)
    assert result.scores["validation_loss"] < 0.8 * float(task.validation.targets.square().mean())


def test_a_decay_that_was_asked_for_is_refused_where_a_class_takes_none(tmp_path):
    with pytest.raises(UserError, match=r"Rprop takes no weight_decay \(give it 0\)"):
        fit(task_of(lambda: nn.Linear(4, 4)), folder=tmp_path, optimizer="Rprop", weight_decay=1e-3, max_lr=0.01)


def test_muon_has_a_partner_for_vectors_that_keeps_its_ratio():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3))
    task = task_of(lambda: model)
    recipe = Recipe(steps=50, batch_size=8, max_lr=0.02, optimizer="Muon", optimizer_args={"adjust_lr_fn": "original"})
    muon, adam = task.optimizers(model, recipe)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 4)]
    assert len(adam.param_groups[0]["params"]) == 6
    assert muon.param_groups[0]["adjust_lr_fn"] == "original"
    assert muon.param_groups[0]["lr"] == adam.param_groups[0]["lr"]
    with pytest.raises(UserError, match="two dimensions"):
        task.optimizers(nn.LayerNorm(4), recipe)


def test_what_an_optimizer_refuses_is_said_in_one_line():
    recipe = Recipe(max_lr=0.1, steps=20, batch_size=8, optimizer="Adadelta", optimizer_args={"rho": 2.0})
    with pytest.raises(
        UserError, match="Adadelta cannot be made with this model and these settings: Invalid rho"
    ) as it:
        make(nn.Linear(2, 1), recipe)
    assert "\n" not in str(it.value)
