"""One training run, from the first update to the test, on one page."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import ceil, isfinite
from pathlib import Path
from typing import Literal

from torch import nn

from superconv.data import Source
from superconv.files import native
from superconv.history import History, Row
from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.training.breakdown import BreakdownError
from superconv.training.checkpoint import load, save
from superconv.training.hooks import Hook, Stages
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import usable
from superconv.training.signals import StopRequest
from superconv.training.task import Task
from superconv.training.trainer import Trainer

ROWS = 100  # about so many rows a run has in its history if not told otherwise …
MAX_LOG_EVERY = 50  # … and more where they would lie further apart than this, in updates

Stopped = Literal["interrupted", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training gave.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> run = superconv.train(task, superconv.Recipe(steps=20, batch_size=32, max_lr=0.1))
    >>> run.stopped is None, sorted(run.scores)
    (True, ['test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss'])
    """

    model: nn.Module
    """In evaluation mode."""
    steps: int
    """Updates that happened."""
    seconds: float
    """Time of training and its evaluations, over all the processes that a resumed run had."""
    images_per_second: float | None
    """Median rate of steady training, evaluations and checkpoints apart."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """`validation_loss`, `validation_<metric>`, `test_loss`, `test_<metric>`; none where not finite."""
    stopped: Stopped | None = None
    """`interrupted` or `diverged` where the run ended before its last update."""
    notes: tuple[str, ...] = ()
    """Sentences that the user should know, on how it was trained."""


def train(
    task: Task,
    recipe: Recipe,
    *,
    plan: ExecutionPlan | None = None,
    seed: int = 0,
    history: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    evaluations: int = 10,
    evaluation_samples: int | None = None,
    rows: int = ROWS,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float = 2.0,
    hooks: Sequence[Hook] = (),
    stages: Stages | None = None,
) -> Run:
    """Train a task by a recipe; the state of all random generators is put back afterwards.

    Args:
        task: What to train.
        recipe: How.
        plan: Where; chosen for this machine if not given.
        seed: Decides initial weights, order, augmentation and dropout.
        history: File that gets a row for each logged update, as JSON lines; not written if not given.
        checkpoint: File that keeps the whole state while the run goes; not written if not given.
        resume: Whether to go on from the checkpoint, if there is one.
        evaluations: How often the validation split is read, the end included; 0 leaves that out.
        evaluation_samples: So many of its samples each time; none takes all. More than there are go around them, each
            evaluation going on where the last one stopped, as Caffe's do. The final scores are always of all.
        rows: Of the history, about; at each the device is waited for.
        checkpoint_steps: Write a checkpoint every so many updates, besides the timed ones.
        checkpoint_minutes: Write a checkpoint when the last is older than this; a killed run loses no more.
        hooks: Look on while the run goes.
        stages: What an update is made of.

    Returns:
        The trained model and its scores; the test split is read once, at the end. A run that was interrupted
        (Ctrl-C, SIGTERM) has left a checkpoint; one that diverged stops where the loss is no longer finite, or refuses
        an output that is not.

    Raises:
        UserError: The checkpoint is damaged or belongs to another model, or batches do not divide among processes.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> run = superconv.train(task, superconv.Recipe(steps=60, batch_size=32, max_lr=0.1))
    >>> run.steps, run.scores["test_accuracy"] > 0.5
    (60, True)
    """
    seed = native(seed)
    with isolated_rng(), StopRequest() as request:
        plan = plan or usable(task, recipe, ExecutionPlan.choose())
        trainer = Trainer(task, recipe, plan=plan, seed=seed, hooks=hooks, stages=stages)
        spent = load(trainer, checkpoint) if resume and checkpoint and checkpoint.exists() else 0.0
        saver = _Saver(trainer, checkpoint, steps=checkpoint_steps, minutes=checkpoint_minutes, spent=spent)
        with _open_history(trainer, history) as rows_kept, ExitStack() as ending:
            for hook in hooks:
                ending.callback(hook.on_end, trainer)
                hook.on_start(trainer)
            try:
                stopped, rates = _updates(
                    trainer,
                    rows_kept,
                    saver,
                    request,
                    evaluations=evaluations,
                    evaluation_samples=evaluation_samples,
                    rows=rows,
                )
            except BreakdownError:
                stopped, rates = "diverged", []
        seconds = saver.seconds
        scores: dict[str, float | None] = {}
        if stopped is None:
            for name, source in (("validation", task.validation), ("test", task.test)):
                if source is not None:
                    scores |= {f"{name}_{k}": v if isfinite(v) else None for k, v in trainer.evaluate(source).items()}
        return Run(
            model=trainer.finish(),
            steps=trainer.step,
            seconds=seconds,
            images_per_second=statistics.median(rates) if rates else None,
            scores=scores,
            stopped=stopped,
            notes=tuple(trainer.notes),
        )


def _updates(
    trainer: Trainer,
    history: History | None,
    saver: "_Saver",
    request: StopRequest,
    *,
    evaluations: int,
    evaluation_samples: int | None,
    rows: int,
) -> tuple[Stopped | None, list[float]]:
    """All updates that remain; why they ended early, and the images per second between two rows."""
    steps, validation = trainer.recipe.steps, trainer.task.validation
    log_every = min(MAX_LOG_EVERY, max(1, steps // rows))
    evaluate_at = {ceil(steps * k / evaluations) for k in range(1, evaluations + 1)} if validation else set()
    batches = trainer.batches()
    rates: list[float] = []
    mark, marked = time.perf_counter(), trainer.step
    while trainer.step < steps:
        if not trainer.update(batches):
            if trainer.stuck:
                return "diverged", rates
            continue
        for hook in trainer.hooks:
            hook.on_update(trainer)
        step, asked = trainer.step, request.asked or trainer.stop
        if logs := step % log_every == 0 or step in evaluate_at or step == steps:
            row: Row = {"step": step, "lr": trainer.lr, "momentum": trainer.momentum}
            row |= {f"train_{name}": value for name, value in trainer.read().items()}
            rate = (step - marked) * trainer.recipe.batch_size / (time.perf_counter() - mark)
            rates += [rate] if marked else []  # the first stretch holds the warm-up
            if step in evaluate_at and validation is not None:
                scores = trainer.evaluate(
                    validation, **_part(validation, evaluation_samples, step * evaluations // steps)
                )
                row |= {f"validation_{name}": value for name, value in scores.items()}
            row |= {"seconds": saver.seconds, "images_per_second": rate}
            if history:
                history.append(row)
            for hook in trainer.hooks:
                hook.on_log(trainer, row)
            if not isfinite(row["train_loss"] or 0.0):
                return "diverged", rates
            asked = trainer.any(asked)
        stops = asked and (logs or trainer.alone)  # several processes stop at a common row
        if saver.due(step) or stops:
            saver.save(history)
        if stops and step < steps:
            return "interrupted", rates
        if logs:
            mark, marked = time.perf_counter(), step
    return None, rates


def _part(source: Source, samples: int | None, number: int) -> dict[str, int | None]:
    """What an evaluation reads, the first of them being number 1."""
    around = samples is not None and samples > len(source)
    return {"samples": samples, "start": samples * (number - 1) if samples and around else None}


class _Saver:
    """When a checkpoint is due, and how long the run has lasted; process 0 writes, the others only count."""

    def __init__(self, trainer: Trainer, path: Path | None, *, steps: int | None, minutes: float, spent: float) -> None:
        self._trainer, self._steps, self._minutes = trainer, steps, minutes
        self._path = path if trainer.writes else None
        self._last = time.perf_counter()
        self._began = self._last - spent

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def due(self, step: int) -> bool:
        return (self._steps is not None and step % self._steps == 0) or (
            time.perf_counter() - self._last > 60 * self._minutes
        )

    def save(self, history: History | None) -> None:
        self._last = time.perf_counter()
        if self._path is not None:
            if history:
                history.sync()
            save(self._trainer, self._path, seconds=self.seconds)


@contextmanager
def _open_history(trainer: Trainer, path: Path | None) -> Iterator[History | None]:
    if path is None or not trainer.writes:
        yield None
    else:
        with History(path, until=trainer.step) as history:
            yield history
