"""What the commands share: where runs are made, the execution plan, the run's folder, its hooks."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superconv.commands import options
from superconv.errors import UserError, at_least
from superconv.report.terminal import say

if TYPE_CHECKING:
    from superconv.recipe import Recipe
    from superconv.runs.folder import RunFolder
    from superconv.runs.jobs import Executor
    from superconv.training.hooks import Hook
    from superconv.training.plan import ExecutionPlan
    from superconv.training.plan_choice import PlanSearch
    from superconv.training.task import Task


def plan_of(asked: options.Machine, task: "Task", recipe: "Recipe", *, seconds: float | None = None) -> "ExecutionPlan":
    """The plan that `--plan` names, or what a search finds for the recipe's length or `seconds`, which is announced."""
    from superconv.runs.runner import plan_for

    return plan_for(task, recipe, device=asked.device, words=asked.plan, seconds=seconds, report=announce_plan)


def announce_plan(found: "PlanSearch") -> None:
    """Say which plan a search found, and why."""
    say(f"plan: {found.reason}")


def executor_of(asked: options.Execution, device: str) -> AbstractContextManager["Executor"]:
    """What makes the runs of a study, held while it is used."""
    from superconv.runs.executors import Pool, Ray
    from superconv.runs.jobs import InProcess

    kind, workers, address = asked.executor, asked.workers, asked.ray_address
    if workers is not None and (workers < 1 or kind == "in-process"):
        raise UserError("--workers is the number of runs at a time, 1 or more, for --executor pool or ray")
    if address is not None and kind != "ray":
        raise UserError("--ray-address is for --executor ray")
    if kind != "in-process" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"under torchrun all processes make each run together: leave out --executor {kind}")
    if kind == "pool":
        return Pool(workers=workers, device=device)
    return Ray(workers=workers, address=address, device=device) if kind == "ray" else nullcontext(InProcess())


def folder_of(
    running: options.Running, plan: "ExecutionPlan", data: str, settled: dict[str, Any]
) -> AbstractContextManager["RunFolder"]:
    """The run's folder, held while it is used."""
    from superconv.runs.workspace import run_folder

    at_least(0, evaluations=running.evaluations, checkpoint_minutes=running.checkpoint_minutes)
    at_least(1, checkpoint_steps=running.checkpoint_steps)

    options = {"resume": running.resume, "overwrite": running.overwrite}
    return run_folder(running.out, name=Path(data).name, settled=settled, plan=plan, **options)


def kept_by(running: options.Running) -> dict[str, Any]:
    """Arguments of `fit` and `train` that say how a run is kept."""
    return {
        "evaluations": running.evaluations,
        "checkpoint_steps": running.checkpoint_steps,
        "checkpoint_minutes": running.checkpoint_minutes,
    }


def loggers_of(running: options.Running, folder: "RunFolder") -> "list[Hook]":
    """The hooks that a command line asks for."""
    if not running.tensorboard:
        return []
    from superconv.integrations.tensorboard import TensorBoardLogger

    return [TensorBoardLogger(folder.tensorboard)]
