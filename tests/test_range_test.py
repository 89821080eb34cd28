"""The range test around anybody's loop: no trace (promise 1), true updates (promise 6), and the peers' faults."""

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from superconv.rates.breakdown import Breakdown
from superconv.rates.range_test import RangeTest

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Augmented(TensorDataset):
    def __init__(self) -> None:
        inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))
        super().__init__(inputs, (inputs.sum(1) > 0).long())

    def __getitem__(self, index: int) -> Batch:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.rand(1), label  # in a worker, this is the worker's generator


class Training:
    """A training that uses every source of randomness there is."""

    def __init__(
        self, optimizer: str = "momentum", *, scaler: bool = False, workers: int = 0, own: bool = True
    ) -> None:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(3)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.optimizer = {
            "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
            "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
            "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
            "fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
        }[optimizer](self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.99)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3) if scaler else None
        generator = torch.Generator().manual_seed(11) if own else None
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        self.loader = DataLoader(Augmented(), batch_size=6, shuffle=True, generator=generator, **options)
        self.losses: list[float] = []

    def step(self, batch: Batch) -> Tensor:
        inputs, labels = batch
        noise = 0.01 * (np.random.rand() + random.random())
        loss = F.cross_entropy(self.model(inputs + noise + 0.01 * torch.randn_like(inputs)), labels)
        self.optimizer.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def epoch(self) -> None:
        for batch in self.loader:
            self.losses.append(self.step(batch).item())
            self.scheduler.step()

    def range_test(self, steps: int = 10, **options) -> RangeTest:
        return RangeTest(self.model, self.optimizer, max_lr=3.0, steps=steps, scaler=self.scaler, **options)

    def sweep(self, **options) -> RangeTest:
        with self.range_test(**options) as test:
            for batch in test.iterate(self.loader):
                test.record(self.step(batch))
        return test

    def state(self) -> list[object]:
        """All there is to compare."""
        generator = self.loader.generator
        return [
            self.losses,
            list(self.model.state_dict().values()),
            [p.grad for p in self.model.parameters()],
            self.optimizer.state_dict(),
            self.scheduler.state_dict(),
            None if self.scaler is None else self.scaler.state_dict(),
            torch.get_rng_state(),
            None if generator is None else generator.get_state(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        ]


def same(ours: object, theirs: object) -> bool:
    if isinstance(ours, Tensor):
        return isinstance(theirs, Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("epochs", [0, 2], ids=["fresh", "populated"])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "momentum"},
        {"optimizer": "adam"},
        {"optimizer": "tensor lr"},
        {"optimizer": "fused"},
        {"scaler": True},
        {"optimizer": "fused", "scaler": True},
        {"own": False},
        {"workers": 1},
    ],
    ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()),
)
def test_training_is_the_same_with_and_without_a_range_test(options: dict, epochs: int):
    if options.get("workers") and epochs == 0:
        pytest.skip("workers are slow to start: the populated case is enough")
    alone = Training(**options)
    for _ in range(epochs + 2):
        alone.epoch()
    expected = alone.state()
    tested = Training(**options)
    for _ in range(epochs):
        tested.epoch()
    test = tested.sweep(stop=False)
    assert test.curve.step == tuple(range(10))
    assert all(math.isfinite(loss) for loss in test.curve.train_loss)
    for _ in range(2):
        tested.epoch()
    assert same(expected, tested.state())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_errors_pass_through_and_leave_no_trace(error: type[BaseException]):
    training = Training(scaler=True)
    training.epoch()
    before = _frozen(training)

    def interrupted() -> None:
        with training.range_test() as test:
            for batch in test.iterate(training.loader):
                test.record(training.step(batch))
                training.scaler.scale(training.model(batch[0]).sum()).backward()
                training.scaler.unscale_(training.optimizer)
                if len(test.curve.lr) == 3:
                    raise error

    with pytest.raises(error):
        interrupted()
    assert same(before, training.state())
    training.epoch()  # unscale_ would raise if it counted as called


def _frozen(training: Training) -> list[object]:
    def frozen(value: object) -> object:
        if isinstance(value, Tensor):
            return value.clone()
        if isinstance(value, dict):
            return {k: frozen(v) for k, v in value.items()}
        return [frozen(v) for v in value] if isinstance(value, list) else value

    return frozen(training.state())


