"""Figures of range tests, schedules and histories, drawn onto matplotlib axes.

Every function takes the axes to draw on, or makes a figure of its own, and returns the axes. pyplot and its global
state are not used: nothing has to be closed, and any thread may draw.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from superconv import files
from superconv.errors import UserError
from superconv.history import Row
from superconv.rates.curve import Array, Curve
from superconv.rates.verdict import Verdict
from superconv.recipe import Recipe
from superconv.report.style import (
    BAD,
    COLOURS,
    FIRST,
    GOOD,
    GREY,
    MARKERS,
    SECOND,
    SIZE,
    WIDE_SIZE,
    figure_of,
    finite,
    formatter,
    head,
    log_axis,
    ready,
    running_mean,
    scale_and_unit,
    second_axis,
    update_axis,
)

FORMATS = (".png", ".svg", ".pdf")


def plot_curve(
    curve: Curve, *, verdict: Verdict | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a range test: what was measured against the learning rate, with the bounds of its verdict.

    The bold line is what the verdict is made from (`Curve.signal`), the mean where there are several seeds, with
    the seeds as thin lines behind it. The shaded stretch reaches from `lr_min` to `lr_max`. The rate is on a
    logarithmic axis if it rose exponentially.

    Args:
        curve: One or several sweeps.
        verdict: Bounds to draw, and the title.
        title: Another title.
        ax: Where to draw; a new figure if not given.

    >>> import superconv
    >>> nothing = (None,) * 3
    >>> curve = superconv.Curve((0.1, 0.2, 0.3), (0, 1, 2), (0, 0, 0), (2.0, 1.5, 4.0), nothing, nothing, nothing)
    >>> axes = superconv.plot_curve(curve)
    >>> axes.get_xlabel()
    'learning rate'
    >>> axes.figure.savefig("range-test.png")
    """
    ax = ready(ax)
    scale, unit = scale_and_unit(curve.metric if curve.column.endswith("_metric") else "loss", curve.signal()[1])
    exponential = _is_exponential(curve.signal()[0])
    lines = _draw_sweeps(ax, curve, scale)
    ax.set_xlabel("learning rate")
    ax.yaxis.set_major_formatter(formatter())
    ax.set_ylabel((curve.label if len(lines) == 1 else curve.label.partition(" ")[2]) + unit)
    if exponential:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_formatter(formatter())
        ax.set_xlim(0, 1.02 * max(curve.lr, default=0.0) or 1.0)
    if not curve.rising_is_better:
        _cut_blow_up(ax, scale * curve.signal()[1])
    bounds = [] if verdict is None else _draw_bounds(ax, verdict)
    if title is None:
        title = "LR range test"
        if verdict is not None:
            title = f"Super-convergence: {verdict.headline}"
    head(ax, title, lines if len(lines) > 1 else (), bounds=bounds)
    return ax


def plot_schedule(recipe: Recipe, *, ax: Axes | None = None) -> Axes:
    """Draw the learning rate of a recipe against the update and, where it is cycled, the momentum on a second axis."""
    ax = ready(ax)
    learning_rate, momentum = recipe.learning_rate(), recipe.momentum_schedule()
    steps = np.unique(np.linspace(0, recipe.steps - 1, 1001).round().astype(int)).tolist()
    ax.plot(steps, [learning_rate(t) for t in steps], color=FIRST, lw=2)
    ax.set_ylabel("learning rate", color=FIRST)
    ax.set_ylim(0, recipe.max_lr * 1.06)
    ax.yaxis.set_major_formatter(formatter())
    update_axis(ax, recipe.steps)
    if momentum is not None:
        twin = second_axis(ax, "momentum (dashed)")
        twin.plot(steps, [momentum(t) for t in steps], color=SECOND, lw=2, ls=(0, (4, 2)))
        twin.yaxis.set_major_formatter(formatter())
    head(ax, f"Schedule: {recipe.schedule.replace('_', ' ')}")
    return ax


