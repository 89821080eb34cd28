"""Schedules under equal budgets: final accuracy against the length of the run, and the speed-up of one cycle."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from superconv.errors import UserError
from superconv.recipe import CYCLES, Recipe, ScheduleName
from superconv.runs.jobs import Executor, Failure, InProcess, OnRun
from superconv.runs.runner import Numbers, common_plan, run_all
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RunSpec
from superconv.specs.studies import Comparison
from superconv.stats import Scores, mean_interval, speed_up
from superconv.training.task import image_task, refuse_watched


def compare(
    task: ImageTask,
    comparison: Comparison,
    recipe: Recipe,
    root: Path,
    *,
    plan: str | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    report: OnRun | None = None,
) -> dict[str, Any]:
    """Train every schedule at every length from every seed, and say how much shorter one cycle may be.

    Rates are chosen and speed-ups computed on the validation split; the test scores only stand beside. Runs that fail
    are left out: a length without runs has no row, and a schedule without a rate that ran has none at all.

    Args:
        task: What to train.
        comparison: The runs.
        recipe: Everything but schedule, length and rate; momentum cycles under `one_cycle` only.
        root: Folder of the runs, one each; what is finished there is not made again.
        plan: Words of the execution plan; not given, one is found for all runs together.
        device: Where to run.
        executor: Makes the runs; one after the other in this process, if not given.
        report: Told of each run as it ends.

    Returns:
        Plain values: `metric`, `schedules`, `speed_up`, `rates`, `seeds`, `failures`, `machine`, `notes` of the data.

    Raises:
        UserError: Something given cannot be used, or no run at all could be made.

    >>> from pathlib import Path
    >>> import superconv
    >>> asked = superconv.Comparison(
    ...     schedules=("one_cycle", "constant"), steps=(20,), seeds=1, max_lr=("one_cycle=0.1", "constant=0.1")
    ... )
    >>> recipe = superconv.Recipe(steps=20, batch_size=32, max_lr=0.1, min_momentum=None)
    >>> task = superconv.ImageTask(data="digits")
    >>> found = superconv.compare(task, asked, recipe, Path("compared"), plan="fp32,eager")
    >>> sorted(found["schedules"])
    ['constant', 'one_cycle']
    """
    executor = executor or InProcess()
    candidates = comparison.candidates()
    if not task.validation:
        raise UserError("compare chooses and measures on the validation split: --validation must not be 0")
    refuse_watched(task.watch_test)
    if plan is None:
        updates = sum(comparison.steps) * comparison.seeds * len(comparison.schedules)
        whole = replace(recipe, steps=updates)
        plan = common_plan(image_task(task), whole, root, device=device, threads=executor.threads).words
    failures: list[dict[str, Any]] = []

    def made(specs: Sequence[RunSpec]) -> list[tuple[RunSpec, Numbers]]:
        """What could be made of them."""
        outcomes = list(zip(specs, run_all(specs, root, executor=executor, report=report), strict=True))
        failures.extend(_failed(spec, outcome) for spec, outcome in outcomes if isinstance(outcome, Failure))
        return [(spec, outcome) for spec, outcome in outcomes if not isinstance(outcome, Failure)]

    def spec(schedule: ScheduleName, steps: int, seed: int, max_lr: float) -> RunSpec:
        ramp = 0.0 if schedule in CYCLES else recipe.ramp
        changed = replace(recipe, schedule=schedule, steps=steps, max_lr=max_lr, ramp=ramp)
        return RunSpec(task=task, recipe=changed, seed=seed, plan=plan, device=device, evaluations=0)

    lengths, names = sorted(comparison.steps), comparison.schedules
    for name in names:
        spec(name, lengths[0], 0, max(candidates[name]))  # one that is too short is refused before any run
    several = [name for name in names if len(candidates[name]) > 1]
    tried = made([spec(name, lengths[len(lengths) // 2], 0, rate) for name in several for rate in candidates[name]])
    best = {name: _best(name, tried) if name in several else candidates[name][0] for name in names}
    rates = {name: rate for name, rate in best.items() if rate is not None}
    runs = made(
        [
            spec(name, steps, seed, rate)
            for steps in lengths
            for name, rate in rates.items()
            for seed in range(comparison.seeds)
        ]
    )
    if not runs:
        raise UserError(f"no run could be made; the first ended with: {failures[0]['reason']}")
    table: dict[str, dict[int, list[Numbers]]] = {}
    for of, numbers in runs:
        table.setdefault(of.recipe.schedule, {}).setdefault(of.recipe.steps, []).append(numbers)
    ended = {
        name: {n: [_score(run) for run in row] for n, row in rows.items() if not any(r["stopped"] for r in row)}
        for name, rows in table.items()
    }
    first = runs[0][1]
    return {
        "name": first["name"],
        "metric": first["metric"],
        "schedules": {name: [_row(n, row) for n, row in rows.items()] for name, rows in table.items()},
        "speed_up": _speed_ups(ended),
        "rates": rates,
        "seeds": list(range(comparison.seeds)),
        "failures": failures,
        "machine": first["machine"],
        "plan": first["plan"],
        "versions": first["versions"],
        "notes": first.get("notes", []),
    }


def _best(name: str, tried: Sequence[tuple[RunSpec, Numbers]]) -> float | None:
    """The rate that served a schedule best; none where no run with any of its rates could be made."""
    own = [(spec, numbers) for spec, numbers in tried if spec.recipe.schedule == name]
    return max(own, key=lambda run: _score(run[1]))[0].recipe.max_lr if own else None


def _speed_ups(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """At lengths of which no run diverged: the score of one that did is not one to be reached."""
    if not scores.get("one_cycle"):
        return []
    baselines = [name for name in scores if name != "one_cycle"]
    return [asdict(gain) for name in baselines for gain in speed_up(scores["one_cycle"], scores[name], name=name)]


def _failed(spec: RunSpec, failure: Failure) -> dict[str, Any]:
    recipe = spec.recipe
    settings = {"schedule": recipe.schedule, "steps": recipe.steps, "max_lr": recipe.max_lr, "seed": spec.seed}
    return {**settings, "reason": failure.reason, "attempts": failure.attempts}


def _score(numbers: Numbers) -> float:
    """Final validation accuracy; a diverged run scores nothing."""
    return float(numbers.get("validation_accuracy") or 0.0)


def _row(steps: int, runs: Sequence[Numbers]) -> dict[str, Any]:
    validation = [_score(numbers) for numbers in runs]
    mean, low, high = mean_interval(validation)
    row = {"steps": steps, "validation": validation, "mean": mean, "low": low, "high": high}
    return {**row, "test": [numbers.get("test_accuracy") for numbers in runs]}
