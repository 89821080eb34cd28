"""Runs on the real digits: what a step is, resume, hooks, divergence."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from small_tasks import kept
from torch import nn

from superconv.data.source import TensorSource
from superconv.history import read
from superconv.integrations.tensorboard import TensorBoardLogger
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training.hooks import Hook, Stages
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import sweep_rates
from superconv.training.task import Task, image_task

CPU = ExecutionPlan(device="cpu")
DIGITS = ImageTask(data="digits")


def recipe(**fields) -> Recipe:
    return Recipe(**{"steps": 60, "batch_size": 32, "max_lr": 0.1, **fields})


def noisy_model() -> nn.Module:
    """Batch norm and dropout: both would betray a wrong random state or buffer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return replace(image_task(DIGITS), model=noisy_model)


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def test_digits_are_learned_and_the_test_split_is_read_once_at_the_end(task):
    reads = []

    class Watched:
        def __init__(self, source):
            self.source = source

        def __len__(self):
            return len(self.source)

        def to(self, device):
            return self

        def batches(self, draws, **options):
            reads.append(1)
            return self.source.batches(draws, **options)

    class Steps(Hook):
        def on_update(self, trainer):
            assert not reads

    run = train(replace(task, test=Watched(task.test)), recipe(steps=300), plan=CPU, hooks=[Steps()])
    assert run.scores["test_accuracy"] > 0.9
    assert run.steps == 300
    assert reads == [1]


def test_equal_seeds_give_equal_weights_and_others_do_not(task):
    first, second, third = (train(task, recipe(), plan=CPU, seed=seed).model for seed in (1, 1, 2))
    assert same(first, second)
    assert not same(first, third)


def test_the_caller_s_random_state_is_left_alone(task):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(task, recipe(steps=20), plan=CPU)
    assert torch.equal(torch.rand(3), expected)


def test_a_range_test_before_training_changes_nothing(task):
    alone = train(task, recipe(), plan=CPU).model
    sweep_rates(task, recipe(), steps=20, max_lr=3.0, evaluate_every=5, plan=CPU)
    assert same(train(task, recipe(), plan=CPU).model, alone)


def test_a_run_stopped_by_an_error_and_resumed_equals_an_unbroken_one(task, tmp_path):
    class Stop(Hook):
        def on_update(self, trainer):
            if trainer.step == 37:
                raise RuntimeError("pulled the plug")

    whole = train(task, recipe(), plan=CPU, **kept(tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="pulled"):
        train(task, recipe(), plan=CPU, **kept(tmp_path / "cut"), checkpoint_steps=10, hooks=[Stop()])
    resumed = train(task, recipe(), plan=CPU, **kept(tmp_path / "cut"), resume=True)
    assert same(resumed.model, whole.model)

    def rows(name):
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in read(tmp_path / name / "history.jsonl")
        ]

    assert rows("cut") == rows("whole")


def test_several_optimizers_and_adam_resume_too(task, tmp_path):
    def two(model, recipe):
        halves = list(model.parameters())
        return [torch.optim.AdamW(halves[:2], lr=1e-3), torch.optim.SGD(halves[2:], lr=1e-2, momentum=0.9)]

    mixed = replace(task, optimizer=two)
    whole = train(mixed, recipe(), plan=CPU).model
    interrupt = Interrupt(25)
    cut = train(mixed, recipe(), plan=CPU, **kept(tmp_path), hooks=[interrupt])
    assert (cut.stopped, cut.steps, cut.scores) == ("interrupted", 25, {})
    assert same(train(mixed, recipe(), plan=CPU, **kept(tmp_path), resume=True).model, whole)


