"""Seconds to a target accuracy, by the network and recipe of the CIFAR-10 speed records."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from superconv import data
from superconv.data import ImageData
from superconv.data.augment import Augmentation
from superconv.data.source import ResidentImages
from superconv.errors import Interrupted, UserError
from superconv.models.record import RecordNet
from superconv.recipe import Recipe, plain
from superconv.runs.runner import plan_for
from superconv.specs.image_task import ImageTask
from superconv.stats import mean_interval
from superconv.training.averaging import Lookahead
from superconv.training.hooks import Hook, RunState
from superconv.training.loop import Run, train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.task import Task, image_task

WHITENED = 5000  # training images that the first layer is computed from
BIAS_RATE = 64  # times the rate, for the biases of batch norms
ROWS = 20  # times that a run is looked at: each time the device is waited for
ENDLESS = 10**9  # updates


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is run for a target: size and length; all else is the record's."""

    target: float
    """Test accuracy that this size and length were chosen to reach on CIFAR-10, on average."""
    width: int
    epochs: float
    batch_size: int


# Found on CIFAR-10 by trying; the last is the published one (94.01 % on average of 1,000 runs).
ATTEMPTS = (
    Attempt(target=0.85, width=32, epochs=5, batch_size=512),
    Attempt(target=0.94, width=64, epochs=9.9, batch_size=1024),
)


def attempt(target: float, *, width: int | None = None, epochs: float | None = None) -> Attempt:
    """The smallest known attempt that reaches a target, with the user's width and length in place of its own.

    Raises:
        UserError: The target is no share, or beyond every known attempt and not both width and length are given.
    """
    if not 0 < target < 1:
        raise UserError(f"--target is an accuracy between 0 and 1, such as 0.85, not {target:g}")
    known = next((a for a in ATTEMPTS if a.target >= target), None)
    if known is None and not (width and epochs):
        raise UserError(
            f"{target:.1%} is beyond the known {ATTEMPTS[-1].target:.0%}: give --width and --epochs as well"
        )
    known = known or ATTEMPTS[-1]
    return replace(known, target=target, width=width or known.width, epochs=epochs or known.epochs)


def record_recipe(steps: int, batch_size: int) -> Recipe:
    """The record's recipe as means over the batch: its rates are of sums over 1,024 samples, its decay is decoupled.

    Peak 11.5 / (1 + 1 / (1 − 0.85)) per 1,024 samples; decay 0.0153 of the same, per update and not times the rate.
    """
    scale = 1 + 1 / (1 - 0.85)
    peak = 11.5 / scale * batch_size / 1024
    decay = 0.0153 * batch_size / 1024 / scale / peak
    fields = {"weight_decay": float(f"{decay:.4g}"), "label_smoothing": 0.2}
    return Recipe.preset("record", steps=steps, batch_size=batch_size, max_lr=float(f"{peak:.4g}"), **fields)


def record_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """SGD whose batch-norm biases have 64 times the rate, and the same decay per update."""
    biases = [m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.bias is not None]
    known = {id(p) for p in biases}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    lr, decay = recipe.learning_rate()(0), recipe.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": others, "lr": lr, "weight_decay": decay},
        {"params": biases, "lr": BIAS_RATE * lr, "weight_decay": decay / BIAS_RATE},
    ]
    return SGD(groups, lr=lr, momentum=recipe.momentum, **{"fused": True, **recipe.optimizer_args})


class FreezeWhitening(Hook):
    """The whitening layer's bias learns during the first part of a run only."""

    def __init__(self, until: float = 0.3) -> None:
        self._until = until

    def on_update(self, run: RunState) -> None:
        """Freeze it when its time is over."""
        whitening: Any = run.module.whitening
        bias = whitening.bias
        if bias.requires_grad and run.step >= self._until * run.recipe.steps:
            bias.requires_grad_(False)
            bias.grad = None


def record_task(images: ImageData, width: int) -> Task:
    """The task with the record's network, whitened on training images, and its optimizer."""
    if not isinstance(images.train, ResidentImages):
        raise UserError(f"{images.name} does not fit into memory: a speed run needs all images there")
    spec = ImageTask(data=images.name, model="record", model_args=(("width", width),))
    task = image_task(spec, images)
    sample = torch.arange(min(WHITENED, len(images.train)))
    patches_of, _ = next(images.train.batches([(torch.zeros_like(sample), sample)], seed=0, augment=False))

    def model() -> nn.Module:
        network = task.model()
        assert isinstance(network, RecordNet)
        network.whiten(patches_of)
        return network

    return replace(task, model=model, optimizer=record_optimizer)


