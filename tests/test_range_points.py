"""What a point of a range test is: an update that happened (promise 6), its rate, its losses, its evaluation."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from range_loops import Training, plain, sweep
from torch import Tensor, nn
from torch.utils.data import DataLoader

from superconv.rates.range_test import RangeTest


def test_the_paper_s_sweep_starts_at_zero_and_ends_at_the_maximum():
    # pytorch-lr-finder ignores start_lr=0
    curve = sweep(RangeTest(*plain(), max_lr=3.0, steps=7, seed=4)).curve
    assert curve.lr == pytest.approx([0.5 * i for i in range(7)], abs=0)
    assert curve.step == tuple(range(7))
    assert curve.seed == (4,) * 7
    assert (curve.total_steps, curve.max_lr, curve.metric) == (7, 3.0, "loss")
    assert curve.validation_loss == curve.train_metric == (None,) * 7


def test_the_exponential_sweep_rises_by_a_factor():
    curve = sweep(RangeTest(*plain(), max_lr=1.0, start_lr=1e-4, steps=5, mode="exponential")).curve
    assert curve.lr == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_rate_of_a_point_is_the_rate_its_update_used_whoever_changes_it():
    model, optimizer = plain()
    weight = [model.weight.detach().clone()]
    with RangeTest(model, optimizer, max_lr=1.0, steps=4) as test:
        for _ in test.iterate([0]):
            assert optimizer.param_groups[0]["lr"] == test._rate(len(weight) - 1)
            optimizer.param_groups[0]["lr"] = 77.0  # a scheduler that nobody detached
            model.weight.grad = torch.ones_like(model.weight)
            optimizer.step()
            test.record(1.0)
            weight.append(model.weight.detach().clone())
    moved = [(a - b).mean().item() for a, b in pairwise(weight)]
    assert moved == pytest.approx(test.curve.lr, abs=1e-6)


def test_groups_and_optimizers_keep_their_ratios():
    # B10
    model, first = plain(0.1, 0.02)
    second = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=torch.tensor(0.4), foreach=False)
    rate = second.param_groups[0]["lr"]
    frozen = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.0)
    with RangeTest(model, [first, second, frozen], max_lr=1.0, steps=3) as test:
        for i, _ in enumerate(test.iterate([0])):
            rates = [float(group["lr"]) for o in (first, second, frozen) for group in o.param_groups]
            assert rates == pytest.approx([i / 2, i / 10, i * 2, 0.0])
            assert second.param_groups[0]["lr"] is rate  # compiled and captured optimizers hold it
            for optimizer in (first, second, frozen):
                optimizer.step()
            test.record(1.0)
    assert [float(g["lr"]) for o in (first, second) for g in o.param_groups] == pytest.approx([0.1, 0.02, 0.4])


def test_ratios_in_the_middle_of_a_warm_up_are_those_of_the_initial_rates():
    model, optimizer = plain(0.2, 0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)  # without a scheduler, so without initial_lr
    with RangeTest(model, [optimizer, other], max_lr=1.0, start_lr=0.5, steps=3):
        assert [group["lr"] for o in (optimizer, other) for group in o.param_groups] == [0.5, 0.25, 1.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_first_rate_of_zero_has_no_ratios():
    with pytest.raises(ValueError, match="learning rate 0"):
        RangeTest(*plain(0.0, 0.1), max_lr=1.0, steps=3).__enter__()


def test_several_optimizers_make_an_update_when_all_have_stepped():
    first, second = plain()[1], plain()[1]
    with RangeTest(nn.Linear(1, 1), [first, second], max_lr=1.0, steps=3) as test:
        for i, _ in enumerate(test.iterate([0])):
            first.step()
            if i % 2:
                second.step()
            test.record(float(i))
    assert test.curve.train_loss == (0.5, 2.5, 4.5)
    assert test.curve.lr == (0.0, 0.5, 1.0)


def test_accumulated_losses_are_one_point():
    # B19
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=3) as test:
        for i, _ in enumerate(test.iterate([0, 1, 2])):
            if i % 4 == 3:
                optimizer.step()
            test.record(torch.tensor(float(i)), metric=i / 100 if i % 2 else None)
    assert test.curve.train_loss == (1.5, 5.5, 9.5)
    assert test.curve.train_metric == pytest.approx((0.02, 0.06, 0.1))
    assert test.curve.lr == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("fused", [False, True])
def test_updates_that_the_scaler_skipped_are_none(fused: bool):
    # a fused optimizer is called all the same, and skips in its kernel
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weights = [model.weight.detach().clone()]
    with RangeTest(model, optimizer, max_lr=1.0, start_lr=0.1, steps=3, scaler=scaler) as test:
        for i, _ in enumerate(test.iterate([0])):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).sum()
            scaler.scale(loss).backward()
            if i % 2 == 0:
                model.weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            test.record(float(i))
            weights.append(model.weight.detach().clone())
    assert [torch.equal(a, b) for a, b in pairwise(weights)] == [True, False] * 3
    assert test.curve.train_loss == (0.5, 2.5, 4.5)  # the skipped one counts into the next point
    assert test.curve.step == (0, 1, 2)
    assert test.curve.lr == pytest.approx((0.1, 0.55, 1.0))


def test_lbfgs_which_calls_the_loss_many_times_makes_one_update_a_step():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).pow(2).mean()
        loss.backward()
        return loss

    with RangeTest(model, optimizer, max_lr=0.2, steps=3) as test:
        for _ in test.iterate([0]):
            test.record(optimizer.step(closure))
    assert test.curve.step == (0, 1, 2)
    assert not optimizer.state


def test_loops_of_their_own_leave_when_done():
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=3) as test:
        for i in range(9):
            optimizer.step()
            test.record(float(i))
            if i > 4:
                break
    assert test.done
    assert test.curve.train_loss == (0.0, 1.0, 2.0)  # what comes after the end is not recorded


# Evaluation


def evaluated(evaluate: Callable[[], object], *, steps: int = 5, every: int = 2, **options) -> RangeTest:
    return sweep(RangeTest(*plain(), max_lr=1.0, steps=steps, evaluate=evaluate, evaluate_every=every, **options))


def test_evaluations_come_every_k_updates_and_after_the_last():
    values = iter([0.1, 0.2, 0.3])
    curve = evaluated(lambda: next(values)).curve
    assert curve.validation_metric == (None, 0.1, None, 0.2, 0.3)
    assert curve.validation_loss == (None,) * 5
    assert curve.metric == "accuracy"


@pytest.mark.parametrize(
    ("result", "metric", "loss", "score"),
    [
        ((torch.tensor(2.0), 0.5), "accuracy", 2.0, 0.5),
        ({"loss": 2.0, "f1": torch.tensor(0.5)}, "f1", 2.0, 0.5),
        ({"f1": 0.5}, "f1", None, 0.5),
        ((2.0, None), "accuracy", 2.0, None),
        (2.0, "loss", 2.0, None),
    ],
)
def test_an_evaluation_returns_metric_or_loss_or_both(result: object, metric: str, loss: object, score: object):
    curve = evaluated(lambda: result, metric=metric).curve
    assert curve.validation_loss == (None, loss, None, loss, loss)
    assert curve.validation_metric == (None, score, None, score, score)
    assert curve.metric == ("loss" if score is None else metric)


@pytest.mark.parametrize("result", [None, {"recall": 0.5}, (None, None)])
def test_an_evaluation_that_returns_nothing_is_refused(result: object):
    with pytest.raises(ValueError, match="evaluate returned"):
        evaluated(lambda: result)


def test_evaluations_do_not_change_the_sweep():
    # B5, and pytorch-lr-finder's validation in train mode
    modes: list[bool] = []

    def evaluate(training: Training) -> Callable[[], float]:
        def run() -> float:
            modes.extend([training.model.training, torch.is_grad_enabled()])
            draws = torch.rand(3).sum() + np.random.rand() + random.random()
            list(training.loader)
            training.model.train()
            training.model(torch.randn(9, 4) + draws)
            return 0.5

        return run

    def clean(batches: DataLoader) -> Callable[[], Iterator[Tensor]]:
        return lambda: (inputs for inputs, _ in batches)

    expected = Training().sweep(stop=False).curve.train_loss
    looking = Training()
    before = looking.model[1].momentum
    test = looking.sweep(
        evaluate=evaluate(looking), evaluate_every=3, recalibrate_batch_norm=clean(looking.loader), stop=False
    )
    assert test.curve.train_loss == expected
    assert not any(modes)
    assert modes
    assert looking.model[1].momentum == before


def test_batch_norm_is_estimated_anew_before_an_evaluation_and_put_back():
    model = nn.Sequential(nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[Tensor] = []
    batches = [torch.tensor([[0.0, 2.0], [2.0, 6.0]]), torch.tensor([[4.0, 0.0], [6.0, 0.0]])]

    def evaluate() -> float:
        seen.append(model[0].running_mean.clone())
        return 0.5

    test = RangeTest(
        model,
        optimizer,
        max_lr=1.0,
        steps=2,
        evaluate=evaluate,
        evaluate_every=1,
        recalibrate_batch_norm=lambda: batches,
    )
    with test:
        for _ in test.iterate([0]):
            optimizer.step()
            test.record(1.0)
            assert torch.equal(model[0].running_mean, torch.zeros(2))
            assert model[0].momentum == 0.1
    assert torch.equal(torch.stack(seen), torch.tensor([[3.0, 2.0], [3.0, 2.0]]))


def test_a_recalibration_that_runs_dry_is_said():
    # update_bn would leave mean 0 and variance 1, and every later evaluation would be of another network
    model = nn.Sequential(nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    once = iter([torch.ones(2, 2)])
    options = {"evaluate": lambda: 0.5, "evaluate_every": 1, "recalibrate_batch_norm": lambda: once}
    test = RangeTest(model, optimizer, max_lr=1.0, steps=3, **options)
    with pytest.raises(ValueError, match="recalibrate_batch_norm gave no batch"):
        sweep(test)
    assert len(test.curve.lr) == 1
    assert model[0].momentum == 0.1


def test_without_evaluate_there_is_no_evaluation_whatever_its_interval():
    curve = sweep(RangeTest(*plain(), max_lr=1.0, steps=3, evaluate_every=0)).curve
    assert curve.validation_metric == (None,) * 3
