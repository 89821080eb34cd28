"""The figure of a comparison: final scores of whole runs against their length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from superconv.report.style import COLOURS, MARKERS, SMALL, WIDE_SIZE, head, ready, scale_and_unit

Points = tuple[int, float, float | None, float | None]  # steps, mean, ends of its interval


def plot_comparison(
    schedules: Mapping[str, Sequence[Points]],
    *,
    metric: str = "accuracy",
    speed_up: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the final score of whole runs against their length, a line for each schedule.

    Args:
        schedules: For each schedule its (steps, mean, low, high), the last two the ends of the mean's interval or None.
        metric: Name of the score.
        speed_up: The entry of `compare.json` to draw as an arrow: `baseline`, `baseline_steps`, `one_cycle_steps`.
        ax: Where to draw; a new figure if not given.
    """
    ax = ready(ax, WIDE_SIZE)
    scale, unit = scale_and_unit(metric, np.array([mean for points in schedules.values() for _, mean, *_ in points]))
    handles = []
    for index, (name, points) in enumerate(schedules.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        aside = 1.025 ** (index - (len(schedules) - 1) / 2)  # intervals of equal lengths stand beside each other
        x = np.array([steps for steps, *_ in points]) * aside
        mean = np.array([m for _, m, *_ in points]) * scale
        low, high = (
            np.abs(np.array([p[1] if p[end] is None else p[end] for p in points], dtype=float) * scale - mean)
            for end in (2, 3)
        )
        ax.errorbar(x, mean, yerr=(low, high), color=colour, lw=0, elinewidth=1.1, capsize=3, alpha=0.75)
        ax.plot(x, mean, color=colour, lw=2, marker=marker, ms=6, mec="white", mew=0.8)
        label = name.replace("_", " ")
        handles.append(Line2D([], [], color=colour, lw=2, marker=marker, ms=6, mec="white", mew=0.8, label=label))
    lengths = sorted({steps for points in schedules.values() for steps, *_ in points})
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [f"{steps:,}" for steps in lengths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("length of the run (updates)")
    ax.set_ylabel(f"final validation {metric}{unit}")
    if unit:
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, 0), min(top, 100.5))
    if speed_up and speed_up["one_cycle_steps"] and speed_up["one_cycle_steps"] < speed_up["baseline_steps"]:
        level = next(m for steps, m, *_ in schedules[speed_up["baseline"]] if steps == speed_up["baseline_steps"])
        _arrow(ax, speed_up["baseline_steps"], speed_up["one_cycle_steps"], level * scale)
    head(ax, f"Final {metric} against the length of the run", handles)
    return ax


def _arrow(ax: Axes, baseline_steps: int, cycle_steps: int, level: float) -> None:
    """From the baseline's run to the shorter cycle that does as well."""
    arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.3, "shrinkA": 6, "shrinkB": 6}
    ax.annotate("", (cycle_steps, level), (baseline_steps, level), arrowprops=arrow, zorder=5)
    ax.annotate(
        f"{baseline_steps / cycle_steps:.2g}× shorter",
        ((baseline_steps * cycle_steps) ** 0.5, level),
        xytext=(0, -6),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=SMALL,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        zorder=6,
    )
