"""From a task to a trained model with no rate to choose: sweeps, verdict, recipe, one cycle, test."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv.errors import UserError
from superconv.recipe import Recipe, batch_size_for
from superconv.specs import Choices
from superconv.studies.runner import Numbers, run_task, stored_plan, writes
from superconv.training.estimate import EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweeps import RateSearch, range_test, search_rates
from superconv.training.task import Task

EPOCHS, MIN_STEPS = 12, 500  # length of a training that nobody gave a length
PEAK = 0.5  # of lr_max: of 1, 1/2 and 1/4, half was best or near it on digits, MNIST and CIFAR-10


@dataclass(frozen=True)
class Found:
    """A recipe and what it rests on."""

    recipe: Recipe
    search: RateSearch | None
    """None where the peak was given."""
    seconds: float


def find_recipe(
    task: Task, choices: Choices, *, plan: ExecutionPlan, seed: int = 0, hooks: Sequence[Hook] = ()
) -> Found:
    """Choose what `choices` leaves open, by range tests on the training and validation splits.

    The peak is a share of the verdict's `lr_max`; decay and momentum are the preset's.

    Raises:
        UserError: Choices contradict each other, or no rate of the sweep trains the network.
    """
    began = time.perf_counter()
    given = [name for name in ("epochs", "steps", "minutes") if getattr(choices, name) is not None]
    if len(given) > 1:
        raise UserError(f"give one length, not both {' and '.join(given)}")
    samples = len(task.train)
    trial = outline(task, choices)
    batch_size = trial.batch_size
    steps = _steps(choices, samples, batch_size)
    reasons = {"batch_size": "given" if choices.batch_size else f"about a fortieth of {samples} samples, 32 to 256"}
    search = None
    max_lr = choices.max_lr
    if max_lr is None:
        length = max(100, min(300, steps // 10))
        search = search_rates(
            task,
            trial,
            steps=length,
            seeds=range(seed, seed + choices.sweep_seeds),
            estimate=choices.estimate or choices.max_lr_from == "both",
            plan=plan,
            hooks=hooks,
        )
        bound = search.verdict.lr_max
        if bound is None:
            raise UserError(f"no rate of the sweep trained {task.name}: {search.verdict.reason} Or give --max-lr.")
        reasons["max_lr"] = (
            f"{PEAK:g} × {bound:.3g}, the largest rate that a range test of {length} updates bears: one this short "
            f"passes by rates that a longer stay would not bear. {search.verdict.reason}"
        )
        max_lr = PEAK * bound
        curvature = search.agreement.estimate if search.agreement and choices.max_lr_from == "both" else None
        if curvature is not None and curvature < max_lr:
            max_lr = curvature
            reasons["max_lr"] = f"the curvature estimate, which is below what the range test gives ({PEAK * bound:.3g})"
    else:
        reasons["max_lr"] = "given"
    if choices.minutes is not None:
        pace = _seconds_per_update(task, choices, batch_size, search, began, plan)
        left = choices.minutes * 60 - (time.perf_counter() - began)
        steps = plan.fabric().broadcast(max(20, int(left / pace)))
        reasons["steps"] = f"what fits into {choices.minutes:g} minutes, the sweeps included"
    else:
        reasons["steps"] = f"{steps * batch_size / samples:.3g} epochs of {samples} samples"
    reasons["weight_decay"] = f"preset {choices.preset}" if choices.weight_decay is None else "given"
    recipe = choices.recipe(batch_size=batch_size, steps=steps, max_lr=float(f"{max_lr:.3g}"), reasons=reasons)
    return Found(recipe, search, time.perf_counter() - began)


def outline(task: Task, choices: Choices) -> Recipe:
    """The recipe before anything is searched, of at least 20 updates; its rate stands for none."""
    samples = len(task.train)
    batch_size = choices.batch_size or batch_size_for(samples)
    steps = max(20, _steps(choices, samples, batch_size))
    return choices.recipe(batch_size=batch_size, steps=steps, max_lr=1.0, reasons={})


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
        found = Found(Recipe.load(recipe_file), search, search.seconds if search else 0.0)
    else:
        found = find_recipe(task, choices, plan=plan, seed=seed, hooks=hooks)
        if found.search and writes():
            found.search.save(sweeps_file)
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


def _steps(choices: Choices, samples: int, batch_size: int) -> int:
    if choices.steps is not None:
        return choices.steps
    if choices.epochs is not None:
        return max(1, round(choices.epochs * samples / batch_size))
    return max(MIN_STEPS, round(EPOCHS * samples / batch_size))


def _seconds_per_update(
    task: Task,
    choices: Choices,
    batch_size: int,
    search: RateSearch | None,
    began: float,
    plan: ExecutionPlan,
) -> float:
    if search is not None:
        curves = [curve for curve in (search.exploration, search.curve) if curve]
        return (time.perf_counter() - began) / sum(len(curve.lr) for curve in curves)
    began, updates = time.perf_counter(), 20
    recipe = choices.recipe(batch_size=batch_size, steps=updates, max_lr=1e-3, reasons={})
    range_test(task, recipe, max_lr=1e-3, steps=updates, plan=plan)
    return (time.perf_counter() - began) / updates
