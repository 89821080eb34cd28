"""Figures of a balance: what came of every decay at every peak, and the best decay against the peak."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from superconv.report.style import FIRST, GREY, GRID, SMALL, figure_of, formatter, head, ready, scale_and_unit
from superconv.report.words import shown
from superconv.studies.balance.space import Trial, near_the_best
from superconv.studies.balance.study import Balance

COLOURMAP = "cividis"  # of even steps in lightness, and the same for colour-blind readers
ROW, EDGES = 0.46, 1.5  # inches: of a row of the grid, of what stands around it


def plot_grid(balance: Balance, *, ax: Axes | None = None) -> Axes:
    """Draw the validation score of every decay (rows) at every peak (columns) as a heat map.

    Args:
        balance: What was tried.
        ax: Where to draw; a new figure if not given.
    """
    cells = {(t.setting.weight_decay, t.setting.max_lr): t for t in balance.grid}
    dropped = {(s.weight_decay, s.max_lr) for s in balance.dropped}
    decays, peaks = (sorted({place[i] for place in (*cells, *dropped)}) for i in (0, 1))
    if ax is None:
        ax = Figure(figsize=(5.6, EDGES + ROW * len(decays)), layout="constrained").subplots()
    ready(ax).grid(visible=False)
    scores = np.array([t.accuracy for t in balance.grid if t.accuracy is not None])
    scale, unit = scale_and_unit(balance.metric, scores)
    norm = Normalize(scale * scores.min(), scale * scores.max())
    colours = matplotlib.colormaps[COLOURMAP]
    for row, decay in enumerate(decays):
        for column, peak in enumerate(peaks):
            trial = cells.get((decay, peak))
            if trial is not None and trial.accuracy is not None:
                value = scale * trial.accuracy
                _cell(ax, column, row, f"{value:.1f}", fill=colours(norm(value)), dark=norm(value) < 0.5)
            elif trial is not None:
                _cell(ax, column, row, _brief(trial), fill="#D1D5DB", hatch="////")
            elif (decay, peak) in dropped:
                _cell(ax, column, row, "dropped", fill="#F3F4F6")
    for trial in sorted(balance.best, key=lambda t: t.merit):
        at = peaks.index(trial.setting.max_lr) - 0.5, decays.index(trial.setting.weight_decay) - 0.5
        last = trial.merit == max(t.merit for t in balance.best)
        ax.add_patch(Rectangle(at, 1, 1, fill=False, edgecolor="black", lw=3.0 if last else 1.4, zorder=3))
    ax.set_xlim(-0.5, len(peaks) - 0.5)
    ax.set_ylim(-0.5, len(decays) - 0.5)
    ax.set_xticks(range(len(peaks)), [f"{peak:g}" for peak in peaks])
    ax.set_yticks(range(len(decays)), [shown("weight_decay", decay) for decay in decays])
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("weight decay")
    bar = figure_of(ax).colorbar(matplotlib.cm.ScalarMappable(norm, colours), ax=ax, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, colors=GREY, length=3)
    bar.ax.yaxis.set_major_formatter(formatter())
    head(ax, f"Validation {balance.metric}{unit} after a cycle")
    return ax


def plot_best_decay(balance: Balance, *, ax: Axes | None = None) -> Axes:
    """Draw the best decay against the peak, with bars over all decays that are not clearly worse; 0 lies at the bottom.

    Args:
        balance: What was tried.
        ax: Where to draw; a new figure if not given.
    """
    ax = ready(ax)
    decays = sorted({t.setting.weight_decay for t in balance.grid} | {s.weight_decay for s in balance.dropped})
    bottom = min((decay for decay in decays if decay), default=1e-4) / 10  # where 0 is drawn
    peaks = [trial.setting.max_lr for trial in balance.best]
    for best in balance.best:
        row = [t for t in balance.grid if t.setting.max_lr == best.setting.max_lr]
        near = [t.setting.weight_decay or bottom for t in near_the_best(row, balance.images)]
        ax.plot(
            [best.setting.max_lr] * 2, [min(near), max(near)], color=FIRST, lw=7, alpha=0.22, solid_capstyle="round"
        )
    ax.plot(
        peaks,
        [t.setting.weight_decay or bottom for t in balance.best],
        color=FIRST,
        lw=2,
        marker="o",
        ms=7,
        mec="white",
    )
    for trial in balance.best:
        ax.annotate(
            shown("weight_decay", trial.setting.weight_decay),
            (trial.setting.max_lr, trial.setting.weight_decay or bottom),
            xytext=(9, 4),
            textcoords="offset points",
            fontsize=SMALL,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(min(peaks) / 1.6, max(peaks) * 1.9)
    ax.set_ylim(bottom / 2, max(decays) * 2 or 1)
    ax.set_xticks(peaks, [f"{peak:g}" for peak in peaks])
    ax.set_yticks([decay or bottom for decay in decays], [shown("weight_decay", decay) for decay in decays])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("weight decay")
    head(ax, "Best weight decay against the rate")
    return ax


def _cell(ax: Axes, column: int, row: int, text: str, *, fill: Any, dark: bool = False, hatch: str = "") -> None:
    edge = GREY if hatch else GRID
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor=edge, hatch=hatch, lw=0.8))
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5} if hatch else None
    ax.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black", bbox=box)


def _brief(trial: Trial) -> str:
    """The first words of a failure: those that fit into a cell."""
    reason = trial.failure or ""
    return reason if len(reason) <= 14 else reason.split(" at ")[0].split(":")[0][:14]
