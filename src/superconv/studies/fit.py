"""From a task to a trained model with no rate to choose: sweeps, verdict, recipe, one cycle, test."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from inspect import signature
from math import inf
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.specs import Choices
from superconv.studies.kind import kind_of
from superconv.studies.pace import FEWEST
from superconv.studies.probes import at_peak, of_length
from superconv.studies.runner import Numbers, run_task, stored_plan
from superconv.studies.tuner import Found, balanced_decay, find_recipe, outline, updates_of
from superconv.training.broken import BreakdownError, CollapseHook
from superconv.training.checkpoint import NAME as CHECKPOINT
from superconv.training.estimate import EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweeps import RateSearch
from superconv.training.task import Task
from superconv.training.trainer import Trainer

SEARCHED, FOLLOWING = ("batch_size", "steps", "max_lr", "weight_decay", "dropout"), ("base_lr", "final_lr", "reasons")
NOT_TAKEN = {"task", "recipe", "folder", "resume", "stages"}  # of `train`: given by `fit`, or not those of the search
SETBACK = 0.1  # share of what short cycles learned, with which lost at its end a training has broken down on its way
RETRIES, LOWER = 2, 3.0  # times that a training whose peak was found is made again if it diverges, so much lower


def fit(
    task: Task,
    folder: Path | str,
    choices: Choices | None = None,
    *,
    final_task: Task | None = None,
    plan: ExecutionPlan | None = None,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    on_found: Callable[[Found], None] | None = None,
    began: float | None = None,
    evaluations: int = 10,
    **options: Any,
) -> Numbers:
    """Find a recipe, train by it and test once; called again on the same folder it goes on where it stopped.

    A training that diverges under a peak which was found, not given, is made again under a third of it, at most twice,
    resumed or not. So is one whose network no longer tells inputs apart, or that ends with less than short cycles had
    learned.

    Args:
        task: What to train.
        folder: Gets the files of the run (docs/architecture.md lists them).
        choices: What is settled; the rest is found.
        final_task: Trained instead of `task` once everything is chosen: the same with its validation split put back.
        plan: Where it runs; that of the folder's run, or found by timing updates (`find_plan`), if not given.
        seed: Decides weights, order, augmentation and dropout, of the sweeps as well.
        about: Added to `run.json`.
        hooks: Look on while sweeps and training go.
        on_found: Told the recipe before each training begins.
        began: Reading of `time.perf_counter` from which `minutes` count; that of the call, if not given.
        evaluations: How often the validation split is read while training.
        options: Fields of `Choices`, on top of those given: `fit(task, folder, epochs=3)`; and further arguments of
            `superconv.training.loop.train`, but for stages, which the search would not have.

    Returns:
        The numbers of `run.json`.

    Raises:
        UserError: Contradicting choices, unusable data, no rate that trains the network, or a folder with a run of
            other choices, with a finished one of another task or seed, or in which another process works.
        Interrupted: Ctrl-C or SIGTERM during the training, which left a checkpoint.
    """
    settled = {f.name: options.pop(f.name) for f in fields(Choices) if f.name in options}
    if unknown := options.keys() - (signature(train).parameters.keys() - NOT_TAKEN):
        raise TypeError(f"fit() has no argument {', '.join(sorted(unknown))}")
    choices, folder, began = replace(choices or Choices(), **settled), Path(folder), began or time.perf_counter()
    with files.locked(folder):
        plan = stored_plan(folder) or plan or find_plan(task, outline(task, choices), seconds=choices.seconds).plan
        recipe_file, sweeps_file, probes_file = (folder / n for n in ("recipe.yaml", "range_test.json", "probes.json"))
        if recipe_file.exists():
            search = RateSearch.load(sweeps_file) if sweeps_file.exists() else None
            probed = files.read_json(probes_file) if probes_file.exists() else {}
            seconds = probed.get("seconds", 0.0)
            seconds += sum(files.read_json(failed / "run.json")["seconds"] for failed in _diverged(folder))
            found = Found(recipe=Recipe.load(recipe_file), search=search, seconds=seconds)
            whose = (final_task or task).name
            samples = len(task.train)
            _refuse_others(found.recipe, choices.filled(), samples=samples, name=whose, seed=seed, folder=folder)
        else:
            found = find_recipe(task, choices, plan=plan, seed=seed, hooks=hooks, began=began, evaluations=evaluations)
            probed = {**asdict(found.peak), "seconds": round(found.seconds, 3)} if found.peak else {}
            if found.search and files.writes():
                found.search.save(sweeps_file)
            if probed and files.writes():
                files.write_json(probes_file, probed)
        for attempt in range(len(_diverged(folder)), 1 + RETRIES):
            if on_found:
                on_found(found)
            recipe, looking = found.recipe, [*hooks, CollapseHook(), _SetbackHook(probed)]
            if choices.estimate:
                looking.append(_estimating(recipe.steps, folder))
            numbers = run_task(
                final_task or task,
                recipe,
                folder,
                plan=plan,
                seed=seed,
                about={"search_seconds": round(found.seconds, 3), **(about or {})},
                hooks=looking,
                evaluations=evaluations,
                **options,
            )
            given = recipe.reasons.get("max_lr", "given") == "given"
            if numbers["stopped"] != "diverged" or given or attempt == RETRIES:
                break
            until = None if choices.seconds is None else began + choices.seconds
            found = _milder(task, found, numbers, until=until, plan=plan)
            if files.writes():
                _put_aside(folder, found.recipe)
        return numbers


class _SetbackHook(Hook):
    """Ends a training that has lost what short cycles learned, at its last update and before the test split is read.

    Args:
        probed: What `probes.json` holds.
    """

    def __init__(self, probed: Mapping[str, Any]) -> None:
        losses = [probe["loss"] for probe in probed.get("probes", ()) if probe["loss"] is not None]
        best, first = min(losses, default=inf), probed.get("first_loss")
        self.most = inf if first is None else best + SETBACK * max(0.0, first - best)

    def on_log(self, trainer: Trainer, row: Mapping[str, float | None]) -> None:
        """Look at the last row; a validation loss alone may rise because samples are learned by heart."""
        if trainer.step < trainer.recipe.steps:
            return
        train_loss, validation_loss = row.get("train_loss"), row.get("validation_loss")
        if train_loss is not None and validation_loss is not None and min(train_loss, validation_loss) > self.most:
            raise BreakdownError("short cycles ended better")


def _refuse_others(found: Recipe, choices: Choices, *, samples: int, name: str, seed: int, folder: Path) -> None:
    """Refuse to go on with a recipe that other choices made, or with a finished run of another task or seed."""
    made = choices.recipe(batch_size=found.batch_size, steps=found.steps, max_lr=found.max_lr, reasons={})
    asked = {k: v for k, v in vars(made).items() if k not in (*SEARCHED, *FOLLOWING)}
    asked |= {k: v for k in SEARCHED if (v := getattr(choices, k)) is not None}
    if choices.epochs is not None:
        asked["steps"] = updates_of(choices, samples, found.batch_size)
    kept = {k: getattr(found, k) for k in asked}
    if (run := folder / "run.json").exists():
        asked |= {"name": name, "seed": seed}
        kept |= {k: v for k, v in files.read_json(run).items() if k in ("name", "seed")}
    for k, value in asked.items():
        if kept[k] != value:
            raise UserError(f"{folder} holds a run with {k} {kept[k]}, not {value}: name another folder")


def _milder(task: Task, found: Found, numbers: Numbers, *, until: float | None, plan: ExecutionPlan) -> Found:
    """What follows from a training that diverged: a third of its peak, in the time that is left, counted as search."""
    recipe, reached = found.recipe, numbers["steps"]
    reasons = {**recipe.reasons, "max_lr": f"a third of {recipe.max_lr:.3g}, which diverged at update {reached:,}"}
    recipe = at_peak(replace(recipe, reasons=reasons), float(f"{recipe.max_lr / LOWER:.3g}"))
    if until is not None:
        fits = int((until - time.perf_counter()) / (numbers["seconds"] / max(1, reached)))
        recipe = of_length(recipe, plan.fabric().broadcast(max(FEWEST, min(recipe.steps, fits))))
    if reasons.get("weight_decay", "given") != "given":
        decay, why = balanced_decay(recipe, len(task.train), kind=kind_of(task, recipe))
        recipe = replace(recipe, weight_decay=decay, reasons={**reasons, "weight_decay": why})
    return Found(recipe=recipe, seconds=found.seconds + numbers["seconds"])


def _diverged(folder: Path) -> list[Path]:
    """What was put aside."""
    return [*folder.glob("diverged-*")]


def _put_aside(folder: Path, following: Recipe) -> None:
    """Keep what a diverged training left, but for its weights, and make room for the next, in an order that may end."""
    kept, making = folder / f"diverged-{1 + len(_diverged(folder))}", folder / ".diverged"
    making.mkdir(exist_ok=True)
    for name in ("recipe.yaml", "history.jsonl", "estimate.jsonl", "run.json"):
        if (folder / name).exists():
            shutil.copy2(folder / name, making / name)
    making.rename(kept)
    files.write_text(folder / "recipe.yaml", following.to_yaml())
    for name in ("run.json", CHECKPOINT, "model.safetensors", "history.jsonl", "estimate.jsonl"):
        (folder / name).unlink(missing_ok=True)


def _estimating(steps: int, folder: Path) -> EstimateHook:
    """Measures the curvature a hundred times, and its largest eigenvalue at five of them."""
    tenth = max(1, steps // 10)
    measured = Estimation(forms={"estimate": {"norm": "l2"}}, every=max(1, tenth // 10), probe_every=2 * tenth)
    return EstimateHook(measured, folder)
