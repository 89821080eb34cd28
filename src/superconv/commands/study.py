"""Commands that make several runs and say what they mean together."""

import dataclasses
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.commands import options
from superconv.commands.execution import executor_of
from superconv.errors import above, at_least
from superconv.report.terminal import console, print_recipe, say_notes

if TYPE_CHECKING:
    from superconv.runs.jobs import Outcome
    from superconv.specs.run import RunSpec

COMPARISON, BALANCE = "compare.json", "balance.json"  # in the folder of a study


def compare(command: options.Compare, line: str) -> None:
    """`superconv compare`."""
    from superconv.recipe import Recipe
    from superconv.studies.compare import compare as compare_task

    first = command.comparison
    at_least(1, seeds=first.seeds)
    first.candidates()
    recipe = Recipe(
        steps=max(first.steps),
        batch_size=command.batch_size,
        max_lr=1.0,
        schedule="constant",  # each of those that are compared takes its place
        final_lr=command.final_lr,
        warmup=command.warmup,
        ramp=command.ramp,
        cooldown=command.cooldown,
        cooldown_anneal=command.cooldown_anneal,
        annihilation=command.annihilation,
        momentum=command.momentum,
        min_momentum=command.min_momentum,
        weight_decay=command.weight_decay,
        optimizer_args={"nesterov": command.nesterov},
    )

    with files.locked(command.out), executor_of(command.execution, command.machine.device) as executor:
        result = compare_task(
            command.task,
            first,
            recipe,
            command.out / "runs",
            plan=command.machine.plan,
            device=command.machine.device,
            executor=executor,
            report=_report_run,
        )
    say_notes(result["notes"])
    result["command"] = line
    files.write_json(command.out / COMPARISON, result)
    from superconv.runs.folder import RunFolder
    from superconv.studies.compare_page import write_comparison

    page = write_comparison(result, RunFolder(command.out).report)
    for gain in result["speed_up"]:
        console.print(f"{gain['reason']}: {_ratio(gain)}")
    for name in first.schedules:
        left = {row["steps"] for row in result["schedules"].get(name, ())}
        if missing := [str(steps) for steps in sorted(first.steps) if steps not in left]:
            console.print(f"{name}: no run is left at {', '.join(missing)} updates")
    if failures := result["failures"]:
        console.print(f"runs that failed, and are left out: {len(failures)}; compare.json has them")
    console.print(f"report: {page}")


def balance(command: options.Balance, line: str) -> None:
    """`superconv balance`."""
    from superconv import models
    from superconv.rates.laws import BatchLaw
    from superconv.recipe import Recipe
    from superconv.report.words import score
    from superconv.runs.folder import RunFolder
    from superconv.studies.balance.page import summary, write_balance
    from superconv.studies.balance.study import balance as balance_task
    from superconv.training.task import image_task

    asked = command.balancing
    at_least(1, seeds=asked.seeds, steps=asked.steps, sweep_steps=asked.sweep_steps, batch_size=command.batch_size)
    task = image_task(command.task)
    say_notes(task.facts["notes"])
    takes_dropout = models.takes(task.facts["model"]["name"], "dropout")
    recipe = Recipe(
        steps=command.balancing.steps,
        batch_size=command.batch_size or BatchLaw().usual(len(task.train)),
        max_lr=1.0,
        base_lr=command.base_lr,
        warmup=command.warmup,
        annihilation=command.annihilation,
        momentum=command.momentum,
        min_momentum=None,
        optimizer_args={"nesterov": command.nesterov},
    )

    with files.locked(command.out), executor_of(command.execution, command.machine.device) as executor:
        result = balance_task(
            command.task,
            command.balancing,
            recipe,
            command.out / "runs",
            plan=command.machine.plan,
            device=command.machine.device,
            executor=executor,
            report=partial(_report_setting, dropout=takes_dropout),
        )
    files.write_json(command.out / BALANCE, {**dataclasses.asdict(result), "command": line})
    kept = RunFolder(command.out)
    kept.recipe.write(result.recipe)
    page = write_balance(result, kept.report, command=line)
    _, headline, detail = summary(result)
    console.print(f"{headline}. {detail}")
    print_recipe(result.recipe)
    reached, chance = score(result.metric, result.chosen.accuracy), score(result.metric, result.margin)
    words = f"validation {result.metric} {reached} on {result.images} images; {chance} more or less may be chance"
    console.print(words)
    console.print(f"recipe: {kept.recipe.path}, report: {page}", soft_wrap=True)


