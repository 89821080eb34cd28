"""The range test around anybody's loop: no trace (promise 1), restarted loaders, misuse, several processes."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from range_loops import Training, plain
from torch import Tensor

from superconv.rates.range_test import RangeTest


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

    class Wrapper(torch.optim.Optimizer):  # as Accelerate's: an Optimizer by name, without hooks
        def __init__(self) -> None:
            self.optimizer = optimizer

    with pytest.raises(TypeError, match="inside a framework's wrapper"):
        RangeTest(model, Wrapper(), max_lr=1.0, steps=5)
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
import gc, math, sys
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
del parallel, test
dist.destroy_process_group()
gc.collect()  # the last reference to the group joins gloo's threads; one that still works while Python ends aborts it
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