def plot_history(
    rows_by_run: Mapping[str, Sequence[Row]],
    quantity: str = "loss",
    *,
    held_out: str = "validation",
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss or the metric of one or several runs against the update.

    Args:
        rows_by_run: Rows of a history under the name of their run.
        quantity: ``"loss"`` or the name of the metric, as in the rows: ``train_<quantity>`` is drawn light with its
            running mean on top, ``validation_<quantity>`` as points.
        held_out: What those are called, where it is another split.
        ax: Where to draw; a new figure if not given.

    Raises:
        ValueError: No row has that quantity.
    """
    series = {
        name: {part: column(rows, f"{part}_{quantity}") for part in ("train", "validation")}
        for name, rows in rows_by_run.items()
    }
    drawn = [part for parts in series.values() for part, (steps, _) in parts.items() if len(steps)]
    if not drawn:
        raise ValueError(f"no row holds train_{quantity} or validation_{quantity}")
    ax = ready(ax, WIDE_SIZE if len(series) > 1 else SIZE)
    values = np.concatenate([v for parts in series.values() for _, v in parts.values()])
    scale, unit = scale_and_unit(quantity, values)
    single = len(series) == 1
    handles = []
    for index, (name, parts) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        (steps, train), (at, validation) = parts["train"], parts["validation"]
        if len(series) <= 3:
            ax.plot(steps, scale * train, color=colour, lw=0.9, alpha=0.3)
        ax.plot(steps, scale * running_mean(train), color=colour, lw=1.8, ls="-" if index < len(COLOURS) else ":")
        second = SECOND if single else colour
        style: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "ms": 5, "mec": "white", "mew": 0.8}
        ax.plot(at, scale * validation, color=second, lw=1.2, ls=(0, (4, 2)), **style)
        handles += [] if single else [Line2D([], [], color=colour, lw=1.8, label=name, **style)]
    if single or "validation" in drawn:
        seen = [part for part in ("train", "validation") if part in drawn]
        handles += [_part_handle(part, held_out, single) for part in seen]
    if quantity == "loss":
        _loss_scale(ax, values)
    ax.set_ylabel(f"{quantity}{unit}")
    update_axis(ax, max(int(steps[-1]) for parts in series.values() for steps, _ in parts.values() if len(steps)))
    head(ax, f"{quantity.capitalize()} while training", handles)
    return ax


def save_curve(curve: Curve, path: Path, *, verdict: Verdict | None = None) -> None:
    """Draw a range test into a PNG, SVG or PDF file.

    Raises:
        UserError: The name of the file ends in something else.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise UserError(f"{path}: figures are written as {', '.join(FORMATS)}; choose one of these endings")
    figure = figure_of(plot_curve(curve, verdict=verdict))
    with files.whole(path) as temporary:
        figure.savefig(temporary, format=kind[1:], dpi=150)


def _draw_sweeps(ax: Axes, curve: Curve, scale: float) -> list[Line2D]:
    seeds = curve.seeds
    sweeps = {seed: finite(*curve.signal(seed=seed)) for seed in seeds}
    handles: list[Line2D] = []
    other = curve.column.replace("validation", "train")
    if len(seeds) == 1 and other != curve.column:  # the training signal behind the validation's
        pairs = [(lr, v) for lr, v in zip(curve.lr, getattr(curve, other), strict=True) if v is not None]
        if pairs:
            lr, train = finite(*(np.array(values, dtype=float) for values in zip(*pairs, strict=True)))
            ax.plot(lr, scale * train, color=GREY, lw=0.7, alpha=0.35)
            label = curve.label.replace("validation", "training")
            handles += ax.plot(lr, scale * running_mean(train), color=GREY, lw=1.3, alpha=0.8, label=label)
    many = len(seeds) > 1
    for lr, values in sweeps.values():
        if many or len(lr) > 60:
            ax.plot(lr, scale * values, color=FIRST, lw=0.8, alpha=0.35)
    reached = min((float(lr[-1]) for lr, _ in sweeps.values() if len(lr)), default=0.0)
    lr, mean = finite(*curve.signal())
    lr, mean = lr[lr <= reached], mean[lr <= reached]
    bold = running_mean(mean) if len(lr) > 60 else mean
    points: dict[str, Any] = {} if len(lr) > 60 else {"marker": "o", "ms": 4, "mec": "white", "mew": 0.6}
    label = f"{curve.label}, mean of {len(seeds)} seeds" if many else curve.label
    handles += ax.plot(lr, scale * bold, color=FIRST, lw=2.2, label=label, **points)
    ends = [
        (float(lr[-1]), scale * float(v[-1])) for s, (lr, v) in sweeps.items() if s in dict(curve.stopped) and len(lr)
    ]
    if ends:
        x, y = zip(*ends, strict=True)
        broke: dict[str, Any] = {"marker": "X", "ms": 8, "mec": "white", "mew": 0.8, "ls": "", "color": BAD}
        handles += ax.plot(x, y, label="training broke down", zorder=4, **broke)
    return handles


def _draw_bounds(ax: Axes, verdict: Verdict) -> list[tuple[float, str, str]]:
    """Shade and rule the bounds; returns the labels to write."""
    if verdict.lr_min is not None and verdict.lr_max is not None:
        ax.axvspan(verdict.lr_min, verdict.lr_max, color=GOOD, alpha=0.12, lw=0, zorder=0)
    labels = []
    for name, value, colour in (
        ("min", verdict.lr_min, GOOD),
        ("max", verdict.lr_max, GOOD),
        ("edge", verdict.lr_edge, BAD),
    ):
        if value is not None:
            ax.axvline(value, color=colour, lw=1.2, ls="--" if name == "edge" else "-", alpha=0.9, zorder=1)
            labels.append((value, f"{name} {value:.2g}", colour))
    return labels


def _part_handle(part: str, held_out: str, single: bool) -> Line2D:
    name = {"train": "training", "validation": held_out}[part]
    if part == "train":
        return Line2D([], [], color=FIRST if single else GREY, lw=1.8, label=name)
    dashes: dict[str, Any] = {"ls": (0, (4, 2)), "lw": 1.2, "marker": "o", "ms": 5, "mec": "white", "mew": 0.8}
    return Line2D([], [], color=SECOND if single else GREY, label=name, **dashes)


def _loss_scale(ax: Axes, values: Array) -> None:
    """Logarithmic where a linear axis would press most of the run onto the floor."""
    ax.yaxis.set_major_formatter(formatter())
    if values.min() > 0 and values.max() / values.min() > 20:
        log_axis(ax)


def _cut_blow_up(ax: Axes, values: Array) -> None:
    """End the axis of a loss a little above where it began, whatever it rose to at the end."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return
    low = float(values.min())
    foot = min(low, 0.0)  # of a loss that may be negative
    top = foot + 1.6 * (max(float(np.median(values)), float(np.median(values[: max(3, len(values) // 20)]))) - foot)
    if values.max() > top > low:
        ax.set_ylim(low - 0.06 * (top - low), top)


def _is_exponential(rates: Array) -> bool:
    """Whether the middle rate is nearer to the geometric than to the arithmetic mean of the ends."""
    if len(rates) < 3 or rates[0] <= 0:
        return False
    first, middle, last = float(rates[0]), float(np.median(rates)), float(rates[-1])
    return bool(middle < ((first * last) ** 0.5 + (first + last) / 2) / 2)


def column(rows: Iterable[Row], name: str) -> tuple[Array, Array]:
    """(n,) updates and (n,) values of a column where it has any."""
    pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return np.array([s for s, _ in pairs], dtype=float), np.array([v for _, v in pairs], dtype=float)
