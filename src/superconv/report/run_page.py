"""The report of one run: what was found, by what recipe, and how to make it again."""

import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from superconv.rates.agreement import compare_estimate
from superconv.rates.verdict import Verdict, judge
from superconv.recipe import Recipe
from superconv.report.estimates import plot_agreement, plot_estimates
from superconv.report.page import Page, Picture, Section, Table
from superconv.report.plots import plot_curve, plot_history, plot_schedule
from superconv.report.record import RunRecord
from superconv.report.words import duration, pace, score, words
from superconv.runs.folder import RunFolder
from superconv.specs.image_task import ImageTask
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import RateSearch

MOODS = {"likely": "good", "unlikely": "bad", "inconclusive": "open"}
SETTINGS = {  # what the fields of a recipe mean, where it does not say why they have their values
    "steps": "optimizer updates",
    "batch_size": "samples per update",
    "max_lr": "largest learning rate",
    "schedule": "course of the learning rate",
    "base_lr": "learning rate at both feet of the cycle",
    "final_lr": "learning rate of the last update",
    "warmup": "fraction of the run in which the rate rises",
    "ramp": "fraction of the run in which the rate rises from 0",
    "cooldown": "fraction of the run, at its end, in which the rate falls",
    "cooldown_anneal": "shape of that fall",
    "annihilation": "fraction of the run, at its end, in which the rate falls below the cycle",
    "anneal": "shape of the rise and the falls",
    "momentum": "at the feet of the cycle, or throughout",
    "min_momentum": "momentum at the peak of the cycle",
    "weight_decay": "per update, times the rate",
    "optimizer": "class of torch.optim",
    "optimizer_args": "its further arguments",
    "dropout": "of any layer of the network, at most",
    "label_smoothing": "share of the target spread over all classes",
    "clip_norm": "largest norm of the gradient",
    "accumulate": "parts in which the gradient of an update is computed",
}
SHAPES = {  # fields that a schedule uses
    "one_cycle": ("base_lr", "final_lr", "warmup", "annihilation", "anneal", "min_momentum"),
    "triangular": ("base_lr", "warmup"),
    "cosine": ("final_lr", "ramp"),
    "linear": ("final_lr", "ramp"),
    "warmup_stable_decay": ("final_lr", "ramp", "cooldown", "cooldown_anneal"),
    "piecewise": ("ramp",),
    "constant": ("ramp",),
}


def run_page(run: RunRecord) -> Page:
    """Lay out the report of a run, of whatever there is of it."""
    sections = (_rates(run), _curvature(run), _schedule(run), _training(run), *_facts(run), _splits(run), _repeat(run))
    return Page(
        title=run.title,
        subtitle=" · ".join(_subtitle(run)),
        tiles=_tiles(run),
        badge=_badge(run.sweeps.verdict) if run.sweeps else None,
        sections=[section for section in sections if section],
    )


