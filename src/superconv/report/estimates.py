"""Figures of the curvature estimate: against the update, and beside the range test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from superconv import files
from superconv.history import Row
from superconv.rates.curve import Curve
from superconv.rates.verdict import Verdict
from superconv.report.plots import column, plot_curve
from superconv.report.style import (
    COLOURS,
    GREY,
    MARKERS,
    SECOND,
    figure_of,
    finite,
    head,
    log_axis,
    ready,
    second_axis,
    update_axis,
)

NAMES = {
    "estimate": "curvature estimate",
    "plain": "plain (the paper's)",
    "plain_with_buffers": "plain, buffers counted",
    "corrected": "corrected, L1",
    "corrected_l2": "corrected, L2",
}


def plot_estimates(rows: Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Draw the smoothed estimates, the schedule's rate and the stability bound 2/λ against the update.

    Args:
        rows: Of `estimate.jsonl`.
        ax: Where to draw; a new figure if not given.
    """
    ax = ready(ax)
    steps, rates = column(rows, "lr")
    handles = [*ax.plot(steps, rates, color=GREY, lw=1.6, ls=(0, (4, 2)), label="rate of the schedule")]
    for (name, label), colour in zip(NAMES.items(), COLOURS, strict=False):
        at, values = column(rows, name)
        if len(at):
            handles += ax.plot(at, values, color=colour, lw=1.8, label=label)
    at, bounds = column(rows, "stable_lr")
    if len(at):
        ax.scatter(at, bounds, color=SECOND, marker=MARKERS[1], s=26, zorder=3)
        handles.append(Line2D([], [], color=SECOND, marker=MARKERS[1], ls="", ms=5, label="2/λ"))
    log_axis(ax)
    ax.set_ylabel("learning rate")
    update_axis(ax, int(steps[-1]) if len(steps) else 1)
    head(ax, "The rate that curvature allows", handles)
    return ax


def plot_agreement(curve: Curve, verdict: Verdict, *, ax: Axes | None = None) -> Axes:
    """Draw a range test with the curvature estimate of the same sweep on a second, logarithmic axis."""
    ax = plot_curve(curve, verdict=verdict, title="Range test and curvature estimate", ax=ax)
    twin = second_axis(ax, "curvature estimate of the rate")
    for seed in curve.seeds:
        points = [(lr, e) for lr, e, s in zip(curve.lr, curve.estimate, curve.seed, strict=True) if s == seed]
        at, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        twin.plot(*finite(at, values), color=SECOND, lw=1.6)
    log_axis(twin)
    return ax


def save_estimates(rows: Sequence[Row], path: Path) -> None:
    """Write `plot_estimates` as a PNG."""
    with files.whole(path) as temporary:
        figure_of(plot_estimates(rows)).savefig(temporary, format="png", dpi=150)
