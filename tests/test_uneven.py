"""Losses weighted by what they count: accumulated parts, evaluations, batches without any target."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_tasks import recipe
from torch import nn

from superconv.data.sampling import in_order
from superconv.errors import UserError
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

PLAN = ExecutionPlan(channels_last=False, precision="64-true", threads=1)
INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
CLASSES = (INPUTS[:, :3].argmax(1)).long()
RARE = torch.where(torch.arange(256) % 8 < 2, CLASSES, -100)  # in order, of 16: two parts of 8 with 2 each
UNEVEN = torch.where(torch.arange(256) % 16 < 5, CLASSES, -100)  # the second half has none
WEIGHTS = torch.tensor([0.2, 1.0, 7.0]).double()
MASK = (torch.arange(256) % 16 < 5).double()


def masked_sum(output, target):
    mask = target[:, 3]
    return ((output - target[:, :3]).square().mean(1) * mask).sum(), mask.sum()


def masked_mean(output, target):
    total, count = masked_sum(output, target)
    return total / count


def of_samples(output, target):
    return F.mse_loss(output, target[:, :3], reduction="none")


REGRESSION = torch.cat([INPUTS[:, :3] * 2, MASK[:, None].float()], 1)
CASES = {
    "ignored labels, the default loss": (UNEVEN, F.cross_entropy),
    "ignored labels, another index": (torch.where(UNEVEN < 0, 0, CLASSES), partial(F.cross_entropy, ignore_index=0)),
    "class weights": (CLASSES, partial(F.cross_entropy, weight=WEIGHTS)),
    "class weights in a module": (UNEVEN, nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1)),
    "a sum and its count": (REGRESSION, masked_sum),
    "values of samples and elements": (REGRESSION, of_samples),
}


def task(target, loss, **options):
    return Task(
        name="uneven",
        model=lambda: nn.Linear(6, 3),
        train=(INPUTS, target),
        validation=(INPUTS, target),
        shuffle=False,
        loss=loss,
        metric=None,
        **options,
    )


@pytest.mark.parametrize("case", CASES)
def test_accumulated_parts_weigh_what_they_count(case):
    made = task(*CASES[case])
    whole = train(made, recipe(steps=20, batch_size=16, max_lr=0.1), plan=PLAN)
    for parts in (2, 8):
        split = train(made, recipe(steps=20, batch_size=16, max_lr=0.1, accumulate=parts), plan=PLAN)
        assert torch.allclose(split.model.weight, whole.model.weight, rtol=1e-6)
        assert split.stopped is None
        assert not split.notes


@pytest.mark.parametrize("case", CASES)
def test_evaluations_weigh_what_counts(case, monkeypatch):
    target, loss = CASES[case]
    made = task(target, loss)
    monkeypatch.setattr("superconv.training.trainer.EVALUATION_BATCH", 8)
    ended = train(made, recipe(steps=20, batch_size=16, max_lr=0.1), plan=PLAN)
    goal = target.double() if target.is_floating_point() else target
    whole = loss(ended.model(INPUTS.double()), goal)
    whole = whole[0] / whole[1] if isinstance(whole, tuple) else whole.mean()
    assert ended.scores["validation_loss"] == pytest.approx(whole.item(), rel=1e-6)


def test_a_mean_of_unknown_count_is_accumulated_as_it_is_with_a_note(tmp_path):
    for loss, target in ((masked_mean, REGRESSION), (partial(masked_mean), REGRESSION)):
        ended = train(task(target, loss), recipe(steps=20, batch_size=16, max_lr=0.01, accumulate=2), plan=PLAN)
        (note,) = ended.notes
        assert "(sum, count)" in note
        assert not train(task(target, loss), recipe(steps=20, batch_size=16, max_lr=0.01), plan=PLAN).notes
    for loss in (F.mse_loss, nn.MSELoss()):
        even = train(task(REGRESSION[:, :3], loss), recipe(steps=20, batch_size=16, accumulate=2), plan=PLAN)
        assert not even.notes


def test_an_update_without_any_target_changes_nothing(tmp_path):
    target = torch.where(torch.arange(256) < 16, -100, CLASSES)
    history = tmp_path / "history"
    ended = train(task(target, F.cross_entropy), recipe(steps=20, batch_size=16), plan=PLAN, history=history, rows=20)
    assert ended.stopped is None
    assert all(json.loads(line)["train_loss"] is not None for line in history.read_text().splitlines())
    none = Task(
        name="empty",
        model=lambda: nn.Linear(6, 3),
        train=(INPUTS, CLASSES),
        validation=(INPUTS, torch.full_like(CLASSES, -100)),
    )
    with pytest.raises(UserError, match="no target of the 256 samples"):
        train(none, recipe(steps=20, batch_size=16), plan=PLAN)


def test_a_loss_that_is_no_tensor_is_refused():
    with pytest.raises(UserError, match="a loss returns the batch's mean as a tensor"):
        train(task(CLASSES, lambda output, target: 0.3), recipe(steps=20), plan=PLAN)


class Structured(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.layer, self.form = nn.Linear(6, 3), form

    def forward(self, inputs):
        logits = self.layer(inputs)
        return {"logits": logits} if self.form is dict else (logits, inputs) if self.training else logits


@pytest.mark.parametrize("form", [dict, tuple])
def test_outputs_of_any_structure_train_without_a_metric(form):
    def loss(output, target):
        logits = output["logits"] if form is dict else output[0] if isinstance(output, tuple) else output
        return F.cross_entropy(logits, target)

    made = Task(
        name="structured",
        model=lambda: Structured(form),
        train=(INPUTS, CLASSES),
        validation=(INPUTS, CLASSES),
        loss=loss,
        metric=None,
    )
    assert train(made, recipe(steps=100), plan=PLAN).scores["validation_loss"] < 0.7


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 20, 21, 22, 25, 1001])
def test_an_evaluation_has_no_batch_of_one_where_two_could_be_had(n, world):
    drawn = [list(in_order(n, 10, rank=rank, world=world)) for rank in range(world)]
    assert min(len(indices) for draws in drawn for _, indices in draws) > 1
    assert sorted(torch.cat([indices for draws in drawn for _, indices in draws]).tolist()) == list(range(n))


def test_a_network_that_bears_no_batch_of_one_is_evaluated(monkeypatch):
    monkeypatch.setattr("superconv.training.trainer.EVALUATION_BATCH", 10)

    def net():
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))

    made = Task(name="one", model=net, train=(INPUTS, CLASSES), validation=(INPUTS[:21], CLASSES[:21]))
    assert train(made, recipe(steps=20), plan=PLAN).scores["validation_loss"] > 0