class Interrupt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_update(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_accumulation_equals_one_large_batch_without_batch_statistics(task):
    plain = replace(task, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    plan = replace(CPU, precision="64-true")
    whole = train(plain, recipe(), plan=plan).model
    parts = train(plain, recipe(accumulate=4), plan=plan).model
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_run_that_diverges_is_a_result(task):
    run = train(task, recipe(max_lr=1e30), plan=CPU)
    assert run.stopped == "diverged"
    assert run.steps < 60
    assert run.scores == {}


@pytest.mark.parametrize("finite", [False, True])
def test_a_loss_that_refuses_what_a_large_rate_leaves_is_one_too(task, finite):
    def strict(output, target):
        if not output.isfinite().all() or (finite and output.abs().max() > 30):
            raise ValueError("no such logits")
        return nn.functional.cross_entropy(output, target)

    straight = replace(task, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), loss=strict)
    if finite:  # then it is no divergence, but an error that the user should see
        with pytest.raises(ValueError, match="no such logits"):
            train(straight, recipe(max_lr=1e36), plan=CPU)
    else:
        assert train(straight, recipe(max_lr=1e36), plan=CPU).stopped == "diverged"


def test_stages_can_be_replaced(task):
    seen = []

    def predict(model, inputs):
        seen.append(len(inputs))
        return model(inputs)

    train(task, recipe(steps=20), plan=CPU, stages=Stages(predict=predict))
    assert seen == [32] * 20


def test_hooks_see_every_update_and_every_row(task, tmp_path):
    class Count(Hook):
        updates, rows, ends = 0, [], 0

        def on_update(self, trainer):
            self.updates += 1

        def on_log(self, trainer, row):
            self.rows.append(row["step"])

        def on_end(self, trainer):
            self.ends += 1

    count = Count()
    train(task, recipe(), plan=CPU, **kept(tmp_path), hooks=[count], evaluations=4)
    history = read(tmp_path / "history.jsonl")
    assert (count.updates, count.ends) == (60, 1)
    assert count.rows == [row["step"] for row in history] == list(range(1, 61))
    assert [row["step"] for row in history if "validation_accuracy" in row] == [15, 30, 45, 60]
    assert history[27]["lr"] == 0.1
    assert history[27]["momentum"] == 0.85


def test_a_regression_with_only_a_loss(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    y = x @ torch.randn(8, 1, generator=generator)
    task = Task(
        name="linear",
        model=lambda: nn.Linear(8, 1),
        train=TensorSource(x[:400], y[:400]),
        validation=TensorSource(x[400:], y[400:]),
        loss=nn.functional.mse_loss,
        metric=None,
    )
    run = train(task, recipe(optimizer="AdamW", optimizer_args={}, steps=300), plan=CPU, **kept(tmp_path))
    assert run.scores.keys() == {"validation_loss"}
    assert run.scores["validation_loss"] < 0.01
    curve = sweep_rates(task, recipe(optimizer="AdamW", optimizer_args={}), steps=50, max_lr=1.0, plan=CPU)
    assert curve.metric == "loss"
    assert curve.train_loss[-1] is not None


DIES = """
import os, signal
from pathlib import Path
from torch import nn

class Dies(nn.Sequential):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls == 150 and not Path("lived").exists():
            Path("lived").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)

def model(num_classes):
    hidden = [nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()]
    return Dies(nn.Flatten(), *hidden, nn.Linear(32, num_classes))
"""


@pytest.mark.slow
def test_kill_minus_nine_and_resume_equals_an_unbroken_run(tmp_path):
    def fit(out: str, *options: str) -> int:
        length = ["--steps", "400", "--max-lr", "0.2", "--checkpoint-steps", "30", "--device", "cpu"]
        command = [sys.executable, "-m", "superconv", "fit", "digits", "--model", "dies:model", "--out", out, *length]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run([*command, *options], capture_output=True, cwd=tmp_path, env=environment).returncode

    (tmp_path / "dies.py").write_text(DIES)
    assert fit("cut") == -signal.SIGKILL
    assert not (tmp_path / "cut" / "run.json").exists()
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    assert fit("cut", "--resume") == 0
    assert fit("whole") == 0
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert (tmp_path / "cut" / "report.html").exists()
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_run_and_says_so(tmp_path):
    command = [sys.executable, "-m", "superconv", "fit", "digits", "--steps", "100000", "--max-lr", "0.1"]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    history = tmp_path / "run" / "history.jsonl"
    while not (history.exists() and history.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_tensorboard_hook_writes_every_number(task, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(task, recipe(), plan=CPU, **kept(tmp_path), hooks=[TensorBoardLogger(tmp_path / "tb")], evaluations=2)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    history = read(tmp_path / "history.jsonl")
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [row["step"] for row in history]
    assert [event.value for event in logged] == pytest.approx([row["train_loss"] for row in history])
    assert len(events.Scalars("validation/accuracy")) == 2


def test_fp16_skips_are_not_steps(task):
    """The bookkeeping of fp16 on a CPU: an optimizer that is not called, as the gradient scaler does on overflow."""
    skipped = {3, 4, 9}

    class Skipping(torch.optim.SGD):
        calls = 0

    def make(model, recipe):
        return Skipping(model.parameters(), lr=0.1, momentum=0.9)

    class Scaler(Hook):
        rates: ClassVar = []

        def on_start(self, trainer):
            wrapped = trainer.optimizers[0]
            original = wrapped.step

            def step(*args, **kwargs):
                Skipping.calls += 1
                return None if Skipping.calls in skipped else original(*args, **kwargs)

            trainer.optimizers[0].step = step

        def on_update(self, trainer):
            self.rates.append(trainer.step)

    scaler = Scaler()
    run = train(replace(task, optimizer=make), recipe(), plan=CPU, hooks=[scaler])
    assert run.steps == 60
    assert Skipping.calls == 63
    assert scaler.rates == list(range(1, 61))


def test_a_run_has_about_the_rows_that_it_is_told(task, tmp_path):
    train(task, recipe(), plan=CPU, **kept(tmp_path), rows=4, evaluations=0)
    assert [row["step"] for row in read(tmp_path / "history.jsonl")] == [15, 30, 45, 60]


def test_hooks_end_when_a_sweep_is_broken_off():
    class Breaks(Hook):
        ended = 0

        def on_update(self, trainer):
            raise KeyboardInterrupt

        def on_end(self, trainer):
            self.ended += 1

    hook = Breaks()
    with pytest.raises(KeyboardInterrupt):
        sweep_rates(image_task(ImageTask(data="digits")), max_lr=1.0, steps=20, hooks=[hook])
    assert hook.ended == 1
