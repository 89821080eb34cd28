"""Makes every distinct run once, and goes on where a killed one stopped."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import Interrupted, UserError
from superconv.models.dropout import dropout_rates
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.runs.jobs import Executor, InProcess, Job, OnRun, Outcome, make_all
from superconv.specs.run import RECALIBRATED, RunSpec
from superconv.training.estimation import FORMS, EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.loop import Run, train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.plan_choice import PlanSearch
from superconv.training.plan_search import find_plan, usable
from superconv.training.sweep import search_rates
from superconv.training.task import Task, image_task

Numbers = dict[str, Any]


def run(
    spec: RunSpec,
    folder: RunFolder,
    *,
    about: Mapping[str, Any] | None = None,
    on_plan: Callable[[PlanSearch], None] | None = None,
    **options: Any,
) -> Numbers:
    """Make the run of a spec in a folder, go on with it, or only read it if it is finished there.

    Args:
        spec: What to run.
        folder: The run's folder; one that holds another spec's run is refused.
        about: Added to `run.json`.
        on_plan: Told of the search of an execution plan, where one paid.
        options: Further arguments of `run_task`.

    Returns:
        The numbers of `run.json`.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
        UserError: The folder holds another run, or the data or the model cannot be had.
    """
    if folder.spec.exists() and folder.spec.read() != spec.plain():
        raise UserError(f"{folder.path} holds the run of another spec ({folder.spec.path}); choose another folder")
    folder.spec.write(spec.plain())
    task = image_task(spec.task)
    plan = stored_plan(folder) or plan_for(task, spec.recipe, device=spec.device, words=spec.plan, report=on_plan)
    about = {"spec_hash": spec.hash, "task": spec.plain()["task"], **(about or {})}
    if spec.kind == "range_test":
        return _range_test(task, spec, folder, plan=plan, about=about)
    hooks = [*options.pop("hooks", ())]
    if spec.estimate:
        forms = {name: {**form, "stride": spec.estimate} for name, form in FORMS.items()}
        hooks.append(EstimateHook(Estimation(forms=forms, every=spec.estimate), folder.estimates.path))
    return run_task(
        task if spec.kind == "training" else replace(task, test=None),
        spec.recipe,
        folder,
        plan=plan,
        seed=spec.seed,
        evaluations=spec.evaluations,
        evaluation_samples=spec.evaluation_samples,
        hooks=hooks,
        about=about,
        **options,
    )


def run_task(
    task: Task,
    recipe: Recipe,
    folder: RunFolder,
    *,
    plan: ExecutionPlan,
    seed: int,
    about: Mapping[str, Any],
    hooks: Sequence[Hook] = (),
    **options: Any,
) -> Numbers:
    """Train a task in a folder, or go on there, or read its numbers where it is finished.

    `about` is added to the final numbers; `options` go to `train`.
    """
    if (numbers := finished_numbers(folder, plan)) is not None:
        return numbers
    begin(folder, recipe, plan)
    kept: dict[str, Any] = {"history": folder.history.path, "checkpoint": folder.checkpoint, "resume": True}
    result = train(task, recipe, plan=plan, seed=seed, hooks=hooks, **kept, **options)
    return finish(result, task, recipe, folder, plan=plan, seed=seed, about=about)


def begin(folder: RunFolder, recipe: Recipe, plan: ExecutionPlan) -> None:
    """Keep what a training goes by, before its first update."""
    folder.recipe.write(recipe)
    folder.plan.write(plan)


def finish(
    result: Run,
    task: Task,
    recipe: Recipe,
    folder: RunFolder,
    *,
    plan: ExecutionPlan,
    seed: int,
    about: Mapping[str, Any],
) -> Numbers:
    """Keep the weights and the final numbers of a training, to which `about` is added.

    Raises:
        Interrupted: It was interrupted; its checkpoint goes on.
    """
    if result.stopped == "interrupted":
        raise Interrupted(
            f"stopped after update {result.steps} of {recipe.steps}; "
            f"the same command goes on with --resume --out {folder.path}, in Python the same call"
        )
    numbers = {**_numbers(result, task, plan, seed), **about}
    if result.notes:
        numbers["notes"] = [*numbers.get("notes", ()), *result.notes]
    if recipe.dropout and not dropout_rates(result.model):
        idle = f"the recipe's dropout of {recipe.dropout:g} has no layer to act on: built-in models that take dropout "
        numbers["notes"] = [*numbers.get("notes", ()), f"{idle}have it with --model-args dropout {recipe.dropout:g}"]
    folder.weights.write(result.model.state_dict())
    folder.numbers.write(numbers)
    if files.writes():
        folder.checkpoint.unlink(missing_ok=True)
    plan.fabric().barrier()  # a study asks next what is finished, and all processes must see the same
    return numbers


def run_all(
    specs: Sequence[RunSpec],
    root: Path,
    *,
    executor: Executor | None = None,
    report: OnRun | None = None,
) -> list[Outcome]:
    """Make all runs, each in `root/<hash>`; equal specs are made once, and what fails keeps no other from its run.

    Args:
        specs: The runs, in the order of the result. Those that run at the same time must name their plan.
        root: Folder of the runs; what is finished there is not made again.
        executor: Where they are made; one after the other in this process, if not given.
        report: Called with spec and outcome of each as it ends.

    Returns:
        The numbers of each run's `run.json`, or a `Failure` where two attempts gave none.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
        UserError: Runs that would be made at the same time would search their plans against each other, or another
            process works in `root`.
    """
    executor = executor or InProcess()
    jobs = {spec.hash: Job(spec=spec, folder=RunFolder(root / spec.hash)) for spec in specs}
    if any(spec.plan is None for spec in specs) and executor.slots > 1:
        raise UserError("runs at the same time cannot each time their plans: name one, such as --plan fp32,eager")
    outcomes: dict[str, Outcome] = {}
    try:
        with files.locked(root):
            for job, outcome in make_all(list(jobs.values()), run, executor=executor):
                outcomes[job.spec.hash] = outcome
                if report:
                    report(job.spec, outcome)
    except Interrupted as error:
        raise Interrupted(f"stopped; the same command goes on with the runs in {root}") from error
    return [outcomes[spec.hash] for spec in specs]


def plan_for(
    task: Task,
    recipe: Recipe,
    *,
    device: str = "auto",
    words: str | None = None,
    threads: int | None = None,
    seconds: float | None = None,
    report: Callable[[PlanSearch], None] | None = None,
) -> ExecutionPlan:
    """The plan that the words of `--plan` name, or without any that of a search, reported where one paid.

    `threads` are those that a run will have, where several share the machine; `seconds` its length, where that is
    given so.
    """
    if words:
        return usable(task, recipe, ExecutionPlan.choose(device=device, plan=words))
    found = find_plan(task, recipe, device=device, threads=threads, seconds=seconds)
    if report and found.trials:
        report(found)
    return found.plan


def common_plan(
    task: Task,
    recipe: Recipe,
    root: Path,
    *,
    device: str = "auto",
    words: str | None = None,
    threads: int | None = None,
) -> ExecutionPlan:
    """The plan of all runs in `root`, where its words are kept: they are part of the runs' hashes.

    Without words, that of the runs which are there already, if they ran on such a device; else what a search finds.
    """
    kept = RunFolder(root).plan.found()
    if words is None and kept and kept.device == ExecutionPlan.choose(device=device).device:
        return kept
    plan = plan_for(task, recipe, device=device, words=words, threads=threads)
    RunFolder(root).plan.write(plan)
    return plan


def stored_plan(folder: RunFolder) -> ExecutionPlan | None:
    """The execution plan that a run in this folder began with; who goes on keeps it.

    Raises:
        UserError: Its device is not there, or the file is damaged.
    """
    plan = folder.plan.found()
    try:
        if plan:
            ExecutionPlan.choose(device=plan.device)
    except UserError as error:
        raise UserError(f"{folder.path} holds a run that goes on where it began: {error}") from error
    return plan


def finished_numbers(folder: RunFolder, plan: ExecutionPlan) -> Numbers | None:
    """The final numbers of a run that process 0 sees finished; the others must not look while it writes."""
    finished = bool(plan.fabric().broadcast(folder.finished)) if "WORLD_SIZE" in os.environ else folder.finished
    return folder.numbers.read() if finished else None


def _range_test(
    task: Task, spec: RunSpec, folder: RunFolder, *, plan: ExecutionPlan, about: Mapping[str, Any]
) -> Numbers:
    """Make the range test of a spec in its folder, or read it; its numbers hold the curve."""
    if (finished := finished_numbers(folder, plan)) is not None:
        return finished
    recipe, start = spec.recipe, spec.recipe.base_lr
    search = search_rates(
        task,
        recipe,
        max_lr=recipe.max_lr,
        start_lr=start or 0.0,
        mode="exponential" if start else "linear",
        steps=recipe.steps,
        seeds=(spec.seed,),
        evaluate_every=max(1, recipe.steps // spec.evaluations) if spec.evaluations else 0,
        recalibrate_batch_norm=RECALIBRATED if spec.evaluations else 0,
        plan=plan,
    )
    seconds = {"seconds": round(search.seconds, 3), "curve": search.curve.to_dict()}
    numbers = {**_circumstances(task, plan, spec.seed), **seconds, **about}
    folder.range_test.write(search)
    folder.numbers.write(numbers)
    plan.fabric().barrier()
    return numbers


def _numbers(result: Run, task: Task, plan: ExecutionPlan, seed: int) -> Numbers:
    return {
        **result.scores,
        "steps": result.steps,
        "stopped": result.stopped,
        "seconds": round(result.seconds, 3),
        "images_per_second": result.images_per_second and round(result.images_per_second, 1),
        **_circumstances(task, plan, seed),
    }


def _circumstances(task: Task, plan: ExecutionPlan, seed: int) -> Numbers:
    return {
        "name": task.name,
        "metric": task.metric_name if task.metric else "loss",
        "seed": seed,
        "plan": vars(plan),
        "machine": machine(plan.device),
        "versions": versions(),
        "samples": len(task.train),
        "evaluated": {k: len(v) for k, v in (("validation", task.validation), ("test", task.test)) if v is not None},
        **task.facts,
    }
