"""From a task to a trained model with no rate to choose: sweeps, verdict, recipe, one cycle, test."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from superconv import files
from superconv.recipe import Recipe
from superconv.specs import Choices
from superconv.studies.runner import Numbers, run_task, stored_plan, writes
from superconv.studies.tuner import Found, find_recipe, outline
from superconv.training.estimate import EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweeps import RateSearch
from superconv.training.task import Task


def fit(
    task: Task,
    folder: Path,
    choices: Choices | None = None,
    *,
    final_task: Task | None = None,
    plan: ExecutionPlan | None = None,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    on_found: Callable[[Found], None] | None = None,
    began: float | None = None,
    **options: Any,
) -> Numbers:
    """Find a recipe, train by it and test once; called again on the same folder it goes on where it stopped.

    Args:
        task: What to train.
        folder: Gets the files of the run (docs/architecture.md lists them).
        choices: What is settled; the rest is found.
        final_task: Trained instead of `task` once everything is chosen: the same with its validation split put back.
        plan: Where it runs; that of the folder's run, or found by timing updates (`find_plan`), if not given.
        seed: Decides weights, order, augmentation and dropout, of the sweeps as well.
        about: Added to `run.json`.
        hooks: Look on while sweeps and training go.
        on_found: Told the recipe before the training begins.
        began: Reading of `time.perf_counter` from which `minutes` count; that of the call, if not given.
        options: Further arguments of `superconv.training.loop.train`.

    Returns:
        The numbers of `run.json`.

    Raises:
        UserError: Contradicting choices, unusable data, or no rate that trains the network.
        Interrupted: Ctrl-C or SIGTERM during the training, which left a checkpoint.
    """
    choices, began = choices or Choices(), began or time.perf_counter()
    plan = stored_plan(folder) or plan or find_plan(task, outline(task, choices)).plan
    recipe_file, sweeps_file, probes_file = (folder / n for n in ("recipe.yaml", "range_test.json", "probes.json"))
    if recipe_file.exists():
        search = RateSearch.load(sweeps_file) if sweeps_file.exists() else None
        seconds = files.read_json(probes_file).get("seconds", 0.0) if probes_file.exists() else 0.0
        found = Found(recipe=Recipe.load(recipe_file), search=search, seconds=seconds)
    else:
        found = find_recipe(task, choices, plan=plan, seed=seed, hooks=hooks, began=began)
        if found.search and writes():
            found.search.save(sweeps_file)
        if found.peak and writes():
            files.write_json(probes_file, {**asdict(found.peak), "seconds": round(found.seconds, 3)})
    if on_found:
        on_found(found)
    if choices.estimate:
        hooks = [*hooks, _estimating(found.recipe.steps, folder)]
    return run_task(
        final_task or task,
        found.recipe,
        folder,
        plan=plan,
        seed=seed,
        about={"search_seconds": round(found.seconds, 3), **(about or {})},
        hooks=hooks,
        **options,
    )


def _estimating(steps: int, folder: Path) -> EstimateHook:
    """Measures the curvature a hundred times, and its largest eigenvalue at five of them."""
    tenth = max(1, steps // 10)
    measured = Estimation(forms={"estimate": {"norm": "l2"}}, every=max(1, tenth // 10), probe_every=2 * tenth)
    return EstimateHook(measured, folder)
