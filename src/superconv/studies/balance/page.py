"""The page of `superconv balance`: decay against rate, the other axes, and the recipe that follows."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from superconv.report.page import Page, Picture, Section, Table
from superconv.report.run_page import recipe_rows, train_command
from superconv.report.words import score, shown, words
from superconv.studies.balance.plots import plot_best_decay, plot_grid
from superconv.studies.balance.space import Trial, near_the_best
from superconv.studies.balance.study import Balance
from superconv.studies.balance.trials import Borne

TITLES = {
    "weight_decay": "Range tests of the weight decays",
    "batch_size": "Batch size",
    "momentum": "Momentum",
    "dropout": "Dropout",
}


def write_balance(balance: Balance, out: Path, *, command: str | None = None) -> Path:
    """Write the report of `superconv balance`, and its figures as PNG into ``figures`` beside it.

    Args:
        balance: What it found.
        out: The page.
        command: The line that found it.

    Returns:
        `out`.
    """
    return balance_page(balance, command=command).write(out, figures=True)


def balance_page(balance: Balance, *, command: str | None = None) -> Page:
    """Lay out what `superconv balance` found; `command` is the line that did."""
    chosen, metric = balance.chosen, balance.metric
    setting = chosen.setting
    tiles = [
        (f"Validation {metric}", score(metric, chosen.accuracy)),
        ("Peak rate", f"{setting.max_lr:g}"),
        ("Weight decay", shown("weight_decay", setting.weight_decay)),
        ("Batch size", f"{setting.batch_size:,}"),
        ("Momentum", f"{setting.momentum:g}"),
        *([] if setting.dropout is None else [("Dropout", f"{setting.dropout:g}")]),
    ]
    axes = [_axis(balance, axis, tests) for axis, tests in balance.range_tests.items()]
    recipe = Table(recipe_rows(balance.recipe))
    facts = [
        ("Seeds", f"{balance.seeds}, the same weights, order and augmentation for every setting"),
        ("Chosen on", f"{balance.images:,} validation images; the test split was not read"),
        ("Clearly worse", f"more than {score(metric, balance.margin)} below: three standard errors of a difference"),
        ("Machine", balance.machine),
        ("Execution plan", balance.plan),
        ("Versions", words(balance.versions)),
    ]
    commands = [("Train by the recipe:", train_command(balance.task))]
    if command:
        commands.append(("The balance again; runs that are finished in its folder are not made again:", command))
    return Page(
        title="Regularization in balance",
        subtitle=f"{balance.name} · cycles of {balance.recipe.steps:,} updates",
        tiles=tiles,
        badge=summary(balance),
        sections=[
            _decay_section(balance),
            Section(title="All cycles of decay and peak", table=_cycles_table(balance)),
            *axes,
            Section(title="Recipe", table=recipe),
            Section(title="How it was made", table=Table(facts)),
            Section(title="How to go on", commands=commands),
        ],
    )


def summary(balance: Balance) -> tuple[str, str, str]:
    """What the decays say about the balance: how sure it is (`good`, `open`), a headline, and a sentence."""
    listed = ", ".join(
        f"{shown('weight_decay', trial.setting.weight_decay)} at peak {trial.setting.max_lr:g}"
        for trial in balance.best
    )
    decays = [trial.setting.weight_decay for trial in balance.best]
    if len(decays) < 2:
        return "open", f"Best weight decay: {listed}", "Only one peak was trained, so nothing is seen of the balance."
    if len(set(decays)) == 1:
        return "open", "The same weight decay is best at every peak", f"Best: {listed}."
    if decays[-1] > decays[0] or any(b > a for a, b in pairwise(decays)):
        return "open", "The best weight decay does not fall steadily as the rate grows", f"Best: {listed}."
    word = "The larger the rate, the smaller the best weight decay"
    first, last = (_near(balance, trial) for trial in (balance.best[0], balance.best[-1]))
    if min(trial.setting.weight_decay for trial in first) <= max(trial.setting.weight_decay for trial in last):
        return "open", f"{word}, but not by more than chance could", f"Best: {listed}."
    return "good", word, f"Best: {listed}."


def _near(balance: Balance, best: Trial) -> list[Trial]:
    """The trials at the peak of one that are not clearly worse than the best there."""
    return near_the_best([t for t in balance.grid if t.setting.max_lr == best.setting.max_lr], balance.images)


def _decay_section(balance: Balance) -> Section:
    metric = balance.metric
    grid = Picture(
        "decay-and-peak",
        plot_grid(balance),
        f"Validation {metric} at the end of whole cycles. Framed: the best decay of each peak, and boldly the best of "
        "all. Hatched: no result. Dropped: not trained, as a cell between it and the best is clearly worse. Blank: "
        "half a decade beside another peak's best.",
    )
    line = Picture(
        "best-decay",
        plot_best_decay(balance),
        "The best decay of each peak. Bars reach over all decays that were tried and are not clearly worse.",
    )
    rows = []
    for best in balance.best:
        peak = best.setting.max_lr
        near = _near(balance, best)
        also = ", ".join(_decay(trial) for trial in near if trial is not best) or "none"
        rows.append((f"{peak:g}", _decay(best), *_ends(metric, best), also))
    headers = ("Peak", "best decay", *_end_headers(metric), "not clearly worse")
    text = [
        "A large rate regularizes by itself, so other regularization has to shrink with it: too much decay at a large "
        "rate ruins the training, too little leaves the network to learn its images by heart.",
        f"With {balance.images:,} validation images, differences below {score(metric, balance.margin)} may be chance.",
    ]
    table = Table(rows, headers=headers, numbers=True)
    return Section(title="Weight decay against the peak rate", text=text, pictures=[grid, line], table=table)


def _cycles_table(balance: Balance) -> Table:
    rows = [
        (f"{trial.setting.max_lr:g}", _decay(trial), *_ends(balance.metric, trial), _remark(trial, balance))
        for trial in balance.grid
    ]
    dropped = [
        (f"{cell.max_lr:g}", shown("weight_decay", cell.weight_decay), *["–"] * 5, "dropped")
        for cell in balance.dropped
    ]
    headers = ("Peak", "decay", *_end_headers(balance.metric), "")
    return Table([*rows, *dropped], headers=headers, numbers=True)


def _axis(balance: Balance, axis: str, tests: Sequence[tuple[float, Borne]]) -> Section:
    """Range tests along an axis and, but for the decay, whose cycles have sections of their own, its cycles."""
    metric = balance.metric
    trials: Mapping[float, Trial] = {getattr(trial.setting, axis): trial for trial in balance.others.get(axis, ())}
    headers = [axis.replace("_", " "), "bears", f"reaches {metric}", "reaches loss", "gap there"]
    headers += [f"cycle: {metric}", "cycle: loss", "cycle: gap", ""] if trials else []
    rows = []
    for value, test in tests:
        bears = "–" if test.lr_max is None else f"{'' if test.lr_edge else '≥ '}{test.lr_max:.2g}"
        row = [shown(axis, value), test.failure or bears, score(metric, test.accuracy)]
        row += [score("loss", test.loss), score("loss", test.gap)]
        if trials:
            trial = trials.get(value)
            ends = (trial.accuracy, trial.loss, trial.gap) if trial else (None,) * 3
            row += [score(name, end) for name, end in zip((metric, "loss", "loss"), ends, strict=True)]
            row.append(_remark(trial, balance) if trial else "dropped")
        rows.append(row)
    text = [
        "Short range tests, all else at the centre: the largest rate borne, the best validation scores on the way, and "
        "the gap from training to validation loss over the upper half of the rates borne."
    ]
    if trials:
        text.append("Cycles have the best of everything that was settled before; all see equally many images.")
    return Section(title=TITLES[axis], text=text, table=Table(rows, headers=headers, numbers=True))


def _end_headers(metric: str) -> tuple[str, ...]:
    return (f"validation {metric}", "validation loss", f"training {metric}", "training loss", "gap")


def _ends(metric: str, trial: Trial) -> tuple[str, ...]:
    losses = (score("loss", trial.loss), score(metric, trial.train_accuracy), score("loss", trial.train_loss))
    return (score(metric, trial.accuracy), *losses, score("loss", trial.gap))


def _remark(trial: Trial, balance: Balance) -> str:
    if trial == balance.chosen:
        return "chosen"
    return trial.failure or ("best of its peak" if trial in balance.best else "")


def _decay(trial: Trial) -> str:
    return shown("weight_decay", trial.setting.weight_decay)