@dataclass(frozen=True, kw_only=True)
class Speedrun:
    """What a speed run measured; plain values, as written to JSON."""

    data: str
    attempt: Attempt
    seconds: list[float]
    """Of each run: whitening, training, averaging and the test; loading, search and warm-up apart."""
    accuracies: list[float]
    """On the test split, over the network's views; 0 where a run diverged."""
    reached: int
    """Runs at or above the target."""
    mean: float
    low: float | None
    """Lower end of the mean's 95 % interval; none for one run."""
    high: float | None
    load_seconds: float
    search_seconds: float
    """Of the execution plan; next to nothing where it was kept from an earlier search."""
    warmup_seconds: float
    """Of a few updates and a test on training images, in which kernels are chosen and, under a compiled plan, made."""
    plan: str
    machine: str
    recipe: dict[str, Any]
    versions: dict[str, str]


def speedrun(
    name: str,
    chosen: Attempt,
    *,
    seeds: Sequence[int] = range(5),
    device: str = "auto",
    words: str | None = None,
    hooks: Sequence[Hook] = (),
    report: Callable[[int, float, float], None] | None = None,
) -> Speedrun:
    """Train the record's network on all training images, once per seed, and test each once.

    Args:
        name: Data set, as for `superconv.data.load`.
        chosen: Size and length.
        seeds: One run each.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        words: Of the execution plan; none searches one.
        hooks: Look on while the runs go.
        report: Called with seed, seconds and test accuracy of each run.

    Raises:
        UserError: The data cannot be had or do not suit the network.
        Interrupted: Ctrl-C or SIGTERM.
    """
    clock = _Stopwatch()
    augmentation = Augmentation(flip="alternating", shift=2, padding="reflect")
    task = record_task(data.load(name, validation=0, augmentation=augmentation), chosen.width)
    steps = max(20, round(chosen.epochs * len(task.train) / chosen.batch_size))
    recipe = record_recipe(steps, chosen.batch_size)
    load_seconds = clock.lap()
    # Compiling falls into the warm-up and need not pay on a GPU, where it takes seconds; on a CPU it takes minutes.
    long = steps * len(seeds) if ExecutionPlan.choose(device=device).device == "cpu" else ENDLESS
    plan = plan_for(task, replace(recipe, steps=long), device=device, words=words)
    search_seconds = clock.lap()
    _train(_rehearsal(task), replace(recipe, steps=20), plan=plan)
    warmup_seconds = clock.lap()
    seconds: list[float] = []
    accuracies: list[float] = []
    for seed in seeds:
        run = _train(task, recipe, plan=plan, seed=seed, hooks=hooks)
        if run.stopped == "interrupted":
            raise Interrupted(f"stopped in the run of seed {seed}, after {len(accuracies)} whole ones")
        seconds.append(clock.lap())
        accuracies.append(run.scores.get("test_accuracy") or 0.0)
        if report:
            report(seed, seconds[-1], accuracies[-1])
    mean, low, high = mean_interval(accuracies)
    return Speedrun(
        data=name,
        attempt=chosen,
        seconds=seconds,
        accuracies=accuracies,
        reached=sum(accuracy >= chosen.target for accuracy in accuracies),
        mean=mean,
        low=low,
        high=high,
        load_seconds=load_seconds,
        search_seconds=search_seconds,
        warmup_seconds=warmup_seconds,
        plan=plan.words,
        machine=machine(plan.device),
        recipe=plain(recipe),
        versions=versions(),
    )


def _train(task: Task, recipe: Recipe, *, plan: ExecutionPlan, seed: int = 0, hooks: Sequence[Hook] = ()) -> Run:
    return train(task, recipe, plan=plan, seed=seed, hooks=[Lookahead(), FreezeWhitening(), *hooks], rows=ROWS)


def _rehearsal(task: Task) -> Task:
    """The task with training images for its test, as many as that has: kernels depend on the sizes of batches."""
    train, test = task.train, task.test
    assert isinstance(train, ResidentImages)
    assert test is not None
    count = len(test)
    return replace(task, test=replace(train, images=train.images[:count], labels=train.labels[:count]))


class _Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last