CTRL_C = """
import os, signal, torch
from superconv.rates.range_test import RangeTest
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
before = model.weight.detach().clone()
try:
    with RangeTest(model, optimizer, max_lr=1.0, steps=100) as test:
        for i, x in enumerate(test.iterate([torch.ones(2, 3)])):
            optimizer.zero_grad(); loss = model(x).pow(2).sum(); loss.backward(); optimizer.step()
            test.record(loss)
            if i == 5:
                assert not torch.equal(model.weight, before)
                os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    assert torch.equal(model.weight, before) and not optimizer.state and optimizer.param_groups[0]["lr"] == 0.1
    print("restored", len(test.curve.lr) >= 6)
"""


def test_a_real_ctrl_c_leaves_no_trace():
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    done = subprocess.run([sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "restored True", done.stderr


def test_hooks_are_gone_and_schedulers_still_hold_their_groups():
    training = Training()
    training.sweep()
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks
    group = training.optimizer.param_groups[0]
    training.optimizer.step()
    training.scheduler.step()
    assert group["lr"] == pytest.approx(0.05 * 0.99)
    assert group["initial_lr"] == 0.05


# What a point is


def plain(*rates: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    parameters = [model.weight, model.bias]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates or (0.1, 0.1), strict=True)]
    return model, torch.optim.SGD(groups, lr=0.1)


def sweep(test: RangeTest, loss: Callable[[int], float] = lambda i: 1.0, **record) -> RangeTest:
    """A sweep whose losses are given; the optimizers step on zero gradients."""
    with test:
        for i, _ in enumerate(test.iterate(range(7))):
            for optimizer in test._optimizers:
                optimizer.step()
            test.record(loss(i), **{k: v(i) for k, v in record.items()})
    return test


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
    frozen = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.0)
    with RangeTest(model, [first, second, frozen], max_lr=1.0, steps=3) as test:
        for i, _ in enumerate(test.iterate([0])):
            rates = [float(group["lr"]) for o in (first, second, frozen) for group in o.param_groups]
            assert rates == pytest.approx([i / 2, i / 10, i * 2, 0.0])
            for optimizer in (first, second, frozen):
                optimizer.step()
            test.record(1.0)
    assert [float(g["lr"]) for o in (first, second) for g in o.param_groups] == pytest.approx([0.1, 0.02, 0.4])


def test_ratios_in_the_middle_of_a_warm_up_are_those_of_the_initial_rates():
    model, optimizer = plain(0.2, 0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    with RangeTest(model, optimizer, max_lr=1.0, start_lr=0.5, steps=3):
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
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


# Ends


def test_a_loss_that_is_not_finite_ends_the_sweep_even_without_stops():
    # B8: `nan > x` is False, so pytorch-lr-finder never stops
    for bad in (math.nan, math.inf, -math.inf):
        test = sweep(RangeTest(*plain(), max_lr=1.0, steps=20, stop=False), lambda i, bad=bad: bad if i == 4 else 1.0)
        assert len(test.curve.lr) == 5
        assert test.curve.stopped[0][0] == 0
        assert test.curve.stopped[0][1].startswith("non-finite")


def test_a_loss_that_is_not_finite_ends_the_sweep_when_the_scaler_skips_for_ever():
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=20) as test:
        for i, _ in enumerate(test.iterate([0])):
            if i < 3:
                optimizer.step()
            test.record(1.0 if i < 3 else math.nan)
    assert len(test.curve.lr) == 3
    assert "non-finite" in test.stopped


def falling_then_rising(start: float, best: float, end: float) -> Callable[[int], float]:
    return lambda i: start + (best - start) * i / 20 if i < 20 else best + (end - best) * (i - 20) / 20


@pytest.mark.parametrize(
    ("start", "best", "end", "stops"),
    [
        (2.3, 1.0, 9.0, True),
        (2.3, 1.0, 2.6, False),
        (2.3, 1e-5, 0.5, False),  # five times the best, and still learned
        (2.3, 2.3, 12.0, True),  # nothing learned, and blown up
        (-1.0, -5.0, -1.0, False),  # Lightning stopped at the second step of a negative loss (B7)
        (-1.0, -5.0, 40.0, True),
        (0.5, -0.5, 0.5, False),
        (0.5, -0.5, 9.0, True),
    ],
)
def test_blow_up_knows_no_sign(start: float, best: float, end: float, stops: bool):
    losses = falling_then_rising(start, best, end)
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=40), losses)
    assert (test.stopped is not None) is stops
    assert (test.curve.stopped != ()) is stops
    if stops:
        assert "blow-up" in test.stopped
        assert 20 < len(test.curve.lr) < 40
    assert sweep(RangeTest(*plain(), max_lr=1.0, steps=40, stop=False), losses).stopped is None


