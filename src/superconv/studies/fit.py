"""From a task to a trained model with no rate to choose: sweeps, verdict, recipe, one cycle, test."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from superconv import files
from superconv.errors import UserError
from superconv.recipe import Recipe, ScheduleName
from superconv.report.terminal import console, print_ending, print_found, say
from superconv.runs.folder import RunFolder
from superconv.runs.runner import Numbers, begin, finish, finished_numbers, plan_for, stored_plan
from superconv.runs.workspace import replacing
from superconv.search.recipe import Found, complete
from superconv.search.settle import Settled, settle
from superconv.specs.choices import Choices
from superconv.studies.retry import RETRIES, SetbackHook, milder
from superconv.training.collapse import CollapseHook
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.fingerprint import fingerprint
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_choice import PlanSearch
from superconv.training.progress import ProgressHook
from superconv.training.task import Task

OPEN = ("batch_size", "steps", "max_lr", "weight_decay", "dropout")  # compared with a stored recipe where given
FOLLOWING = ("base_lr", "final_lr", "reasons")  # never compared: they follow from the peak


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A finished fit.

    >>> import torch, superconv
    >>> x = torch.randn(256, 4)
    >>> source = superconv.TensorSource(x, x.sum(1, keepdim=True))
    >>> task = superconv.Task(
    ...     name="sums", model=lambda: torch.nn.Linear(4, 1), train=source, validation=source,
    ...     loss=torch.nn.functional.mse_loss, metric=None,
    ... )
    >>> result = superconv.fit(task, "runs/sums", steps=20, max_lr=0.1, progress=False)
    >>> result.model(x).shape, sorted(result.scores)
    (torch.Size([256, 1]), ['validation_loss'])
    """

    model: nn.Module
    """The trained network, in evaluation mode."""
    recipe: Recipe
    """The recipe it was trained by, with its reasons."""
    scores: Mapping[str, float | None]
    """`validation_loss`, `validation_<metric>`, `test_loss`, `test_<metric>`; `None` where not finite."""
    found: Found
    """The recipe's grounds: range test and short cycles, where there were any."""
    folder: Path
    """Folder with the files of the run."""
    numbers: Mapping[str, Any]
    """Everything that the run's folder keeps in its final numbers: scores, seconds, machine, versions."""
    finished_before: bool = False
    """Whether the folder held the finished run already, so that nothing was trained."""


