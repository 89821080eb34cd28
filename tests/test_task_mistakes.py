"""Mistakes in a task, each told in one line before anything is trained."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN, recipe
from torch import nn

import superconv
from superconv.errors import UserError
from superconv.training.loop import train
from superconv.training.task import Task, accuracy

INPUTS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()


def task(target=LABELS, *, outputs=2, model=None, **options):
    made = model or (lambda: nn.Linear(6, outputs))
    return Task(name="mistake", model=made, train=(INPUTS, target), validation=(INPUTS, target), **options)


class Pixels(nn.Module):
    """Logits (b, k, 3) from 6 numbers."""

    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(6, 3 * classes)

    def forward(self, inputs):
        return self.layer(inputs).unflatten(1, (-1, 3))


def test_a_model_in_place_of_a_factory_is_refused():
    with pytest.raises(UserError, match=r"model is a function that makes a fresh network.*not a Linear"):
        task(model=nn.Linear(6, 2))
    with pytest.raises(UserError, match=r"must return a torch\.nn\.Module, not int"):
        train(task(model=lambda: 3), recipe(steps=20), plan=PLAN)


def test_a_factory_that_returns_the_same_network_is_refused(tmp_path):
    net = nn.Linear(6, 2)
    for model in (lambda: net, lambda: nn.Sequential(net)):
        with pytest.raises(UserError, match="two calls share parameters"):
            superconv.fit(task(model=model), tmp_path / "run", steps=50, plan=PLAN, progress=False)
        with pytest.raises(UserError, match="two calls share parameters"):
            superconv.sweep_rates(task(model=model), seeds=(0, 1), steps=20, plan=PLAN)
    frozen = net.requires_grad_(False)
    task(model=lambda: nn.Sequential(frozen, nn.Linear(2, 2))).refuse_shared()
    task(model=lambda: copy.deepcopy(net)).refuse_shared()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: task(INPUTS[:, 0]), "cross-entropy .* takes class labels.*float32 .*mse_loss and metric=None"),
        (lambda: task(INPUTS[:, :2] + 1, loss=F.mse_loss), r"accuracy .*float32 targets \(32, 2\).*metric=None"),
        (lambda: task((INPUTS[:, :2] > 0).long(), loss=lambda o, t: F.mse_loss(o, t.float())), "accuracy .*int64"),
        (lambda: task(outputs=1, loss=lambda o, t: o.square().mean()), r"accuracy .*outputs \(32, 1\)"),
        (lambda: task(LABELS + 1), "has 2 outputs, for labels from 0 to 1, .* from 1 to 2: give it 3"),
        (lambda: task(torch.arange(200) // 50), "has 2 outputs.* from 0 to 3: give it 4"),
        (lambda: task(LABELS - 1), "from -1 to 0"),
        (lambda: task(LABELS[:, None].expand(-1, 3)), r"outputs \(b, k, …\).*not \(32, 2\) for \(32, 3\)"),
    ],
)
def test_loss_metric_and_targets_that_do_not_fit_are_refused(made, message, tmp_path):
    for begun in (
        lambda: superconv.fit(made(), tmp_path / "run", steps=50, batch_size=32, plan=PLAN, progress=False),
        lambda: superconv.sweep_rates(made(), recipe(steps=20), steps=20, plan=PLAN),
        lambda: train(made(), recipe(steps=20), plan=PLAN),
    ):
        with pytest.raises(UserError, match=message) as refused:
            begun()
        assert "\n" not in str(refused.value)


def test_accuracy_reads_segmentations_along_the_classes():
    target = torch.stack([LABELS, 1 - LABELS, LABELS], 1)
    ended = train(task(target, model=lambda: Pixels(2)), recipe(steps=200, max_lr=0.5), plan=PLAN)
    assert ended.scores["validation_accuracy"] > 0.9
    with pytest.raises(UserError, match="cannot tell which dimension"):
        train(task(target, model=lambda: Pixels(3)), recipe(steps=20), plan=PLAN)


def test_accuracy_leaves_out_what_is_ignored():
    logits, target = torch.eye(4), torch.tensor([0, 1, -100, 0])
    assert accuracy(logits, target) == 0.5
    labels = torch.where(torch.arange(200) < 150, LABELS, -100)
    scores = train(task(labels), recipe(steps=200, max_lr=0.5), plan=PLAN).scores
    model = train(task(labels), recipe(steps=200, max_lr=0.5), plan=PLAN).model
    right = (model(INPUTS[:150]).argmax(1) == LABELS[:150]).double().mean()
    assert scores["validation_accuracy"] == pytest.approx(right.item())


@pytest.mark.parametrize("name", ["loss", "val_mse", "perplexity", "top1 error", "RMSE"])
def test_a_metric_that_reads_as_better_when_lower_needs_its_direction(name):
    with pytest.raises(UserError, match="say higher_is_better=False"):
        task(metric=lambda output, target: output.mean(), metric_name=name)
    for direction in (False, True):
        made = task(metric=lambda output, target: output.mean(), metric_name=name, higher_is_better=direction)
        assert made.higher_is_better is direction
    assert task().higher_is_better is True
    assert task(metric=None, metric_name=name).higher_is_better is True
