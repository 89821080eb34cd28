"""What the commands do: ask the rooms below, print, write. Each gets its options and the line it was called by."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from superconv import cli, files
from superconv.rates.curve import Curve
from superconv.rates.verdict import Verdict
from superconv.rates.verdict import judge as judge_curve

if TYPE_CHECKING:
    from superconv.recipe import Recipe
    from superconv.studies.fit import Found
    from superconv.studies.runner import Numbers
    from superconv.training.hooks import Hook
    from superconv.training.plan import ExecutionPlan
    from superconv.training.task import Task

console = Console(stderr=True)


def fit(command: cli.Fit, line: str) -> None:
    """`superconv fit`."""
    from superconv.studies.fit import fit as fit_task
    from superconv.studies.fit import outline
    from superconv.studies.runner import stored_plan
    from superconv.training.plan import ExecutionPlan
    from superconv.training.task import image_task

    plan = ExecutionPlan.choose(device=command.machine.device, plan=command.machine.plan)
    spec = command.task.plain()
    settled = {"task": spec, "choices": dataclasses.asdict(command.choices), "seed": command.running.seed}
    task = image_task(command.task)
    final = image_task(dataclasses.replace(command.task, validation=0.0)) if command.refit else None
    with _folder(command.running, plan, command.task.data, settled) as folder:
        for note in task.facts["notes"]:
            _say(f"note: {note}")
        numbers = fit_task(
            task,
            folder,
            command.choices,
            final_task=final,
            plan=stored_plan(folder) or _plan(command.machine, task, outline(task, command.choices)),
            seed=command.running.seed,
            about={"task": spec, "command": line},
            on_found=_announce,
            **_running(command.running, folder),
        )
        _conclude(numbers, folder)


def range_test(command: cli.RangeTest, line: str) -> None:
    """`superconv range-test`."""
    from superconv.recipe import Recipe, batch_size_for
    from superconv.report.plots import save_curve
    from superconv.studies.runner import writes
    from superconv.training.progress import ProgressHook
    from superconv.training.sweeps import search_rates
    from superconv.training.task import image_task

    task = image_task(command.task)
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
    linear = {} if command.max_lr is None else {"start_lr": command.start_lr, "mode": command.mode}
    search = search_rates(
        task,
        recipe,
        max_lr=command.max_lr,
        steps=command.steps,
        seeds=range(command.seeds),
        evaluate_every=command.evaluate_every,
        validation_samples=command.validation_samples,
        recalibrate_batch_norm=command.recalibrate_batch_norm,
        plan=_plan(command.machine, task, recipe),
        hooks=[ProgressHook(console)],
        **linear,
    )
    if writes():
        search.save(command.out / "range_test.json")
        save_curve(search.curve, command.out / "range_test.png", verdict=search.verdict)
        _print_verdict(search.verdict)
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
    with _folder(command.running, plan, command.task.data, spec.plain()) as folder:
        options = _running(command.running, folder)
        options.pop("evaluations")
        _conclude(run(spec, folder, about={"command": line}, **options), folder)


def estimate(command: cli.Estimate, line: str) -> None:
    """`superconv estimate`."""
    from superconv.recipe import Recipe, batch_size_for
    from superconv.report.estimates import save_estimates
    from superconv.studies.estimate import estimate as measure
    from superconv.studies.runner import writes
    from superconv.training.progress import ProgressHook
    from superconv.training.task import image_task

    task = image_task(command.task)
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
        plan=_plan(command.machine, task, dataclasses.replace(recipe, steps=command.steps)),
        seed=command.seed,
        hooks=[ProgressHook(console, steps=command.steps)],
        about={"command": line},
    )
    if writes():
        save_estimates(found.rows, command.out / "estimate.png")
        table = Table("estimate", "median rate", box=None)
        for name, value in found.medians.items():
            table.add_row("2/λ" if name == "stable_lr" else name, "not measured" if value is None else f"{value:.3g}")
        Console().print(table)
        console.print(f"rows and figure are in {command.out}")


def judge(command: cli.Judge, line: str) -> None:
    """`superconv judge`."""
    is_json = command.curve.suffix == ".json"
    if is_json:
        value = files.read_json(command.curve)
        curve = Curve.from_dict(value["curve"] if isinstance(value, dict) and "curve" in value else value)
    else:
        curve = Curve.from_csv(command.curve, metric=command.metric)
    verdict = judge_curve(curve)
    if command.plot:
        from superconv.report.plots import save_curve

        save_curve(curve, command.plot, verdict=verdict)
    if command.json:
        print(json.dumps(dataclasses.asdict(verdict)))
    else:
        _print_verdict(verdict)


def compare(command: cli.Compare, line: str) -> None:
    """`superconv compare`."""
    from superconv.recipe import Recipe
    from superconv.studies.compare import compare as compare_task

    first = command.comparison
    recipe = Recipe(
        steps=max(first.steps),
        batch_size=command.batch_size,
        max_lr=1.0,
        warmup=command.warmup,
        annihilation=command.annihilation,
        momentum=command.momentum,
        min_momentum=command.min_momentum,
        weight_decay=command.weight_decay,
        optimizer_args={"nesterov": command.nesterov},
    )

    def report(spec: Any, numbers: "Numbers") -> None:
        accuracy = numbers.get("validation_accuracy")
        console.print(
            f"{spec.recipe.schedule:12} {spec.recipe.steps:6} updates  lr {spec.recipe.max_lr:<6g} seed {spec.seed}  "
            f"validation {'diverged' if accuracy is None else f'{accuracy:.2%}'}  {numbers['seconds']:.0f} s",
            highlight=False,
        )

    result = compare_task(
        command.task,
        first,
        recipe,
        command.out / "runs",
        plan=command.machine.plan,
        device=command.machine.device,
        report=report,
    )
    result["command"] = line
    files.write_json(command.out / "compare.json", result)
    from superconv.report.html import write_comparison

    page = write_comparison(result, command.out / "report.html")
    for gain in result["speed_up"]:
        console.print(f"{gain['reason']}: {_ratio(gain)}", highlight=False)
    console.print(f"report: {page}")


def report(command: cli.Report, line: str) -> None:
    """`superconv report`."""
    from superconv.report.html import write_report

    single = len(command.runs) == 1
    out = command.out or (command.runs[0] / "report.html" if single else Path("comparison.html"))
    console.print(f"report: {write_report(command.runs, out)}")


def predict(command: cli.Predict, line: str) -> None:
    """`superconv predict`."""
    from superconv.studies.saved import load

    saved = load(command.run)
    for path in command.images:
        prediction = saved.predict(path)
        if command.json:
            print(json.dumps({"image": str(path), **dataclasses.asdict(prediction)}))
        else:
            print(f"{path}: {prediction.label} ({prediction.probability:.1%})")


def doctor(command: cli.Doctor, line: str) -> None:
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
    for package, purpose in (("datasets", "data"), ("tensorboard", "tensorboard")):
        try:
            table.add_row(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(package, f"missing: pip install 'superconv[{purpose}]'")
    Console().print(table)
    if command.plan:
        _print_plans(command, command.plan)


def _print_plans(command: cli.Doctor, data: str) -> None:
    from superconv.recipe import Recipe
    from superconv.specs import ImageTask
    from superconv.training.plan_search import LIMIT, find_plan
    from superconv.training.task import image_task

    task = image_task(ImageTask(data=data, model=command.model))
    recipe = Recipe(steps=1000, batch_size=command.batch_size, max_lr=1.0)
    found = find_plan(task, recipe, device=command.device, limit=LIMIT, use_cache=False)
    table = Table("plan", "images/s", "quartiles", "", box=None)
    for trial in found.trials:
        rates = [found.batch_size / seconds for seconds in reversed(trial.quartiles or ())]
        table.add_row(
            trial.plan.words,
            "" if trial.seconds is None else f"{found.batch_size / trial.seconds:,.0f}",
            " to ".join(f"{rate:,.0f}" for rate in rates),
            trial.refused or ("taken" if trial.plan == found.plan else ""),
        )
    Console().print(table)
    Console().print(f"{task.name}, trials of {found.batch_size} images: {found.reason}", highlight=False)


def _plan(asked: cli.Machine, task: "Task", recipe: "Recipe") -> "ExecutionPlan":
    from superconv.studies.runner import plan_for

    return plan_for(
        task, recipe, device=asked.device, words=asked.plan, report=lambda found: _say(f"plan: {found.reason}")
    )


def _folder(
    running: cli.Running, plan: "ExecutionPlan", data: str, settled: dict[str, Any]
) -> AbstractContextManager[Path]:
    from superconv.studies.folder import run_folder

    options = {"resume": running.resume, "overwrite": running.overwrite}
    return run_folder(running.out, name=Path(data).name, settled=settled, plan=plan, **options)


def _say(text: str) -> None:
    from superconv.studies.runner import writes

    if writes():
        console.print(text, highlight=False, soft_wrap=True)


def _running(running: cli.Running, folder: Path) -> dict[str, Any]:
    from superconv.training.progress import ProgressHook

    hooks: list[Hook] = [ProgressHook(console)]
    if running.tensorboard:
        from superconv.integrations.tensorboard import TensorBoardLogger

        hooks.append(TensorBoardLogger(folder / "tensorboard"))
    return {
        "hooks": hooks,
        "evaluations": running.evaluations,
        "checkpoint_steps": running.checkpoint_steps,
        "checkpoint_minutes": running.checkpoint_minutes,
    }


def _announce(found: "Found") -> None:
    if found.search:
        verdict = found.search.verdict
        _say(f"super-convergence: {verdict.headline}. {verdict.reason}")
        if found.search.agreement:
            _say(found.search.agreement.sentence)
    recipe = found.recipe
    _say(f"{recipe.schedule}: {recipe.steps} updates of {recipe.batch_size}, rate up to {recipe.max_lr:.3g}")


def _conclude(numbers: "Numbers", folder: Path) -> None:
    from superconv.report.html import write_report
    from superconv.studies.runner import writes

    if not writes():
        return
    if numbers["stopped"] == "diverged":
        _say(f"the loss became infinite at update {numbers['steps']}: lower --max-lr")
    for split in ("validation", "test"):
        value = numbers.get(f"{split}_{numbers['metric']}")
        if value is not None:
            _say(
                f"{split} {numbers['metric']} {value:.2%}"
                if numbers["metric"] == "accuracy"
                else f"{split} {value:.5g}"
            )
    _say(f"{numbers['steps']} updates in {numbers['seconds']:.1f} s, search {numbers.get('search_seconds', 0):.1f} s")
    _say(f"report: {write_report([folder], folder / 'report.html')}")


def _print_verdict(verdict: Verdict) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("super-convergence", verdict.headline)
    for name in ("lr_min", "lr_max", "lr_edge"):
        value = getattr(verdict, name)
        table.add_row(name, "none seen" if value is None else f"{value:.3g}")
    table.add_row("why", verdict.reason)
    Console().print(table)


def _ratio(gain: dict[str, Any]) -> str:
    if gain["ratio"] is None:
        return "no speed-up measured"
    low, high = ("not reached" if end is None else f"{end:.2g}" for end in (gain["low"], gain["high"]))
    return f"speed-up {gain['ratio']:.2g} (95 %: {low} to {high})"


COMMANDS: Mapping[type, Callable[[Any, str], None]] = {
    cli.Fit: fit,
    cli.RangeTest: range_test,
    cli.Train: train,
    cli.Estimate: estimate,
    cli.Judge: judge,
    cli.Compare: compare,
    cli.Report: report,
    cli.Predict: predict,
    cli.Doctor: doctor,
}
