"""Commands that train one network: fit, range-test, train, estimate."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from superconv import cli, files
from superconv.commands.common import (
    announce_plan,
    console,
    folder_of,
    options_of,
    plan_of,
    print_recipe,
    print_verdict,
    say,
    say_notes,
)
from superconv.errors import UserError, at_least

if TYPE_CHECKING:
    from superconv.studies.runner import Numbers
    from superconv.studies.tuner import Found


def fit(command: cli.Fit, line: str) -> None:
    """`superconv fit`."""
    from superconv.studies.fit import fit as fit_task
    from superconv.studies.runner import stored_plan
    from superconv.studies.tuner import outline
    from superconv.training.plan import ExecutionPlan
    from superconv.training.task import image_task

    plan = ExecutionPlan.choose(device=command.machine.device, plan=command.machine.plan)
    spec = command.task.plain()
    command.choices.filled()  # what makes no sense is said before anything is loaded or written
    choices, seed = dataclasses.asdict(command.choices), command.running.seed
    settled = {"task": spec, "choices": choices, "seed": seed, "refit": command.refit}
    task = image_task(command.task)
    final = image_task(dataclasses.replace(command.task, validation=0.0)) if command.refit else None
    if final and len(final.train) != len(task.train) + len(task.validation or ()):
        raise UserError(
            "--refit joins images that were held out to those they were held out of: not with --train-samples, nor "
            "where the set has a validation split of its own"
        )
    with folder_of(command.running, plan, command.task.data, settled) as folder:
        say_notes(task.facts["notes"])
        began = time.perf_counter()
        plan = stored_plan(folder) or plan_of(
            command.machine, task, outline(task, command.choices), seconds=command.choices.seconds
        )
        numbers = fit_task(
            task,
            folder,
            command.choices,
            final_task=final,
            plan=plan,
            seed=seed,
            about={"task": spec, "command": line},
            on_found=_announce,
            began=began,
            **options_of(command.running, folder),
        )
        _conclude(numbers, folder)


def range_test(command: cli.RangeTest, line: str) -> None:
    """`superconv range-test`."""
    from superconv.recipe import Recipe, batch_size_for
    from superconv.report.plots import save_curve
    from superconv.training.progress import ProgressHook
    from superconv.training.sweeps import search_rates
    from superconv.training.task import image_task, refuse_watched

    if command.max_lr is None and (command.start_lr, command.mode) != (0.0, "linear"):
        raise UserError("--start-lr and --mode are of a sweep to a known end: give --max-lr as well, such as 3")
    at_least(1, seeds=command.seeds, batch_size=command.batch_size, validation_samples=command.validation_samples)
    at_least(0, evaluate_every=command.evaluate_every, recalibrate_batch_norm=command.recalibrate_batch_norm)
    refuse_watched(command.task.watch_test)
    task = image_task(command.task)
    say_notes(task.facts["notes"])
    recipe = Recipe(
        steps=command.steps,
        batch_size=command.batch_size or batch_size_for(len(task.train)),
        max_lr=1.0,
        schedule="constant",
        momentum=command.momentum,
        min_momentum=None,
        weight_decay=command.weight_decay,
        optimizer=command.optimizer,
        optimizer_args={},
    )
    linear: dict[str, Any] = {} if command.max_lr is None else {"start_lr": command.start_lr, "mode": command.mode}
    search = search_rates(
        task,
        recipe,
        max_lr=command.max_lr,
        steps=command.steps,
        seeds=range(command.seeds),
        evaluate_every=command.evaluate_every,
        validation_samples=command.validation_samples,
        recalibrate_batch_norm=command.recalibrate_batch_norm,
        plan=plan_of(command.machine, task, recipe),
        hooks=[ProgressHook(console)],
        **linear,
    )
    if files.writes():
        search.save(command.out / "range_test.json")
        save_curve(search.curve, command.out / "range_test.png", verdict=search.verdict)
        print_verdict(search.verdict)
        console.print(f"curve and figure are in {command.out}")


def train(command: cli.Train, line: str) -> None:
    """`superconv train`."""
    from superconv.recipe import Recipe
    from superconv.specs import RunSpec
    from superconv.studies.runner import run
    from superconv.training.plan import ExecutionPlan

    spec = RunSpec(
        task=command.task,
        recipe=Recipe.load(command.recipe),
        seed=command.running.seed,
        device=command.machine.device,
        plan=command.machine.plan,
        evaluations=command.running.evaluations,
    )
    plan = ExecutionPlan.choose(device=command.machine.device, plan=command.machine.plan)
    with folder_of(command.running, plan, command.task.data, spec.plain()) as folder:
        options = options_of(command.running, folder)
        options.pop("evaluations")
        numbers = run(spec, folder, about={"command": line}, on_plan=announce_plan, **options)
        say_notes(numbers.get("notes", ()))
        _conclude(numbers, folder, lower="max_lr in the recipe:")


def estimate(command: cli.Estimate, line: str) -> None:
    """`superconv estimate`."""
    from superconv.recipe import Recipe, batch_size_for
    from superconv.report.estimates import save_estimates
    from superconv.studies.estimate import estimate as measure
    from superconv.training.progress import ProgressHook
    from superconv.training.task import image_task

    at_least(1, steps=command.steps, batch_size=command.batch_size, stride=command.stride)
    at_least(0, probe_every=command.probe_every)
    task = image_task(command.task)
    say_notes(task.facts["notes"])
    recipe = Recipe(
        steps=command.total_steps,
        batch_size=command.batch_size or batch_size_for(len(task.train)),
        max_lr=command.max_lr,
        base_lr=command.base_lr,
        warmup=command.warmup,
        annihilation=command.annihilation,
        schedule=command.schedule,
        momentum=command.momentum,
        min_momentum=None,
        weight_decay=command.weight_decay,
        optimizer=command.optimizer,
        optimizer_args={"nesterov": True} if command.nesterov else {},
    )
    found = measure(
        task,
        recipe,
        command.out,
        forms=command.forms,
        steps=command.steps,
        stride=command.stride,
        rescale=command.rescale,
        probe_every=command.probe_every,
        plan=plan_of(command.machine, task, dataclasses.replace(recipe, steps=command.steps)),
        seed=command.seed,
        hooks=[ProgressHook(console, steps=command.steps)],
        about={"command": line},
    )
    if files.writes():
        save_estimates(found.rows, command.out / "estimate.png")
        if found.diverged:
            say(f"the loss became infinite at update {found.steps}: the rates until there are shown")
        table = Table("estimate", "median rate", box=None)
        for name, value in found.medians.items():
            table.add_row("2/λ" if name == "stable_lr" else name, "not measured" if value is None else f"{value:.3g}")
        Console().print(table)
        console.print(f"rows and figure are in {command.out}")


def _announce(found: "Found") -> None:
    """Say what was found and why, and what the search took."""
    recipe, search, peak = found.recipe, found.search, found.peak
    if search:
        verdict = search.verdict
        say(f"super-convergence: {verdict.headline}. {verdict.reason}", whole=False)
        if search.agreement:
            say(search.agreement.sentence, whole=False)
    if peak:
        say("A sweep passes each rate by; short cycles find the peak of a whole run:", whole=False)
    print_recipe(recipe)
    if search and peak:
        updates = search.updates + peak.updates
        say(f"search: {updates} updates ({updates / recipe.steps:.0%} of the run), {found.seconds:.1f} s")


def _conclude(numbers: "Numbers", folder: Path, *, lower: str = "--max-lr") -> None:
    """Say how a run ended; `lower` is where its peak is changed."""
    from superconv.recipe import Recipe
    from superconv.report.html import write_report

    if not files.writes():
        return
    if numbers["stopped"] == "diverged":
        peak = Recipe.load(folder / "recipe.yaml").max_lr
        say(f"the loss became infinite at update {numbers['steps']}, peak {peak:.3g}: try {lower} {peak / 3:.2g}")
    watched = bool(numbers.get("task", {}).get("watch_test"))  # then both splits are one
    for split in ("test",) if watched else ("validation", "test"):
        value = numbers.get(f"{split}_{numbers['metric']}")
        if value is not None:
            say(
                f"{split} {numbers['metric']} {value:.2%}"
                if numbers["metric"] == "accuracy"
                else f"{split} {value:.5g}"
            )
    say(f"{numbers['steps']} updates in {numbers['seconds']:.1f} s, search {numbers.get('search_seconds', 0):.1f} s")
    say(f"report: {write_report([folder], folder / 'report.html')}")