def fit(
    task: Task,
    folder: Path | str,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    max_lr: float | None = None,
    weight_decay: float | None = None,
    momentum: float | None = None,
    min_momentum: float | None = None,
    dropout: float | None = None,
    preset: str = "paper",
    schedule: ScheduleName | None = None,
    optimizer: str | None = None,
    label_smoothing: float | None = None,
    clip_norm: float | None = None,
    accumulate: int | None = None,
    sweep_seeds: int = 1,
    estimate: bool = False,
    max_lr_from: Literal["range_test", "both"] = "range_test",
    search: float = 0.3,
    recipe_file: str | None = None,
    seed: int = 0,
    plan: ExecutionPlan | str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    evaluations: int = 10,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float = 2.0,
) -> FitResult:
    """Find a recipe, train by it and test once; called again on the same folder it goes on where it stopped.

    A training that diverges under a peak which was found, not given, is made again under a third of it, at most twice,
    resumed or not. So is one whose network no longer tells inputs apart, or that ends with less than short cycles had
    learned.

    Args:
        task: Task to train.
        folder: Folder of the run; docs/architecture.md lists its files. A finished run of the same task and choices is
            returned as it is.
        epochs: Length of the training in passes over the data; where no length is given 12, 500 updates at least.
        steps: Length of the training in updates.
        minutes: Length of sweeps and training together, by the pace of a few updates; the plan's search counts.
        batch_size: Samples per update; about a fortieth of the data, 32 to 256, if not given.
        max_lr: Peak of the cycle; found by a range test and short cycles, if not given.
        weight_decay: Weight decay; as much as rate, momentum and length leave room for, if not given.
        momentum: Momentum, constant unless `min_momentum` is given too; the preset's, if not given.
        min_momentum: Momentum at the peak of the cycle; the preset's, or `momentum` where that is given.
        dropout: Dropout that no layer of the network exceeds; lowered to what the epochs leave room for, if not given.
        preset: `paper` (symmetric cycle, cyclical momentum) or `record` (early peak, constant momentum).
        schedule: Course of the rate; `one_cycle`, if not given.
        optimizer: Any class of torch.optim, or CaffeSGD; SGD with Nesterov momentum, if not given.
        label_smoothing: Share of the target spread over all classes; 0, if not given.
        clip_norm: Largest L2 norm of the gradient; it is left alone, if not given.
        accumulate: Parts in which an update's gradient is computed; 1, if not given.
        sweep_seeds: Networks that the range test is made with, as far as the search's share has room for them.
        estimate: Whether the Hessian-free estimate of the rate is measured too, in the range test and the training.
        max_lr_from: Source of the peak: range test and short cycles, or the estimate where that is smaller.
        search: Share of the training's updates that the search may take; 200 updates at least.
        recipe_file: A recipe.yaml, whole or in part; other choices count before the values that it has.
        seed: Seed of weights, order, augmentation and dropout, of the sweeps as well.
        plan: Where it runs, also in words such as `bf16,eager`; that of the folder's run, or found by timing updates
            (`find_plan`), if not given.
        device: `auto`, `cpu`, `cuda` or `cuda:i`, where the plan is given in words or not at all.
        overwrite: Whether a run in the folder is replaced, once the new one has begun well.
        progress: Whether the terminal shows how the run goes, what was found and how it ended.
        hooks: Hooks that look on while sweeps and training go.
        evaluations: Number of times that the validation split is read while training.
        checkpoint_steps: Updates between two checkpoints, besides the timed ones.
        checkpoint_minutes: Age in minutes at which a checkpoint is written anew; a killed run loses no more.

    Returns:
        The trained model with its recipe and scores; the folder has the report, too.

    Raises:
        UserError: Contradicting choices, unusable data, no rate that trains the network, or a folder with a run of
            other choices or of another task, or in which another process works.
        Interrupted: Ctrl-C or SIGTERM during the training, which left a checkpoint.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> result = superconv.fit(task, "runs/doc", steps=60, max_lr=0.1, progress=False)
    >>> result.scores["test_accuracy"] > 0.5
    True
    >>> superconv.fit(task, "runs/doc", steps=60, max_lr=0.1, progress=False).finished_before
    True
    """
    choices = Choices(
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        max_lr=max_lr,
        weight_decay=weight_decay,
        momentum=momentum,
        min_momentum=min_momentum,
        dropout=dropout,
        preset=preset,
        schedule=schedule,
        optimizer=optimizer,
        label_smoothing=label_smoothing,
        clip_norm=clip_norm,
        accumulate=accumulate,
        sweep_seeds=sweep_seeds,
        estimate=estimate,
        max_lr_from=max_lr_from,
        search=search,
        recipe_file=recipe_file,
    )
    run = RunFolder(Path(folder))
    with replacing(run.path) if overwrite else nullcontext():
        return fit_choices(
            task,
            run,
            choices,
            seed=seed,
            plan=plan,
            device=device,
            progress=progress,
            hooks=hooks,
            evaluations=evaluations,
            checkpoint_steps=checkpoint_steps,
            checkpoint_minutes=checkpoint_minutes,
        )


def fit_choices(
    task: Task,
    folder: RunFolder,
    choices: Choices,
    *,
    final_task: Task | None = None,
    seed: int = 0,
    plan: ExecutionPlan | str | None = None,
    device: str = "auto",
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    evaluations: int = 10,
    **kept: Any,
) -> FitResult:
    """`fit` with the choices as one value, as a command line gives them.

    Args:
        task: Task to train.
        folder: Folder of the run.
        choices: Values that are settled; the others are found.
        final_task: Task that is trained in place of `task` once everything is chosen: the same with its validation
            split put back.
        seed: Seed of the run.
        plan: As for `fit`.
        device: As for `fit`.
        about: Further entries of the final numbers.
        progress: As for `fit`.
        hooks: As for `fit`.
        evaluations: As for `fit`.
        kept: How checkpoints are kept, as for `fit`.
    """
    seed, evaluations = files.native(seed), files.native(evaluations)
    began, trained, model = time.perf_counter(), final_task or task, None
    settled, traits = settle(task, choices)
    looking = [ProgressHook(console), *hooks] if progress else [*hooks]
    with files.locked(folder.path):
        plan = stored_plan(folder) or _plan(task, settled, plan, device, progress=progress)
        marks = {"seed": seed, **fingerprint(trained, settled.look, seed=seed)}
        finished = folder.finished
        _refuse_another_task(folder, marks)
        if (stored := folder.recipe.found()) is not None:
            _refuse_other_choices(stored, settled, folder)
            found = _found_before(folder, stored)
        else:
            options: dict[str, Any] = {"plan": plan, "seed": seed, "hooks": looking, "evaluations": evaluations}
            found = (
                complete(task, settled, traits, began=began, **options)
                if settled.searched or settled.timed
                else Found(recipe=settled.recipe(traits))
            )
            _keep(folder, found)
        folder.task.write(marks)
        until = None if choices.seconds is None else began + choices.seconds
        probed = folder.probes.found() or {}
        kept |= {"history": folder.history.path, "checkpoint": folder.checkpoint, "evaluations": evaluations}
        for attempt in range(len(folder.diverged), 1 + RETRIES):
            if progress and not finished:
                print_found(found)
            recipe, watching = found.recipe, [*looking, CollapseHook(), SetbackHook(probed)]
            if choices.estimate:
                watching.append(_estimating(recipe.steps, folder))
            before = finished_numbers(folder, plan)
            if before is None:
                begin(folder, recipe, plan)
                result = train(trained, recipe, plan=plan, seed=seed, hooks=watching, resume=True, **kept)
                model, taken = result.model, {"search_seconds": round(found.seconds, 3), **(about or {})}
            numbers = before or finish(result, trained, recipe, folder, plan=plan, seed=seed, about=taken)
            if numbers["stopped"] != "diverged" or settled.origin("max_lr") == "given" or attempt == RETRIES:
                break
            found = milder(settled, traits, found, numbers, until=until, plan=plan)
            if files.writes():
                folder.put_aside()
                folder.recipe.write(found.recipe)
                folder.make_room()
        _conclude(folder, numbers, found.recipe, progress=progress, finished=finished)
        return FitResult(
            model=_load(trained, folder) if model is None else model,
            recipe=found.recipe,
            scores={k: v for k, v in numbers.items() if k.partition("_")[0] in ("validation", "test")},
            found=found,
            folder=folder.path,
            numbers=numbers,
            finished_before=finished,
        )


