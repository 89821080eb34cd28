"""`superconv reproduce`: lists, makes and judges the paper's experiments, and writes their page."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.commands import options
from superconv.commands.execution import executor_of
from superconv.errors import UserError, at_least
from superconv.report.terminal import console

if TYPE_CHECKING:
    from superconv.reproduction.experiment import Experiment
    from superconv.reproduction.scales import Scale
    from superconv.reproduction.store import Store
    from superconv.runs.jobs import Outcome
    from superconv.specs.run import RunSpec


def reproduce(command: options.Reproduce, line: str) -> None:
    """`superconv reproduce`."""
    from superconv.reproduction.experiments import chosen
    from superconv.reproduction.reproduce import reproduce as make
    from superconv.reproduction.scales import SCALES
    from superconv.reproduction.store import Store

    scale = SCALES[command.scale]
    at_least(1, seeds=command.seeds)
    if command.seeds is not None:
        scale = replace(scale, seeds=command.seeds)
    store = Store(command.out / scale.name)
    asked = chosen(scale, command.figures)
    if command.list:
        _print_list(scale, asked or chosen(scale, ("all",)), store)
        return
    if asked:
        with files.locked(store.folder), executor_of(command.execution, command.machine.device) as executor:
            left = make(
                scale,
                asked.values(),
                store.folder,
                command.runs / scale.name,
                plan=_plan(scale, command.machine),
                device=command.machine.device,
                executor=executor,
                minutes=command.minutes,
                report=_report_run,
            )
        _print_claims(store.claims() or [], store)
        if left:
            console.print(f"{len(left)} runs are left: the same command goes on with them")
    elif command.page is None:
        raise UserError("name the experiments to reproduce, or all; superconv reproduce --list shows them")
    if command.page is not None:
        from superconv.reproduction.page import write_page

        console.print(f"page: {write_page(command.out, command.page)}")


def _plan(scale: "Scale", asked: options.Machine) -> str | None:
    """The words of the plan that was asked for; that of exact runs is fp32."""
    from superconv.training.plan import ExecutionPlan

    words = asked.plan or ("fp32" if scale.exact else None)
    if scale.exact and ExecutionPlan.choose(device=asked.device, plan=words).precision != "32-true":
        raise UserError(f"--scale {scale.name} is made in fp32, as the author's runs were: --plan fp32, not {words}")
    return words


def _print_list(scale: "Scale", shown: Mapping[str, "Experiment"], store: "Store") -> None:
    from superconv.reproduction.experiments import LEFT_OUT
    from superconv.reproduction.reproduce import finished, wanted
    from superconv.reproduction.scales import total_minutes

    table = Table("name", "what", "figure", box=None, title=f"scale {scale.name}: {scale.about}", title_justify="left")
    for header in ("runs", "updates", "minutes", "done"):
        table.add_column(header, justify="right")
    distinct: dict[str, RunSpec] = {}
    for name, experiment in shown.items():
        runs = experiment.runs
        distinct |= wanted(experiment, store)
        updates = sum(spec.recipe.steps for spec in runs)
        minutes = total_minutes(scale, runs)
        numbers = (f"{len(runs)}", f"{updates:,}", f"{minutes:,.0f}", f"{finished(experiment, store)}/{len(runs)}")
        table.add_row(name, experiment.title, experiment.figure, *(numbers if runs else ("–", "", "", "")))
    done = sum(store.has(spec) for spec in distinct.values())
    total = sum(spec.recipe.steps for spec in distinct.values())
    whole = (f"{len(distinct)}", f"{total:,}", f"{total_minutes(scale, list(distinct.values())):,.0f}")
    table.add_row("", "together, equal runs counted once", "", *whole, f"{done}/{len(distinct)}", style="bold")
    Console().print(table)
    for what, why in LEFT_OUT.items():
        Console().print(f"left out: {what}: {why}", highlight=False, soft_wrap=True)


def _report_run(spec: "RunSpec", outcome: "Outcome") -> None:
    recipe = spec.recipe
    if isinstance(outcome, dict):
        accuracy = outcome.get("test_accuracy")
        score = "diverged" if accuracy is None else f"test {accuracy:.2%}"
        words = f"{score if spec.kind == 'training' else 'done'}  {outcome['seconds']:.0f} s"
    else:
        words = f"failed: {outcome.reason}"
    what = f"{spec.task.model} {recipe.schedule} {recipe.steps} updates up to {recipe.max_lr:g}, seed {spec.seed}"
    console.print(f"{what}  {words}", soft_wrap=True)


def _print_claims(entries: list[dict[str, Any]], store: "Store") -> None:
    counts = Counter(entry["verdict"] for entry in entries)
    table = Table(box=None)
    table.add_column("verdict", no_wrap=True)
    table.add_column("ours", no_wrap=True)
    table.add_column("claim")
    for entry in entries:
        if entry["verdict"] != "not run":
            ours = entry["ours"]
            interval = "" if ours["low"] is None else f" ({ours['low']:.3g} to {ours['high']:.3g})"
            table.add_row(entry["verdict"], f"{ours['mean']:.3g} {ours['unit']}{interval}", entry["statement"])
    if table.row_count:
        Console().print(table)
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(f"claims: {words}; all in {store.folder}")