def test_single_spikes_are_no_blow_up():
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=40), lambda i: 1e6 if i in (7, 20, 21) else 2.0)
    assert test.stopped is None


def test_the_first_points_count_in_full_after_earlier_training():
    # B7: Lightning debiased with the trainer's global step: its first point was halved, and it stopped at once
    model, optimizer = plain()
    for _ in range(50):
        optimizer.step()
    test = sweep(RangeTest(model, optimizer, max_lr=1.0, steps=30), lambda i: 2.3)
    assert test.curve.train_loss == (2.3,) * 30
    assert test.stopped is None


def accuracy(i: int) -> float:
    """Rises to 0.8 with the author's jumps, and falls at 60."""
    noise = 0.03 * ((i * 7919) % 13 - 6) / 6
    return min(0.8, 0.1 + i / 40) + noise - (0.15 if i % 9 == 4 else 0.0) if i < 60 else 0.1 + noise


def test_a_collapse_of_the_accuracy_ends_the_sweep():
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=100), metric=accuracy)
    assert "collapse" in test.stopped
    assert 60 < len(test.curve.lr) < 70


def test_a_metric_that_falls_when_better_collapses_upwards():
    error = RangeTest(*plain(), max_lr=1.0, steps=100, metric="error", higher_is_better=False)
    assert "collapse" in sweep(error, metric=lambda i: 1 - accuracy(i)).stopped
    assert error.curve.higher_is_better is False


def test_neither_jumps_nor_noise_at_chance_are_a_collapse():
    calm = sweep(RangeTest(*plain(), max_lr=1.0, steps=100), metric=lambda i: accuracy(i % 60) if i < 60 else 0.6)
    assert calm.stopped is None
    generator = np.random.default_rng(0)
    for _ in range(20):
        watch = Breakdown(4.0, window=5)
        assert not any(watch.seen(2.3, value) for value in generator.normal(0.1, 0.03, 200))


def test_a_collapse_is_looked_for_in_the_evaluations():
    values = [accuracy(3 * i) for i in range(40)]
    found = iter(values)
    test = RangeTest(*plain(), max_lr=1.0, steps=80, evaluate=lambda: next(found), evaluate_every=2)
    sweep(test, metric=lambda i: 0.9)
    assert "collapse" in test.stopped
    assert 40 < len(test.curve.lr) < 60


# Loaders


class Restartable:
    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.passes = sizes, 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return iter(range(self.sizes[min(self.passes, len(self.sizes)) - 1]))


def test_loaders_are_restarted_as_often_as_needed():
    model, optimizer = plain()
    loader, seen = Restartable([3]), []
    with RangeTest(model, optimizer, max_lr=1.0, steps=8) as test:
        for batch in test.iterate(loader):
            seen.append(batch)
            optimizer.step()
            test.record(1.0)
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]
    assert loader.passes == 3


@pytest.mark.parametrize("loader", [iter([1, 2]), (i for i in range(3)), zip([1], [2], strict=True)])
def test_iterators_are_refused_before_anything_is_read(loader: Iterator):
    with RangeTest(*plain(), max_lr=1.0, steps=8) as test, pytest.raises(TypeError, match="give the loader itself"):
        test.iterate(loader)
    assert next(loader) in (1, 0, (1, 2))


@pytest.mark.parametrize("sizes", [[0], [2, 0]])
def test_empty_loaders_are_refused(sizes: list[int]):
    # #59 of pytorch-lr-finder: an iterator exhausted by the first pass gave a flat curve
    with pytest.raises(ValueError, match="no batch"):
        _run(Restartable(sizes))


def _run(loader: object, *, update: bool = True) -> None:
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=8) as test:
        for _ in test.iterate(loader):
            if update:
                optimizer.step()
            test.record(1.0)


