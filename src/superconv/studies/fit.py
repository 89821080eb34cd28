"""From a task to a trained model with no rate to choose: sweeps, verdict, recipe, one cycle, test."""

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
        options: Further arguments of `superconv.training.loop.train`.

    Returns:
        The numbers of `run.json`.

    Raises:
        UserError: Contradicting choices, unusable data, or no rate that trains the network.
        Interrupted: Ctrl-C or SIGTERM during the training, which left a checkpoint.
    """
    choices = choices or Choices()
    plan = stored_plan(folder) or plan or find_plan(task, outline(task, choices)).plan
    recipe_file, sweeps_file = folder / "recipe.yaml", folder / "range_test.json"
    if recipe_file.exists():
        search = RateSearch.load(sweeps_file) if sweeps_file.exists() else None
        found = Found(recipe=Recipe.load(recipe_file), search=search, seconds=search.seconds if search else 0.0)
    else:
        found = find_recipe(task, choices, plan=plan, seed=seed, hooks=hooks)
        if found.search and writes():
            found.search.save(sweeps_file)
        if found.peak and writes():
            files.write_json(folder / "probes.json", asdict(found.peak))
    if on_found:
        on_found(found)
    if choices.estimate:
        tenth = max(1, found.recipe.steps // 10)
        measured = Estimation(forms={"estimate": {"norm": "l2"}}, every=max(1, tenth // 10), probe_every=2 * tenth)
        hooks = [*hooks, EstimateHook(measured, folder)]
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
