"""What the commands share: the console, the execution plan, the run's folder, its hooks."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from superconv import cli, files
from superconv.errors import UserError, at_least
from superconv.rates.verdict import Verdict

if TYPE_CHECKING:
    from superconv.recipe import Recipe
    from superconv.studies.sweep import Executor
    from superconv.training.hooks import Hook
    from superconv.training.plan import ExecutionPlan
    from superconv.training.plan_search import PlanSearch
    from superconv.training.task import Task

console = Console(stderr=True, markup=False, emoji=False, highlight=False)
TOLD = ("schedule", "steps", "batch_size", "max_lr", "momentum", "weight_decay", "dropout")  # even without a reason


def say(text: str, *, whole: bool = True) -> None:
    """Print a line for the user, in process 0 only; `whole` leaves it unbroken, for paths and what reads the output."""
    if files.writes():
        console.print(text, soft_wrap=whole)


def say_notes(notes: Iterable[str]) -> None:
    """Say what the user should know about how the data was read, or the run was made."""
    for note in notes:
        say(f"note: {note}")


def plan_of(asked: cli.Machine, task: "Task", recipe: "Recipe", *, seconds: float | None = None) -> "ExecutionPlan":
    """The plan that `--plan` names, or what a search finds for the recipe's length or `seconds`, which is announced."""
    from superconv.studies.runner import plan_for

    return plan_for(task, recipe, device=asked.device, words=asked.plan, seconds=seconds, report=announce_plan)


def announce_plan(found: "PlanSearch") -> None:
    """Say which plan a search found, and why."""
    say(f"plan: {found.reason}")


def executor_of(asked: cli.Execution, device: str) -> AbstractContextManager["Executor"]:
    """What makes the runs of a study, held while it is used."""
    from superconv.studies.executors import Pool, Ray
    from superconv.studies.sweep import InProcess

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
    running: cli.Running, plan: "ExecutionPlan", data: str, settled: dict[str, Any]
) -> AbstractContextManager[Path]:
    """The run's folder, held while it is used."""
    from superconv.studies.folder import run_folder

    at_least(0, evaluations=running.evaluations, checkpoint_minutes=running.checkpoint_minutes)
    at_least(1, checkpoint_steps=running.checkpoint_steps)

    options = {"resume": running.resume, "overwrite": running.overwrite}
    return run_folder(running.out, name=Path(data).name, settled=settled, plan=plan, **options)


def options_of(running: cli.Running, folder: Path) -> dict[str, Any]:
    """Arguments of `train` that say how a run is kept."""
    from superconv.training.progress import ProgressHook

    hooks: list[Hook] = [ProgressHook(console)]
    if running.tensorboard:
        from superconv.integrations.tensorboard import TensorBoardLogger

        hooks.append(TensorBoardLogger(folder / "tensorboard"))
    return {
        "hooks": hooks,
        "evaluations": running.evaluations,
        "checkpoint_steps": running.checkpoint_steps,
        "checkpoint_minutes": running.checkpoint_minutes,
    }


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict as a table."""
    table = Table(show_header=False, box=None)
    table.add_row("super-convergence", verdict.headline)
    for name in ("lr_min", "lr_max", "lr_edge"):
        value = getattr(verdict, name)
        table.add_row(name, "none seen" if value is None else f"{value:.3g}")
    table.add_row("why", verdict.reason)
    Console().print(table)


def print_recipe(recipe: "Recipe") -> None:
    """Print a recipe with its reasons, in process 0 only."""
    if not files.writes():
        return
    values = {**vars(recipe), **{name: "–" for name in recipe.reasons if not hasattr(recipe, name)}}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), highlight=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if name in recipe.reasons or (name in TOLD and value is not None):
            words, reason = _told(recipe, name, value)
            table.add_row(f"  {name}", words, Text(recipe.reasons.get(name, reason).replace("; ", ";\n")))
    console.print(table)


def _told(recipe: "Recipe", name: str, value: Any) -> tuple[str, str]:
    """A value as people write it, and what is said of it where there is no reason."""
    from superconv.studies.settings import shown

    if name == "momentum" and recipe.momentum_schedule():
        return f"{value:g} → {recipe.min_momentum:g}", "at the feet and at the peak of the cycle"
    return (shown(name, value) if isinstance(value, float) else f"{value}"), ""
