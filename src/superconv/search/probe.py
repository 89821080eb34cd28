"""A short cycle, trained to its end: how low its loss gets under a peak."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isinf

from torch.nn.modules.batchnorm import _BatchNorm

from superconv.rates.recalibration import recalibrate
from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.specs.run import RECALIBRATED
from superconv.training.breakdown import BreakdownError, breakdowns
from superconv.training.collapse import CollapseHook
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import calibration
from superconv.training.task import Task
from superconv.training.trainer import Trainer

VALIDATION_SAMPLES = 1000
STALE = 0.2  # share of the statistics of the start in batch norm's running ones, above which they are estimated anew
WATCHED = 8  # updates between two looks at whether a probe has broken down


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A short cycle up to `max_lr`, trained to its end."""

    max_lr: float
    length: int
    """Updates of the cycle."""
    steps: int
    """Updates that happened: fewer where it broke down."""
    loss: float | None
    """Of the validation split, or of the last training batches where there is none; none where it broke down."""
    error: str | None = None
    """What was raised, where that broke it down."""


def probe_cycle(
    task: Task,
    recipe: Recipe,
    *,
    plan: ExecutionPlan,
    seed: int,
    hooks: Sequence[Hook],
    first_loss: list[float],
    broken: float,
) -> Probe:
    """Train a fresh network by a recipe, and read its loss at the end.

    Args:
        task: Task to train.
        recipe: Recipe of the short cycle.
        plan: Where it runs.
        seed: Seed of weights, order and augmentation.
        hooks: Hooks that look on.
        first_loss: Gets the loss before any update as its only element.
        broken: Times the first loss at which the cycle is given up.
    """
    hooks = [*hooks, CollapseHook()]
    with isolated_rng():
        trainer = Trainer(task, recipe, plan=plan, seed=seed, hooks=hooks, purpose=f"cycle to {recipe.max_lr:.2g}")
        try:
            for hook in hooks:
                hook.on_start(trainer)
            loss, raised = _train(trainer, first_loss, broken), None
        except BreakdownError as error:
            loss, raised = None, str(error)
        finally:
            for hook in hooks:
                hook.on_end(trainer)
    loss = loss if loss is not None and isfinite(loss) else None
    return Probe(max_lr=recipe.max_lr, length=recipe.steps, steps=trainer.step, loss=loss, error=raised)


def _train(trainer: Trainer, first_loss: list[float], broken: float) -> float | None:
    """Train to the end of the recipe; the loss there, or none after a breakdown, as of `broken` times the first."""
    steps, task, batches = trainer.recipe.steps, trainer.task, trainer.batches()
    since = 0.0
    while trainer.step < steps:
        with breakdowns(alone=trainer.alone, first=isinf(first_loss[0])):
            happened = trainer.update(batches)
        if not happened:
            if trainer.stuck:
                return None
            continue
        for hook in trainer.hooks:
            hook.on_update(trainer)
        if trainer.step == 1 or trainer.step % WATCHED == 0 or trainer.step == steps:
            with breakdowns(alone=trainer.alone, first=isinf(first_loss[0])):
                scores = trainer.read()
            since = scores["loss"]
            if trainer.step == 1:
                first_loss[0] = since
            if not isfinite(since) or since > broken * abs(first_loss[0]):
                return None
            row = {"step": trainer.step, "lr": trainer.lr, **{f"train_{k}": v for k, v in scores.items()}}
            for hook in trainer.hooks:
                hook.on_log(trainer, row)
    if task.validation is None:
        return since
    with breakdowns(alone=trainer.alone, first=False):
        if _stale(trainer):
            recalibrate(trainer.model.module, calibration(trainer, RECALIBRATED))
        return trainer.evaluate(task.validation, samples=VALIDATION_SAMPLES)["loss"]


def _stale(trainer: Trainer) -> bool:
    """Whether a few updates were too few for batch norm's running statistics; Caffe's averages forget at once."""
    norms = [m for m in trainer.model.module.modules() if isinstance(m, _BatchNorm) and m.momentum is not None]
    kept = [1 - (m.momentum or 0.0) for m in norms if getattr(m, "average", None) is None]
    return any(share**trainer.step > STALE for share in kept)