def _report_setting(spec: "RunSpec", outcome: "Outcome", *, dropout: bool) -> None:
    """Print a setting of a balance and what came of it, with its `dropout` where the network takes one."""
    from superconv.rates.curve import Curve
    from superconv.report.words import shown
    from superconv.studies.balance.trials import borne, failure_of

    recipe, words = spec.recipe, failure_of(outcome)
    if words is None and isinstance(outcome, dict):
        if spec.kind == "trial":
            words = f"validation {outcome['validation_accuracy']:.2%}"
        else:
            test = borne(Curve.from_dict(outcome["curve"]))
            least = "" if test.lr_edge else "at least "
            words = "learns at no rate" if test.lr_max is None else f"bears {least}{test.lr_max:.2g}"
    share = f"dropout {dict(spec.task.model_args).get('dropout', 0.0):<5g} " if dropout else ""
    console.print(
        f"{'cycle' if spec.kind == 'trial' else 'range test':10} lr {recipe.max_lr:<6.3g} "
        f"decay {shown('weight_decay', recipe.weight_decay):6} batch {recipe.batch_size:<5} "
        f"momentum {recipe.momentum:<5g} {share}seed {spec.seed}  {words}",
        soft_wrap=True,
    )


def _report_run(spec: "RunSpec", outcome: "Outcome") -> None:
    if isinstance(outcome, dict):
        accuracy = outcome.get("validation_accuracy")
        words = f"validation {'diverged' if accuracy is None else f'{accuracy:.2%}'}  {outcome['seconds']:.0f} s"
    else:
        words = f"failed in {outcome.attempts} attempts: {outcome.reason}"
    recipe = spec.recipe
    console.print(
        f"{recipe.schedule:12} {recipe.steps:6} updates  lr {recipe.max_lr:<6g} seed {spec.seed}  {words}",
        soft_wrap=True,
    )


def _ratio(gain: dict[str, Any]) -> str:
    if gain["ratio"] is None:
        return "no speed-up measured"
    from superconv.studies.compare_page import interval_words

    interval = interval_words(gain)
    return f"speed-up {gain['ratio']:.2g} ({f'95 %: {interval}' if interval else 'one seed, no interval'})"


def speedrun(command: options.Speedrun, line: str) -> None:
    """`superconv speedrun`."""
    from superconv.studies.speedrun import attempt
    from superconv.studies.speedrun import speedrun as run
    from superconv.training.progress import ProgressHook

    at_least(1, seeds=command.seeds, width=command.width)
    above(0, epochs=command.epochs)
    chosen = attempt(command.target, width=command.width, epochs=command.epochs)

    def report(seed: int, seconds: float, accuracy: float) -> None:
        console.print(f"seed {seed}: {accuracy:.2%} in {seconds:.1f} s")

    result = run(
        command.data,
        chosen,
        seeds=range(command.seeds),
        device=command.machine.device,
        words=command.machine.plan,
        hooks=[ProgressHook(console)],
        report=report,
    )
    files.write_json(command.out, {**dataclasses.asdict(result), "command": line})
    interval = "" if result.low is None else f" (95 %: {result.low:.2%} to {result.high:.2%})"
    middle, fastest, slowest = statistics.median(result.seconds), min(result.seconds), max(result.seconds)
    missed = command.seeds - result.reached
    table = Table(show_header=False, box=None)
    for name, value in (
        (
            "test accuracy",
            f"{result.mean:.2%}{interval}, target {chosen.target:.2%} missed by {missed} of {command.seeds}",
        ),
        ("seconds of a run", f"{middle:.1f} ({fastest:.1f} to {slowest:.1f}), test included"),
        (
            "beside them, once",
            f"data {result.load_seconds:.1f} s, plan {result.search_seconds:.1f} s, "
            f"warm-up {result.warmup_seconds:.1f} s",
        ),
        ("network and length", f"width {chosen.width}, {chosen.epochs:g} epochs of batch {chosen.batch_size}"),
        ("plan", result.plan),
        ("machine", result.machine),
    ):
        table.add_row(name, value)
    Console().print(table)
    console.print(f"all numbers: {command.out}")
