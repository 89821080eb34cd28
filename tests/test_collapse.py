"""Networks that give all samples the same output."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from small_tasks import PLAN, quadratic, recipe
from torch import nn

from superconv.data.source import TensorSource
from superconv.search.peak import search_peak
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.task import Task, accuracy


def test_a_network_that_no_longer_tells_inputs_apart_has_broken_down():
    """Under large rates inputs in the hundreds kill all units, and the bias alone tells how often each label is."""
    draw = torch.Generator().manual_seed(0)
    inputs = 300 + 300 * torch.rand(256, 8, generator=draw)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    source = TensorSource(inputs, labels)
    task = Task(
        name="large inputs",
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
        train=source,
        validation=source,
        loss=F.cross_entropy,
        metric=accuracy,
    )
    found = search_peak(task, recipe(momentum=0.9), start=0.1, updates=300, plan=PLAN)
    assert any("the same output" in (probe.error or "") for probe in found.probes)
    tried = train(task, recipe(momentum=0.9, max_lr=found.max_lr), plan=PLAN)
    assert tried.scores["validation_loss"] < 0.6  # of ln 2, which is all that the bias can do


def test_a_network_that_never_told_inputs_apart_is_trained_all_the_same():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(4))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.mean.expand_as(inputs)

    found = search_peak(replace(quadratic(), model=Mean), recipe(), start=0.1, updates=200, plan=PLAN)
    assert all(probe.loss is not None for probe in found.probes[:3])


def test_to_look_at_a_network_leaves_its_modes_alone():
    class Watches(Hook):
        def on_update(self, trainer) -> None:
            modes.append([module.training for module in trainer.model.module])

    modes: list[list[bool]] = []
    task = replace(quadratic(), model=lambda: nn.Sequential(nn.BatchNorm1d(4).eval(), nn.Linear(4, 4)), validation=None)
    search_peak(task, recipe(), start=0.1, updates=60, plan=PLAN, hooks=[Watches()])
    train(replace(task, validation=task.train), recipe(), plan=PLAN, hooks=[Watches()], evaluations=4)
    assert len(modes) > 200
    assert all(mode == [False, True] for mode in modes)


def test_to_look_at_a_network_leaves_what_it_keeps_fit_for_training():
    class Caches(nn.Linear):
        scale = None

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.scale = torch.ones(4) if self.scale is None else self.scale
            return super().forward(inputs) * self.scale

    found = search_peak(replace(quadratic(), model=lambda: Caches(4, 4)), recipe(), start=0.1, updates=60, plan=PLAN)
    assert found.probes[0].loss is not None
