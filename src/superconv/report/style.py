"""The one look of all figures: colours, sizes, axes, and what stands above them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from superconv.rates.curve import Array

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that fades on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
FIRST, SECOND, GOOD, BAD = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[1]
GREY, GRID = "#6B7280", "#E5E7EB"
SIZE, WIDE_SIZE = (5.6, 3.9), (8.6, 4.6)  # inches
TITLE, LABEL, SMALL = 11, 10, 9  # points


def figure_of(ax: Axes) -> Figure:
    """The figure that axes lie in."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes without a figure"
    return figure


def ready(ax: Axes | None, size: tuple[float, float] = SIZE) -> Axes:
    """Axes in the common look: those given, or new ones on a figure of `size` inches."""
    if ax is None:
        ax = Figure(figsize=size, layout="constrained").subplots()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL, colors=GREY, length=3)
    ax.xaxis.label.set_fontsize(LABEL)
    ax.yaxis.label.set_fontsize(LABEL)
    return ax


def second_axis(ax: Axes, label: str) -> Axes:
    """A y axis of another unit to the right, whose curve has the colour `SECOND` as its label has."""
    twin = ax.twinx()
    twin.set_ylabel(label, color=SECOND, fontsize=LABEL)
    twin.tick_params(labelsize=SMALL, colors=GREY, length=3)
    for side in ("top", "left", "bottom"):
        twin.spines[side].set_visible(False)
    twin.spines["right"].set_color(GREY)
    return twin


def head(
    ax: Axes, title: str, handles: Sequence[Line2D] = (), *, bounds: Sequence[tuple[float, str, str]] = ()
) -> None:
    """What stands above the axes, from below: labels of the bounds, the legend, the title. Nothing covers data."""
    height = 4.0 + _label_bounds(ax, bounds)  # points above the axes
    if handles:
        widths = [len(str(handle.get_label())) * 5.0 + 36 for handle in handles]  # points, about
        room = ax.get_position().width * figure_of(ax).get_figwidth() * 72
        columns = len(handles) if sum(widths) <= room else max(1, int(room / max(widths)))
        above = ScaledTranslation(0, height / 72, figure_of(ax).dpi_scale_trans)
        legend = ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            bbox_transform=ax.transAxes + above,
            ncols=columns,
            frameon=False,
            fontsize=SMALL,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.8,
            columnspacing=1.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar in the name of a run is a dollar
        height += 15 * -(-len(handles) // columns) + 2
    ax.set_title(title, loc="left", fontsize=TITLE, fontweight="bold", pad=height + 4)


def _label_bounds(ax: Axes, bounds: Sequence[tuple[float, str, str]]) -> float:
    """Write (rate, text, colour) above the axes, in as many rows as they need; returns their height in points."""
    ax.set_xlim(ax.get_xlim())  # settles the limits, which matplotlib leaves open until it draws
    width = ax.get_position().width * figure_of(ax).get_figwidth() * 72  # points
    rows: list[float] = []  # right end of each row so far
    for rate, text, colour in sorted(bounds):
        at = float(ax.transAxes.inverted().transform(ax.transData.transform((rate, 0)))[0])
        half = len(text) * 5.4 / width / 2
        centre = min(max(at, half), 1 - half)
        row = next((i for i, end in enumerate(rows) if end < centre - half), len(rows))
        rows[row : row + 1] = [centre + half]
        ax.annotate(
            text,
            (centre, 1),
            xycoords="axes fraction",
            xytext=(0, 4 + 13 * row),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color=colour,
        )
    return 13.0 * len(rows) + 4 * bool(rows)


def update_axis(ax: Axes, last: int) -> None:
    """Count updates from 0 to `last` along the axes."""
    ax.set_xlabel("update")
    ax.set_xlim(0, last * 1.02 + 1e-9)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_axis(ax: Axes) -> None:
    """A logarithmic y axis, with ticks at 1, 2 and 5 where it spans few decades; call when the data is drawn."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)))
    ax.yaxis.set_major_formatter(formatter())
    ax.yaxis.set_minor_formatter(NullFormatter())


def scale_and_unit(quantity: str, values: Array) -> tuple[float, str]:
    """Factor and unit of an axis: accuracies, kept as fractions, are shown in per cent."""
    if quantity != "accuracy":
        return 1.0, ""
    values = values[np.isfinite(values)]
    return (100.0 if values.size == 0 or values.max() <= 1 else 1.0), " (%)"


def finite(x: Array, y: Array) -> tuple[Array, Array]:
    """The points whose value is neither NaN nor infinite."""
    keep = np.isfinite(y)
    return x[keep], y[keep]


def running_mean(values: Array) -> Array:
    """Mean over a tenth of the points, half of them to either side; narrower at the start, where curves are steep."""
    index = np.arange(len(values))
    half = np.minimum(len(values) // 20, index)
    first, end = index - half, np.minimum(index + half + 1, len(values))
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean: Array = (total[end] - total[first]) / (end - first)
    return mean


def formatter() -> FuncFormatter:
    """Ticks of three digits, as short as they go, without an offset in the corner of the figure."""
    return FuncFormatter(lambda value, _: f"{value:.3g}")