# Misuse


def test_a_forgotten_step_is_said():
    with pytest.raises(RuntimeError, match=r"512 batches without an update: optimizer \[0\]"):
        _run(range(30), update=False)


def test_outside_of_the_block_nothing_goes():
    model, optimizer = plain()
    test = RangeTest(model, optimizer, max_lr=1.0, steps=3)
    with pytest.raises(RuntimeError, match="inside its block"):
        test.record(1.0)
    with pytest.raises(RuntimeError, match="inside its block"):
        test.iterate([0])
    with pytest.raises(RuntimeError, match="no points"):
        _ = test.curve
    with test:
        batches = test.iterate([0])
        next(batches)
        optimizer.step()
        test.record(1.0)
    with pytest.raises(RuntimeError, match="inside its block"):
        next(batches)
    with pytest.raises(RuntimeError, match="inside its block"):
        test.record(1.0)
    with pytest.raises(RuntimeError, match="one block"):
        test.__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "at least 2 steps"),
        ({"max_lr": 0.1, "start_lr": 0.1}, "rates must rise"),
        ({"max_lr": math.nan}, "rates must rise"),
        ({"max_lr": math.inf}, "rates must rise"),
        ({"start_lr": -1.0}, "rates must rise"),
        ({"mode": "exponential"}, "rate 0"),
        ({"mode": "cubic"}, "mode"),
        ({"evaluate": lambda: 1.0, "evaluate_every": 0}, "evaluate_every"),
        ({"recalibrate_batch_norm": list}, "give evaluate"),
        ({"blow_up": 1.0}, "blow_up"),
        ({"optimizer": []}, "at least one"),
    ],
)
def test_arguments_that_make_no_sweep_are_refused(options: dict, message: str):
    model, optimizer = plain()
    with pytest.raises(ValueError, match=message):
        RangeTest(**{"model": model, "optimizer": optimizer, "max_lr": 1.0, "steps": 5, **options})


def test_optimizers_without_parameters_and_other_things_are_refused():
    model, optimizer = plain()
    with pytest.raises(ValueError, match="needs parameters"):
        RangeTest(model, torch.optim.SGD([{"params": []}], lr=0.1), max_lr=1.0, steps=5)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        RangeTest(model, [object()], max_lr=1.0, steps=5)
    with pytest.raises(TypeError, match="Module"):
        RangeTest(optimizer, optimizer, max_lr=1.0, steps=5)


def test_losses_must_be_single_numbers_and_metrics_named():
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=5, metric="loss") as test:
        with pytest.raises(ValueError, match="single number"):
            test.record(torch.ones(3))
        with pytest.raises(ValueError, match="name it"):
            test.record(1.0, metric=0.5)
        optimizer.step()
        test.record(torch.ones(1, requires_grad=True))
    assert test.curve.train_loss == (1.0,)


# Several processes

TWO = """
import math, sys
import torch
import torch.distributed as dist
from superconv.rates.range_test import RangeTest
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
parallel = torch.nn.parallel.DistributedDataParallel(model)
before = model.weight.detach().clone()
with RangeTest(parallel, optimizer, max_lr=1.0, steps=30, evaluate=lambda: float(rank), evaluate_every=4) as test:
    for i, _ in enumerate(test.iterate(range(5 + rank))):
        optimizer.zero_grad()
        parallel(torch.ones(2, 3)).pow(2).mean().backward()
        optimizer.step()
        test.record(math.nan if i == 11 and rank == 1 else float(rank + i), metric=rank / 2)
curve = test.curve
assert torch.equal(model.weight, before)
assert curve.train_loss[:11] == tuple(i + 0.5 for i in range(11)), curve.train_loss
assert curve.train_metric == (0.25,) * 12, curve.train_metric
assert curve.validation_metric[3] == 0.5, curve.validation_metric
assert len(curve.lr) == 12 and "non-finite" in curve.stopped[0][1], curve
sys.stdout.write(f"world {dist.get_world_size()} rank {rank} stopped at {curve.step[-1]}\\n")
dist.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_record_the_same_and_stop_together(tmp_path: Path):
    # B9: a NaN in one process must neither be missed nor leave the other waiting
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world 2 rank 0 stopped at 11" in done.stdout
    assert "world 2 rank 1 stopped at 11" in done.stdout
