"""Figures of a reproduction: ours as strong lines with the spread of seeds, the author's as thin dashed ones."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from superconv import files
from superconv.rates.curve import Array
from superconv.report.style import COLOURS, GREY, formatter, head, log_axis, ready, running_mean
from superconv.reproduction import author
from superconv.reproduction.evidence import Result
from superconv.reproduction.experiment import Arm, Experiment
from superconv.stats import mean_interval

Results = Mapping[str, Mapping[int, Result]]
"""Arm → seed → result."""
AUTHOR_CYCLE = 10_000  # updates of the author's cycle
SAID = (2.0, 6.0)  # between which the paper's estimates are said to lie
STYLES = ("-", "-.", ":")


def draw(experiment: Experiment, results: Results, cycles: Mapping[str, int] | None = None) -> Figure | None:
    """The figure of an experiment; none where there is nothing to draw.

    Args:
        experiment: At some scale.
        results: Of its arms; may be empty, then only the author's curves are drawn.
        cycles: Updates of one cycle by arm, where the author's curves are of another length.
    """
    drawn = {key: arm for key, arm in experiment.arms.items() if results.get(key) or arm.log or arm.paper}
    if not drawn:
        return None
    height = 3.4 + 0.22 * len(drawn)
    if experiment.kind == "training":
        if any(results.get(key) or arm.log for key, arm in drawn.items()):
            figure = Figure(figsize=(9.6, height), layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(3, 2))
            _training(left, drawn, results, cycles or {})
        else:
            figure = Figure(figsize=(7.6, height), layout="constrained")
            right = figure.subplots()
        _finals(right, drawn, results)
    else:
        if experiment.kind == "range_test" and not any(results.get(key) or arm.log for key, arm in drawn.items()):
            return None
        if experiment.kind == "estimate" and not results:
            return None
        figure = Figure(figsize=(7.6, height), layout="constrained")
        (_range_test if experiment.kind == "range_test" else _estimate)(figure.subplots(), drawn, results)
    figure.suptitle(experiment.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def save(figure: Figure, path: Path, digest: str) -> None:
    """Write a PNG that carries the digest of the results it was drawn from."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Description": digest, "Software": None})


def _training(ax: Axes, arms: Mapping[str, Arm], results: Results, cycles: Mapping[str, int]) -> None:
    ready(ax)
    compared = any(arm.log for arm in arms.values())
    for index, (key, arm) in enumerate(arms.items()):
        if runs := results.get(key):
            unit = cycles.get(key, 1) if compared else 1
            _ours(ax, index, runs, lambda row, unit=unit: (row["step"] or 0) / unit)
        if arm.log:
            log = author.log(arm.log)
            points = list(zip(log.iteration, log.test_accuracy, strict=True))[1:]
            x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
            _theirs(ax, index, x / AUTHOR_CYCLE, y)
    ax.set_ylabel("accuracy while training (%)")
    ax.set_xlim(0)
    ax.set_ylim(top=100)
    if compared:
        ax.set_xlabel("updates, as multiples of the cycle's length")
        ax.xaxis.set_major_formatter(formatter())
    else:
        ax.set_xlabel("updates")
        ax.xaxis.set_major_formatter("{x:,.0f}")
    head(ax, "", _legend(results, arms))