def recipe_rows(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(field, value, why) of what matters in a recipe under its schedule."""
    rate = recipe.learning_rate()
    values = {name: getattr(recipe, name) for name in SETTINGS}
    if recipe.schedule == "one_cycle":
        values |= {"base_lr": rate(0), "final_lr": rate(recipe.steps)}
    rows = []
    for name, value in values.items():
        shapes = {field for fields in SHAPES.values() for field in fields}
        unused = value is None or (name in shapes and name not in SHAPES[recipe.schedule])
        if not unused and (name, value) not in (("label_smoothing", 0.0), ("accumulate", 1), ("ramp", 0.0)):
            why = recipe.reasons.get(name, SETTINGS[name])
            rows.append((name, words(value), why))
    return [*rows, *((name, "–", why) for name, why in recipe.reasons.items() if not hasattr(recipe, name))]


def _subtitle(run: RunRecord) -> list[str]:
    parts = []
    if run.recipe:
        name = run.recipe.schedule.replace("_", " ")
        parts.append(f"{name} over {run.recipe.steps:,} updates of {run.recipe.batch_size:,} samples")
    if run.seed is not None:
        parts.append(f"seed {run.seed}")
    if run.numbers.get("stopped") == "diverged":
        parts.append(f"diverged at update {run.updates:,}: a lower max_lr is needed")
    elif run.recipe and not run.numbers:
        parts.append(f"not finished: {run.updates:,} updates so far; the same command with --resume goes on")
    return parts


def _tiles(run: RunRecord) -> list[tuple[str, str]]:
    tiles = []
    for split in ("test",) if run.task.get("watch_test") else ("test", "validation"):
        value = run.number(f"{split}_{run.metric}")
        if value is not None:
            tiles.append((f"{split.capitalize()} {run.metric}", score(run.metric, value, run.evaluated(split))))
    if run.recipe:
        done = run.number("steps")
        updates = run.updates if done is None else int(done)
        whole = updates == run.recipe.steps
        tiles.append(("Updates", f"{updates:,}" if whole else f"{updates:,} of {run.recipe.steps:,}"))
    for label, name in (("Training time", "seconds"), ("Search time", "search_seconds")):
        if seconds := run.number(name):
            tiles.append((label, duration(seconds)))
    if speed := run.number("images_per_second"):
        tiles.append(("Images/s", pace(speed)))
    return tiles


def _badge(verdict: Verdict) -> tuple[str, str, str]:
    word = f"Super-convergence: {verdict.headline}"
    return MOODS[verdict.outcome], word, verdict.reason


def _rates(run: RunRecord) -> Section | None:
    title = "How large may the learning rate be?"
    if run.sweeps is None:
        why = run.recipe.reasons.get("max_lr", "given") if run.recipe else ""
        rate = f"{run.recipe.max_lr:.3g}" if run.recipe else ""
        return Section(title=title, text=[f"There was no range test: the largest rate, {rate}, was {why}."])
    sweeps = run.sweeps
    text = [
        "A range test trains a fresh network while the learning rate rises, and watches how large a rate it bears. "
        "Where the curve stays high over a wide range of rates, one cycle at large rates trains in far fewer updates."
    ]
    text += [f"The sweep of seed {seed} ended early: {reason.rstrip('.')}." for seed, reason in sweeps.curve.stopped]
    return Section(title=title, text=text, pictures=_sweep_pictures(sweeps))


def _sweep_pictures(sweeps: RateSearch) -> list[Picture]:
    pictures = []
    curve, verdict, explored = sweeps.curve, sweeps.verdict, sweeps.exploration
    if explored is not None and explored.lr:
        edge = replace(judge(explored), lr_min=None, lr_max=None)
        axes = plot_curve(explored, verdict=edge, title="Exploring sweep: where is the edge?")
        found = "no edge was found" if edge.lr_edge is None else f"the edge was found near {edge.lr_edge:.2g}"
        caption = f"From {min(explored.lr):.0e} to {max(explored.lr):.2g}, exponentially: {found}."
        pictures.append(Picture("exploration", axes, caption))
    if curve.lr:
        seeds = f" from {len(curve.seeds)} seeds" if len(curve.seeds) > 1 else ""
        caption = f"{curve.label.capitalize()} in a sweep up to {max(curve.lr):.2g}{seeds}."
        if verdict.lr_min is not None and verdict.lr_max is not None:
            caption += f" Shaded: the plateau, {verdict.lr_min:.2g} to {verdict.lr_max:.2g}."
        caption += " The edge is where it has fallen." if verdict.lr_edge is not None else " No fall was seen."
        pictures.append(Picture("range-test", plot_curve(curve, verdict=verdict), caption))
    return pictures


def _curvature(run: RunRecord) -> Section | None:
    pictures, text = [], []
    if run.sweeps and run.sweeps.curve.estimate:
        curve, verdict = run.sweeps.curve, run.sweeps.verdict
        text.append(compare_estimate(verdict, curve.lr, curve.estimate).sentence)
        caption = "The range test, and the estimate measured in the same sweep (right axis, logarithmic)."
        pictures.append(Picture("agreement", plot_agreement(curve, verdict), caption))
    if run.estimates:
        caption = "The estimate while training, the rate in use, and 2/λ where the top eigenvalue λ was probed."
        pictures.append(Picture("estimate", plot_estimates(run.estimates), caption))
    return Section(title="What curvature allows", text=text, pictures=pictures) if pictures else None


def _schedule(run: RunRecord) -> Section | None:
    recipe = run.recipe
    if recipe is None:
        return None
    rate, momentum = recipe.learning_rate(), recipe.momentum_schedule()
    if recipe.schedule == "one_cycle":
        peak, feet = round(recipe.warmup * recipe.steps), round((1 - recipe.annihilation) * recipe.steps)
        course = f"The rate rises from {rate(0):.3g} to {recipe.max_lr:.3g} at update {peak:,}"
        course += f" and comes back by update {feet:,}; then it falls" if recipe.annihilation else " and falls"
        course += f" to {rate(recipe.steps):.3g} at the end."
    else:
        name = recipe.schedule.replace("_", " ")
        course = f"The rate begins at {rate(0):.3g} and ends at {rate(recipe.steps):.3g} ({name})."
    if momentum is None:
        course += f" Momentum is constant, {recipe.momentum:.3g}."
    else:
        course += f" Momentum is its mirror image, {recipe.momentum:.3g} to {recipe.min_momentum:.3g} and back."
    return Section(title="Schedule", pictures=[Picture("schedule", plot_schedule(recipe), course)])


def _training(run: RunRecord) -> Section | None:
    quantities = [q for q in dict.fromkeys((run.metric, "loss")) if run.measured(q)]
    if not quantities:
        return None
    pictures, split = [], "test" if run.task.get("watch_test") else "validation"
    for quantity in quantities:
        validated = any(row.get(f"validation_{quantity}") is not None for row in run.rows)
        caption = f"{quantity.capitalize()} on the training batches: faint as logged, bold its running mean"
        caption += f"; dashed, on the {split} split." if validated else "."
        pictures.append(Picture.of(quantity, plot_history({"run": run.rows}, quantity, held_out=split), caption))
    return Section(title=" and ".join(quantities).capitalize(), pictures=pictures)


def _facts(run: RunRecord) -> list[Section]:
    sections = []
    if run.recipe:
        table = Table(recipe_rows(run.recipe), headers=("Setting", "Value", "Why, or what it is"))
        sections.append(Section(title="Recipe", table=table))
    task, model = run.task, run.mapping("model")
    classes = run.numbers.get("class_names")
    rows = [
        ("Data", task.get("data")),
        ("Classes", f"{len(classes):,}" if isinstance(classes, list) else None),
        ("Input shape", " × ".join(map(str, model["image_shape"])) if model.get("image_shape") else None),
        ("Training samples", run.number("samples")),
        ("Normalisation", _normalisation(run)),
        ("Model", model.get("name") or task.get("model")),
        ("Model options", model.get("args") or None),
        ("Machine", run.numbers.get("machine")),
        ("Execution plan", {k: v for k, v in run.mapping("plan").items() if v is not None} or None),
        ("Versions", run.mapping("versions") or None),
        ("Run", run.numbers.get("spec_hash")),
    ]
    known = [(name, _whole(value)) for name, value in rows if value is not None]
    if known:
        sections.append(Section(title="Data, model and machine", table=Table(known)))
    return sections


def _whole(value: object) -> str:
    return words(int(value) if isinstance(value, float) and value.is_integer() else value)


def _normalisation(run: RunRecord) -> str | None:
    mean, std = run.numbers.get("mean"), run.numbers.get("std")
    if isinstance(mean, list) and mean and isinstance(mean[0], list):
        return "the mean image is subtracted, pixels from 0 to 255"
    return f"mean {words(mean)}; standard deviation {words(std)}" if mean and std else None


def _splits(run: RunRecord) -> Section | None:
    text, samples = [], run.number("samples")
    if run.recipe:
        count = f"{samples:,.0f} training samples" if samples else "the training split"
        text.append(f"Weights: trained on {count}.")
    if run.sweeps:
        column = run.sweeps.curve.column
        where = "the validation split" if column.startswith("val") else "training batches"
        text.append(f"Rates: chosen by what the range test measured on {where}.")
        if _refitted(run):
            text.append("Once everything was chosen, the network was trained on the validation split too.")
    if run.task.get("watch_test"):
        text.append("Test curve and score: the test split, watched while training.")
        text.append("So no choice may rest on them, and none here did.")
    elif _validated(run):
        text.append("Validation curve and score: the validation split, which no weight was trained on.")
    if run.number(f"test_{run.metric}") is not None:
        if not run.task.get("watch_test"):
            text.append("Test score: the test split, read once, after the last update; nothing was chosen on it.")
    elif run.numbers:
        text.append("There is no test score.")
    text += [f"{note[:1].upper()}{note[1:]}." for note in run.numbers.get("notes", ())]
    return Section(title="What each split was used for", text=text) if text else None


def _validated(run: RunRecord) -> bool:
    """Whether there is a score on the validation split."""
    name = f"validation_{run.metric}"
    return run.number(name) is not None or any(row.get(name) is not None for row in run.rows)


def _refitted(run: RunRecord) -> bool:
    """Whether what had been held out for the choices was trained on in the end."""
    finished = bool(run.numbers) and run.numbers.get("stopped") is None
    return finished and bool(run.task.get("validation")) and not _validated(run)


def _repeat(run: RunRecord) -> Section | None:
    commands = []
    command = run.numbers.get("command")
    plan = _plan_words(run)
    if command:
        named = f" --plan {plan}" if plan and "--plan" not in str(command) else ""
        commands.append(("The whole run again, under the same execution plan:", f"{command}{named}"))
    if run.recipe and run.task.get("data") and not str(command).startswith("superconv train"):
        whole = {"validation": 0.0} if _refitted(run) else {}
        again = train_command({**run.task, **whole}, seed=run.seed or 0)
        again += f" --plan {plan}" if plan else ""
        commands.append(("The training alone, with the recipe.yaml of this run's folder and no search:", again))
    elif run.recipe and not commands:
        recipe = RunFolder(Path()).recipe.path.name
        commands.append(("With the data of this run:", f"superconv train DATA --recipe {recipe}"))
    return Section(title="How to repeat it", commands=commands) if commands else None


def _plan_words(run: RunRecord) -> str:
    """The execution plan as `--plan` takes it; nothing where the run's numbers do not have it."""
    try:
        return ExecutionPlan(**run.numbers["plan"]).words
    except (KeyError, TypeError, StopIteration):
        return ""


def train_command(task: Mapping[str, Any], *, seed: int = 0) -> str:
    """The command that trains an image task, as plain values, by the recipe.yaml beside the page."""
    recipe = RunFolder(Path()).recipe.path.name
    command = ["superconv", "train", str(task["data"]), "--recipe", recipe, "--seed", str(seed)]
    for field in fields(ImageTask):
        value = task.get(field.name)
        if field.name == "data" or value in (None, {}, field.default):
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
            continue
        command.append(f"--{option}")
        command += [str(x) for pair in value.items() for x in pair] if isinstance(value, dict) else [str(value)]
    return shlex.join(command)