def _plan(
    task: Task, settled: Settled, plan: ExecutionPlan | str | None, device: str, *, progress: bool
) -> ExecutionPlan:
    """The plan that is given, in words or not, or what a search finds."""
    if isinstance(plan, ExecutionPlan):
        return plan
    report: Callable[[PlanSearch], None] | None = (lambda found: say(f"plan: {found.reason}")) if progress else None
    return plan_for(task, settled.look, device=device, words=plan, seconds=settled.choices.seconds, report=report)


def _found_before(folder: RunFolder, recipe: Recipe) -> Found:
    """What an interrupted or finished run in the folder had found, and what it took."""
    seconds = (folder.probes.found() or {}).get("seconds", 0.0)
    seconds += sum(failed.numbers.read()["seconds"] for failed in folder.diverged)
    return Found(recipe=recipe, search=folder.range_test.found(), seconds=seconds)


def _keep(folder: RunFolder, found: Found) -> None:
    """Keep what was found; the recipe itself is written when the training begins."""
    if found.search:
        folder.range_test.write(found.search)
    if found.peak:
        folder.probes.write({**asdict(found.peak), "seconds": round(found.seconds, 3)})


def _refuse_another_task(folder: RunFolder, marks: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a run of another model, loss, metric, optimizer, data or seed."""
    for name, mark in (folder.task.found() or {}).items():
        if (asked := marks.get(name)) != mark:
            told = f" ({mark}, not {asked})" if name in ("name", "seed") else ""
            raise UserError(
                f"{folder.path} holds a run with another {name}{told}: name another folder, or replace it "
                "(overwrite=True, --overwrite)"
            )


def _refuse_other_choices(found: Recipe, settled: Settled, folder: RunFolder) -> None:
    """Refuse to go on with a recipe that other choices made."""
    made = settled.at(found.max_lr, steps=found.steps)
    asked = {k: v for k, v in vars(made).items() if k not in (*OPEN, *FOLLOWING)}
    asked |= {
        k: settled.value(k) for k in OPEN if settled.origin(k) == "given" and not (k == "steps" and settled.timed)
    }
    for k, value in asked.items():
        if getattr(found, k) != value:
            raise UserError(f"{folder.path} holds a run with {k} {getattr(found, k)}, not {value}: name another folder")


def _conclude(folder: RunFolder, numbers: Numbers, recipe: Recipe, *, progress: bool, finished: bool) -> None:
    """Write the report and say how the run ended, in process 0 only."""
    if not files.writes():
        return
    from superconv.report.html import write_report  # matplotlib, which a run need not wait for

    kept = finished and folder.report.exists()
    page = folder.report if kept else write_report([folder.path], folder.report)
    if progress:
        if finished:
            say(f"{folder.path} holds this run, finished before")
        print_ending(numbers, recipe)
        say(f"report: {page}")


def _load(task: Task, folder: RunFolder) -> nn.Module:
    """The trained network of a run that was finished before."""
    model = task.model()
    model.load_state_dict(folder.weights.read())
    return model.eval()


def _estimating(steps: int, folder: RunFolder) -> EstimateHook:
    """Measures the curvature a hundred times, and its largest eigenvalue at five of them."""
    tenth = max(1, steps // 10)
    measured = Estimation(forms={"estimate": {"norm": "l2"}}, every=max(1, tenth // 10), probe_every=2 * tenth)
    return EstimateHook(measured, folder.estimates.path)
