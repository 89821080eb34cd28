"""The learning rate that curvature allows, measured over the first updates of a training."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import Interrupted
from superconv.history import Row
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.training.estimation import FORMS, EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.loop import ROWS, train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.plan_search import usable
from superconv.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What was measured."""

    rows: Sequence[Row]
    """`step`, `lr`, a column for each form, smoothed and as `<form>_raw`, and at probes `stable_lr` (2/λ)."""
    medians: Mapping[str, float | None]
    """Of the smoothed estimates and of 2/λ over all rows."""
    steps: int
    """Updates that were made."""
    diverged: bool


def estimate(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    forms: Sequence[str],
    steps: int,
    stride: int = 1,
    rescale: bool = False,
    probe_every: int = 0,
    plan: ExecutionPlan | None = None,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
    about: Mapping[str, Any] | None = None,
) -> Estimates:
    """Train for the first `steps` updates of a recipe while measuring; the test split is not read.

    Args:
        task: What to train.
        recipe: Its schedule may be longer than `steps`: the paper shows the first 300 of 10,000 updates.
        folder: Folder that gets all rows, and a summary with their medians.
        forms: Names in `FORMS`.
        steps: Updates to make.
        stride: Updates between the iterates that are compared.
        rescale: Multiply the plain forms by the stride, which the author did not.
        probe_every: Updates between two probes of the top eigenvalue; 0: none.
        plan: Where it runs.
        seed: Of the run.
        hooks: Look on.
        about: Further entries of the summary.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    plan = plan or usable(task, recipe, ExecutionPlan.choose())
    options = {name: {**FORMS[name], "stride": stride, "rescale": rescale} for name in forms}
    kept = RunFolder(folder)
    asked = min(steps, recipe.steps)  # where the hook ends the run, which `train` calls interrupted
    hook = EstimateHook(
        Estimation(forms=options, every=stride, probe_every=probe_every, stop_after=asked), kept.estimates.path
    )
    folder.mkdir(parents=True, exist_ok=True)
    measured = replace(task, validation=None, test=None)
    rows = max(ROWS, 10 * recipe.steps // asked)  # so that a divergence is seen within a tenth of what is shown
    run = train(measured, recipe, plan=plan, seed=seed, evaluations=0, rows=rows, hooks=[hook, *hooks])
    if run.stopped == "interrupted" and run.steps < asked:
        raise Interrupted(f"stopped after update {run.steps} of {asked}; what was measured so far is in {folder}")
    diverged = run.stopped == "diverged"
    medians = {name: _median(hook.rows, name) for name in (*forms, "stable_lr")}
    if files.writes():
        facts = {
            "name": task.name,
            "steps": run.steps,
            "diverged": diverged,
            "seed": seed,
            "plan": vars(plan),
            "machine": machine(plan.device),
        }
        summary = {**facts, "medians": medians, "versions": versions(), **(about or {})}
        kept.estimate_summary.write(summary)
    return Estimates(rows=hook.rows, medians=medians, steps=run.steps, diverged=diverged)


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = [value for row in rows if (value := row.get(name)) is not None]
    return statistics.median(values) if values else None
