"""Networks and optimizers with wishes: overridden train(), lazy layers, closures, weights kept for evaluation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN, quadratic, recipe
from torch import nn

import superconv
from superconv.errors import UserError
from superconv.rates.recalibration import recalibrate
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

INPUTS = 3 + torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 3).long()


def task(model, **options):
    data = (INPUTS, LABELS)
    return Task(name="modes", model=model, train=data, validation=data, test=data, **options)


class Frozen(nn.Module):
    """Batch norm with the statistics that it came with, and no dropout in the first layers."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
        self.switched = []

    def train(self, mode=True):
        super().train(mode)
        self.switched.append(mode)
        self.norm.eval()
        self.drop.eval()
        return self

    def forward(self, inputs):
        assert not self.norm.training
        assert not self.drop.training
        return self.last(self.drop(self.norm(inputs)))


@pytest.mark.parametrize("inner", [False, True])
def test_batch_norm_frozen_by_an_overridden_train_stays_so(inner, tmp_path):
    def made():
        return nn.Sequential(Frozen()) if inner else Frozen()

    ended = superconv.fit(task(made), tmp_path / "run", steps=60, plan=PLAN, progress=False)
    module = ended.model[0] if inner else ended.model
    assert torch.equal(module.norm.running_mean, torch.zeros(6))
    assert ended.scores["test_accuracy"] > 0.8
    sweep = superconv.sweep_rates(task(made), steps=20, evaluate_every=5, recalibrate_batch_norm=2, plan=PLAN)
    assert len(sweep.lr) > 5


class Merging(nn.Module):
    """As LoRA's: its weights are merged for evaluations, and taken apart by `train()`."""

    def __init__(self):
        super().__init__()
        self.layer, self.extra, self.merged = nn.Linear(6, 2), nn.Parameter(torch.zeros(2, 6)), False

    def train(self, mode=True):
        super().train(mode)
        if mode is self.merged:
            self.layer.weight.data += self.extra.data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, inputs):
        assert self.merged is not self.training
        return self.layer(inputs) + (0 if self.merged else F.linear(inputs, self.extra))


def test_weights_merged_for_an_evaluation_are_taken_apart_again():
    assert train(task(Merging), recipe(steps=60, max_lr=0.1), plan=PLAN).scores["test_accuracy"] > 0.8
    sweep = superconv.sweep_rates(task(Merging), steps=20, evaluate_every=5, plan=PLAN)
    assert len(sweep.lr) > 5


def test_modules_frozen_by_their_flag_stay_so_when_statistics_are_estimated_anew():
    net = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6))
    net[0].eval()
    recalibrate(net, [INPUTS])
    assert torch.equal(net[0].running_mean, torch.zeros(6))
    assert net[1].running_mean.mean() > 2.5
    assert [part.training for part in net] == [False, True]


def test_lazy_layers_are_made_before_the_optimizer(tmp_path):
    def made():
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(0.1), nn.LazyLinear(2))

    before = torch.get_rng_state()
    ended = superconv.fit(task(made), tmp_path / "run", steps=60, max_lr=0.2, plan=PLAN, progress=False)
    assert ended.scores["test_accuracy"] > 0.8
    assert torch.equal(torch.get_rng_state(), before)
    again = superconv.fit(task(made), tmp_path / "run", steps=60, max_lr=0.2, plan=PLAN, progress=False)
    assert torch.equal(again.model[0].weight, ended.model[0].weight)

    class Unreached(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 2), nn.LazyLinear(3)

        def forward(self, inputs):
            return self.used(inputs)

    with pytest.raises(UserError, match=r"does not reach the lazy unused\.weight"):
        train(task(Unreached), recipe(steps=20), plan=PLAN)


class ScheduleFree(torch.optim.SGD):
    """As schedule-free optimizers: the weights of evaluations are averages; a step in that mode is an error."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.mode, self.modes = None, []
        self.away = {}

    def train(self):
        if self.mode is not True:
            self.mode = True
            self.modes.append(True)

    def eval(self):
        if self.mode is not False:
            self.mode = False
            self.modes.append(False)

    def step(self, closure=None):
        assert self.mode, "not in train mode"
        return super().step(closure)


def test_optimizers_are_told_of_training_and_evaluation():
    made = []

    def optimizer(model, recipe):
        made.append(ScheduleFree(model.parameters(), lr=recipe.max_lr))
        return made[-1]

    ended = train(task(lambda: nn.Linear(6, 2), optimizer=optimizer), recipe(steps=40), plan=PLAN, evaluations=2)
    assert ended.scores["test_accuracy"] > 0.8
    assert made[0].modes[:5] == [True, False, True, False, True]
    assert made[0].mode is False  # the run ends with the weights of evaluations


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization, as https://github.com/davda54/sam has it."""

    def __init__(self, parameters, base, rho=0.05, **options):
        super().__init__(parameters, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"
        closure = torch.enable_grad()(closure)
        norm = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        moves = {p: p.grad * (self.defaults["rho"] / norm) for group in self.param_groups for p in group["params"]}
        for p, move in moves.items():
            p.add_(move)
        self.zero_grad()
        closure()
        for p, move in moves.items():
            p.sub_(move)
        self.base.step()


def lbfgs(model, recipe):
    return torch.optim.LBFGS(model.parameters(), lr=recipe.max_lr, max_iter=4)


def sam(model, recipe):
    return SAM(model.parameters(), torch.optim.SGD, lr=recipe.max_lr)


@pytest.mark.parametrize("optimizer", [lbfgs, sam])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_optimizers_that_need_a_closure_get_it(optimizer, accumulate):
    losses = []

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.masks = nn.Linear(6, 2), []

        def forward(self, inputs):
            kept = F.dropout(torch.ones_like(inputs), 0.2, training=self.training)
            self.masks.append(kept)
            return self.layer((inputs - 3) * kept)

    def made():
        losses.append(Dropping())
        return losses[-1]

    ended = train(
        task(made, optimizer=optimizer),
        recipe(steps=30, max_lr=0.2, schedule="constant", accumulate=accumulate),
        plan=PLAN,
        evaluations=0,
    )
    assert ended.steps == 30
    assert ended.scores["test_accuracy"] > 0.8
    masks = losses[0].masks
    assert torch.equal(masks[0], masks[accumulate])  # the same randomness again


def test_closures_train_like_a_loop_of_torchs_own():
    made = quadratic()
    steps = recipe(steps=5, batch_size=512, schedule="constant", max_lr=0.5)
    double = ExecutionPlan(channels_last=False, precision="64-true", threads=1)
    ours = train(replace(made, optimizer=lbfgs, shuffle=False), steps, plan=double).model.weight
    net = made.model().double()
    optimizer = lbfgs(net, steps)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(made.train.inputs.double()), made.train.targets.double())
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert torch.allclose(ours, net.weight, rtol=1e-9)


def test_several_optimizers_with_a_closure_are_refused():
    def two(model, recipe):
        return [torch.optim.LBFGS([model.weight]), torch.optim.SGD([model.bias], lr=0.1)]

    with pytest.raises(UserError, match="must be the task's only one"):
        train(task(lambda: nn.Linear(6, 2), optimizer=two), recipe(steps=20), plan=PLAN)