def _finals(ax: Axes, arms: Mapping[str, Arm], results: Results) -> None:
    """Final test accuracy of each arm, top down."""
    ready(ax)
    for index, (key, arm) in enumerate(arms.items()):
        colour, y = COLOURS[index % len(COLOURS)], -index
        theirs = author.log(arm.log).final if arm.log else arm.paper
        if theirs is not None:
            ax.plot(100 * theirs, y, marker="D", ms=6, mfc="white", mec=colour, mew=1.2, ls="", zorder=2)
        if runs := results.get(key):
            mean, low, high = mean_interval([100 * run.test for run in runs.values()])
            if low is not None and high is not None:
                ax.plot((max(low, 0), min(high, 100)), (y, y), color=colour, lw=1.5, alpha=0.7)
            ax.plot(mean, y, marker="o", ms=7, color=colour, mec="white", mew=0.8, ls="", zorder=3)
    ax.set_yticks([-i for i in range(len(arms))], [arm.name for arm in arms.values()])
    ax.set_ylim(-len(arms) + 0.4, 0.6)
    ax.set_xlabel("final test accuracy (%)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter("{x:.4g}")
    ax.margins(x=0.08)
    handles = [Line2D([], [], marker="o", ms=7, color=GREY, ls="-", label="ours, 95 % interval")] if results else []
    if any(arm.log or arm.paper for arm in arms.values()):
        handles.append(Line2D([], [], marker="D", ms=6, mfc="white", mec=GREY, ls="", label="the author's"))
    head(ax, "", handles)


def _range_test(ax: Axes, arms: Mapping[str, Arm], results: Results) -> None:
    ready(ax)
    for index, (key, arm) in enumerate(arms.items()):
        if runs := results.get(key):
            _ours(ax, index, runs, lambda row: row["lr"] or 0.0)
        if arm.log:
            log = author.log(arm.log)
            points = [(rate, v) for rate, v in zip(log.lr, log.test_accuracy, strict=True) if rate is not None]
            x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
            ax.plot(x, 100 * y, color=COLOURS[index % len(COLOURS)], lw=0.6, alpha=0.25)
            _theirs(ax, index, x, running_mean(y))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("accuracy (%)")
    ax.set_xlim(0)
    ax.set_ylim(0, 100)
    ax.xaxis.set_major_formatter(formatter())
    named = [_handle(i, arm.name) for i, (key, arm) in enumerate(arms.items()) if results.get(key) or arm.log]
    head(ax, "", [*named, *_legend(results, arms)])


def _estimate(ax: Axes, arms: Mapping[str, Arm], results: Results) -> None:
    """The paper's form for each arm, with Caffe's batch-norm sums counted where the network has them."""
    ready(ax)
    handles = []
    for index, (key, arm) in enumerate(arms.items()):
        runs = results.get(key)
        if not runs:
            continue
        for column, style in (("plain", "-"), ("plain_with_buffers", ":")):
            x, y, low, high = _over_seeds(
                [run.estimates for run in runs.values()], column, lambda row: row["step"] or 0
            )
            colour = COLOURS[index % len(COLOURS)]
            ax.plot(x, y, color=colour, lw=1.8, ls=style)
            if column == "plain":
                ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        handles.append(_handle(index, arm.name))
    ax.axhspan(*SAID, color=GREY, alpha=0.15, lw=0)
    ax.set_xscale("log")
    log_axis(ax)
    ax.set_xlabel("updates")
    ax.set_ylabel("estimated learning rate")
    said: Any = Patch(color=GREY, alpha=0.2, label="the paper's, as is said")
    dotted = Line2D([], [], color=GREY, ls=":", label="batch-norm buffers counted")
    head(ax, "", [*handles, dotted, said])


def _ours(ax: Axes, index: int, runs: Mapping[int, Result], x_of: Callable[..., float]) -> None:
    """Mean over seeds of the accuracy on what was held out, and the seeds' extremes."""
    x, mean, low, high = _over_seeds([run.rows for run in runs.values()], "validation_accuracy", x_of)
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
    ax.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.18, lw=0)
    ax.plot(x, 100 * mean, color=colour, lw=2, ls=style)


def _theirs(ax: Axes, index: int, x: Array, y: Array) -> None:
    ax.plot(x, 100 * y, color=COLOURS[index % len(COLOURS)], lw=1.0, ls=(0, (4, 1.5)), alpha=0.8, zorder=1.5)


def _over_seeds(
    runs: Sequence[Sequence[Mapping[str, float | None]]], column: str, x_of: Callable[..., float]
) -> tuple[Array, Array, Array, Array]:
    """Positions, mean, least and greatest of a column over the runs that got there."""
    at: dict[float, list[float]] = {}
    for rows in runs:
        for row in rows:
            if (value := row.get(column)) is not None:
                at.setdefault(x_of(row), []).append(value)
    points = [(x, statistics.fmean(v), min(v), max(v)) for x, v in sorted(at.items())]
    x, mean, low, high = np.array(points, dtype=float).reshape(-1, 4).T
    return x, mean, low, high


def _handle(index: int, name: str) -> Line2D:
    style = STYLES[index // len(COLOURS) % len(STYLES)]
    return Line2D([], [], color=COLOURS[index % len(COLOURS)], lw=2, ls=style, label=name)


def _legend(results: Results, arms: Mapping[str, Arm]) -> list[Line2D]:
    """Which lines are whose; where colours are named by the panel of final accuracies, that is all."""
    handles = []
    if any(results.values()):
        handles.append(Line2D([], [], color=GREY, lw=2, label="ours: mean, extremes of seeds"))
    if any(arm.log for arm in arms.values()):
        handles.append(Line2D([], [], color=GREY, lw=1, ls=(0, (4, 1.5)), label="the author's log"))
    return handles
