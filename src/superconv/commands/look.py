"""Commands that train nothing: judge, report, predict, doctor."""

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from superconv import files
from superconv.commands import options
from superconv.errors import UserError, one_line
from superconv.rates.curve import Curve
from superconv.rates.verdict import judge as judge_curve
from superconv.report.terminal import console, print_verdict


def judge(command: options.Judge, line: str) -> None:
    """`superconv judge`."""
    value = files.read_json(command.curve) if command.curve.suffix == ".json" else None
    if isinstance(value, dict) and not {"curve", "schema"}.isdisjoint(value):  # superconv's own
        if command.metric is not None or command.lower_is_better:
            raise UserError("--metric and --lower-is-better are for a CSV: a range_test.json says them itself")
        curve = Curve.from_dict(value.get("curve", value), source=command.curve)
    else:
        curve = Curve.from_csv(
            command.curve, metric=command.metric, higher_is_better=False if command.lower_is_better else None
        )
    verdict = judge_curve(curve)
    if command.plot:
        from superconv.report.plots import save_curve

        save_curve(curve, command.plot, verdict=verdict)
    if command.json:
        about = {"judged": curve.label, "higher_is_better": curve.rising_is_better}
        print(json.dumps(dataclasses.asdict(verdict) | about))
    else:
        better = "higher" if curve.rising_is_better else "lower"
        print_verdict(verdict, judged=f"{curve.label}, better when {better}")


def report(command: options.Report, line: str) -> None:
    """`superconv report`: of runs, or of what a comparison or a balance left in its folder."""
    from superconv.report.html import write_report
    from superconv.runs.folder import RunFolder

    single = len(command.runs) == 1
    out = command.out or (RunFolder(command.runs[0]).report if single else Path("comparison.html"))
    page = (_study_page(command.runs[0], out) if single else None) or write_report(command.runs, out)
    console.print(f"report: {page}")


def _study_page(folder: Path, out: Path) -> Path | None:
    """The page of a comparison or a balance; `None` where the folder holds neither."""
    from superconv.commands.study import BALANCE, COMPARISON
    from superconv.studies.balance.page import write_balance
    from superconv.studies.balance.study import Balance
    from superconv.studies.compare_page import write_comparison

    comparison, balance = folder / COMPARISON, folder / BALANCE
    if comparison.exists():
        return write_comparison(files.checked(dict[str, Any], files.read_json(comparison), source=comparison), out)
    if not balance.exists():
        return None
    value = files.checked(dict[str, Any], files.read_json(balance), source=balance)
    command = value.pop("command", None)
    return write_balance(files.checked(Balance, value, source=balance), out, command=command)


def predict(command: options.Predict, line: str) -> None:
    """`superconv predict`."""
    from superconv.runs.classifier import load_run

    if not command.images:
        raise UserError(f"name the images to classify: superconv predict {command.run} IMAGE …")
    saved, failed = load_run(command.run, trust=command.trust), 0
    for path in command.images:
        try:
            prediction = saved.predict(path)
        except UserError as error:
            failed += 1
            console.print(f"superconv: {one_line(error)}", soft_wrap=True)
            continue
        if command.json:
            print(json.dumps({"image": str(path), **dataclasses.asdict(prediction)}))
        else:
            print(f"{path}: {prediction.label} ({prediction.probability:.1%})")
    if failed:
        raise UserError(f"{failed} of {len(command.images)} images could not be classified")


def doctor(command: options.Doctor, line: str) -> None:
    """`superconv doctor`."""
    import torch

    from superconv.training.plan import ExecutionPlan, machine, versions

    table = Table(show_header=False, box=None)
    plan = ExecutionPlan.choose(device=command.device)
    for name, value in versions().items():
        table.add_row(name, value)
    table.add_row("machine", machine(plan.device))
    table.add_row("GPUs", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none")
    table.add_row("plan", f"{plan.words} unless a search finds a faster one (--plan DATA)")
    for package, purpose in (("datasets", "data"), ("tensorboard", "tensorboard"), ("ray", "ray")):
        try:
            table.add_row(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(package, f"missing: pip install 'superconv[{purpose}]'")
    Console().print(table)
    if command.plan:
        _print_plans(command, command.plan)


def _print_plans(command: options.Doctor, data: str) -> None:
    from superconv.recipe import Recipe
    from superconv.specs.image_task import ImageTask
    from superconv.training.plan_choice import COMPILE_AFTER
    from superconv.training.plan_search import LIMIT, find_plan
    from superconv.training.task import image_task

    task = image_task(ImageTask(data=data, model=command.model))
    recipe = Recipe(steps=command.steps, batch_size=command.batch_size, max_lr=1.0)
    found = find_plan(task, recipe, device=command.device, limit=LIMIT, use_cache=False)
    table = Table(Column("plan", no_wrap=True), "images/s", "quartiles", "", box=None)
    for trial in found.trials:
        rates = [found.batch_size / seconds for seconds in reversed(trial.quartiles or ())]
        table.add_row(
            trial.plan.words,
            "" if trial.seconds is None else f"{found.batch_size / trial.seconds:,.0f}",
            " to ".join(f"{rate:,.0f}" for rate in rates),
            trial.refused or ("taken" if trial.plan == found.plan else ""),
        )
    out = Console(highlight=False)
    out.print(table)
    out.print(f"{task.name}, trials of {found.batch_size} images: {found.reason}")
    if found.trials and not found.compiling_tried:
        out.print(f"compiling was not tried: {recipe.steps} updates last less than {COMPILE_AFTER:g} s (--steps)")
