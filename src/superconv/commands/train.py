"""Commands that train one network: fit, range-test, train, estimate."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.commands import options
from superconv.commands.execution import announce_plan, folder_of, kept_by, loggers_of, plan_of
from superconv.errors import UserError, at_least
from superconv.report.terminal import console, print_ending, print_verdict, say, say_notes


def fit(command: options.Fit, line: str) -> None:
    """`superconv fit`."""
    from superconv.studies.fit import fit_choices
    from superconv.training.plan import ExecutionPlan
    from superconv.training.task import image_task

    command.choices.check()  # before anything is loaded
    plan = ExecutionPlan.choose(device=command.machine.device, plan=command.machine.plan)
    spec, seed = command.task.plain(), command.running.seed
    settled = {"task": spec, "choices": dataclasses.asdict(command.choices), "seed": seed, "refit": command.refit}
    task = image_task(command.task)
    final = image_task(dataclasses.replace(command.task, validation=0.0)) if command.refit else None
    if final and len(final.train) != len(task.train) + len(task.validation or ()):
        raise UserError(
            "--refit joins images that were held out to those they were held out of: not with --train-samples, nor "
            "where the set has a validation split of its own"
        )
    with folder_of(command.running, plan, command.task.data, settled) as folder:
        say_notes(task.facts["notes"])
        fit_choices(
            task,
            folder,
            command.choices,
            final_task=final,
            seed=seed,
            plan=command.machine.plan,
            device=command.machine.device,
            about={"task": spec, "command": line},
            hooks=loggers_of(command.running, folder),
            **kept_by(command.running),
        )


def range_test(command: options.RangeTest, line: str) -> None:
    """`superconv range-test`."""
    from superconv.rates.laws import BatchLaw
    from superconv.recipe import Recipe
    from superconv.report.plots import save_curve
    from superconv.runs.folder import RunFolder
    from superconv.training.progress import ProgressHook
    from superconv.training.sweep import search_rates
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
        batch_size=command.batch_size or BatchLaw().usual(len(task.train)),
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
        aimed=command.max_lr is None,
        **linear,
    )
    if files.writes():
        RunFolder(command.out).range_test.write(search)
        save_curve(search.curve, command.out / "range_test.png", verdict=search.verdict)
        print_verdict(search.verdict)
        console.print(f"curve and figure are in {command.out}")


def train(command: options.Train, line: str) -> None:
    """`superconv train`."""
    from superconv.recipe import Recipe
    from superconv.report.html import write_report
    from superconv.runs.runner import run
    from superconv.specs.run import RunSpec
    from superconv.training.plan import ExecutionPlan
    from superconv.training.progress import ProgressHook

    recipe = Recipe.load(command.recipe)
    spec = RunSpec(
        task=command.task,
        recipe=recipe,
        seed=command.running.seed,
        device=command.machine.device,
        plan=command.machine.plan,
        evaluations=command.running.evaluations,
    )
    plan = ExecutionPlan.choose(device=command.machine.device, plan=command.machine.plan)
    with folder_of(command.running, plan, command.task.data, spec.plain()) as folder:
        kept = {name: value for name, value in kept_by(command.running).items() if name != "evaluations"}
        hooks = [ProgressHook(console), *loggers_of(command.running, folder)]
        numbers = run(spec, folder, about={"command": line}, on_plan=announce_plan, hooks=hooks, **kept)
        say_notes(numbers.get("notes", ()))
        if files.writes():
            print_ending(numbers, recipe, lower="max_lr in the recipe:")
            say(f"report: {write_report([folder.path], folder.report)}")


def estimate(command: options.Estimate, line: str) -> None:
    """`superconv estimate`."""
    from superconv.rates.laws import BatchLaw
    from superconv.recipe import Recipe
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
        batch_size=command.batch_size or BatchLaw().usual(len(task.train)),
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
