"""What the rows of `regret.py` mean together: regret paired by seed, ranks, and the picture."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from superconv.report.style import COLOURS, GREY, MARKERS, WIDE_SIZE, head, ready
from superconv.stats import mean_interval, student

ORACLE, GRID, OURS = "oracle", "grid", "superconv"
TOP = 3  # settings of the grid that are run again

Row = Mapping[str, object]
Interval = tuple[float, float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A method on a task."""

    scores: tuple[float, ...]
    """Of the test split, seed by seed: accuracy in per cent, or loss."""
    regrets: tuple[float, ...]
    """What the oracle of the same seed has more: points of accuracy, or per cent of its mean loss."""
    search: float
    """Largest search in updates, as a share of the training's."""
    within: bool
    """Whether that is at most 30 % of the training or 200 updates, for every seed."""


def setting(row: Row) -> str:
    """The setting of the grid that a row of it, or of the oracle, was run with."""
    return str(row["method"]).partition(": ")[2]


def top_settings(rows: Iterable[Row]) -> list[str]:
    """The grid's best settings on validation; equal accuracies are told apart by the loss."""
    ran = [row for row in rows if str(row["method"]).startswith(GRID)]
    return [setting(row) for row in sorted(ran, key=_quality, reverse=True)[:TOP]]


def oracle(rows: Iterable[Row]) -> tuple[str, list[Row]]:
    """Of the settings that were run again, the best by mean validation, and its rows; "" and none where none was."""
    again: dict[str, list[Row]] = {}
    for row in rows:
        if str(row["method"]).startswith(f"{ORACLE}: "):
            again.setdefault(setting(row), []).append(row)
    if not again:
        return "", []
    best = max(again, key=lambda name: tuple(map(statistics.fmean, zip(*map(_quality, again[name]), strict=True))))
    return best, again[best]


def standings(rows: Sequence[Row], *, higher_is_better: bool) -> dict[str, Standing]:
    """How the oracle and every method stand on a task, over the seeds that they have in common with the oracle.

    While the oracle has not run, all seeds count and there is no regret.
    """
    best = {row["seed"]: _score(row, higher_is_better) for row in oracle(rows)[1]}
    methods = dict.fromkeys(str(row["method"]) for row in rows)
    found = {}
    if best:
        found[ORACLE] = Standing(scores=tuple(best.values()), regrets=(), search=0.0, within=False)
        base = 100 / abs(statistics.fmean(best.values()))  # a likelihood may be negative
    for method in methods:
        own = [row for row in rows if row["method"] == method and (not best or row["seed"] in best)]
        if method.startswith((GRID, f"{ORACLE}: ")) or not own:
            continue
        scores = [_score(row, higher_is_better) for row in own]
        paired = zip(own, scores, strict=True)
        found[method] = Standing(
            scores=tuple(scores),
            regrets=tuple(
                best[row["seed"]] - score if higher_is_better else base * (score - best[row["seed"]])
                for row, score in paired
                if best
            ),
            search=max(row["search_updates"] / row["steps"] for row in own),
            within=all(row["search_updates"] <= max(200, 0.3 * row["steps"]) for row in own),
        )
    return found


def pooled(groups: Sequence[Sequence[float]]) -> Interval:
    """Mean over groups of their means, with the 95 % interval that the spread within them leaves it (Satterthwaite)."""
    mean = statistics.fmean(map(statistics.fmean, groups))
    if min(map(len, groups)) < 2:
        return mean, None, None
    variances = [statistics.variance(group) / len(group) for group in groups]
    if not sum(variances):
        return mean, mean, mean
    freedom = sum(variances) ** 2 / sum(v**2 / (len(group) - 1) for v, group in zip(variances, groups, strict=True))
    half = student(freedom) * sum(variances) ** 0.5 / len(groups)
    return mean, mean - half, mean + half


def mean_ranks(tasks: Iterable[Mapping[str, Standing]]) -> dict[str, float]:
    """Mean rank by mean regret, of the methods that ran on every task, the oracle left out; equals share a rank."""
    tasks = [{m: statistics.fmean(s.regrets) for m, s in task.items() if m != ORACLE} for task in tasks]
    common = [m for m in tasks[0] if all(m in task for task in tasks)] if tasks else []

    def rank(method: str, task: Mapping[str, float]) -> float:
        below = sum(task[m] < task[method] for m in common)
        equal = sum(task[m] == task[method] for m in common)
        return below + (equal + 1) / 2

    return {method: statistics.fmean(rank(method, task) for task in tasks) for method in common}


def plot_regrets(tasks: Mapping[str, Mapping[str, Standing]], ax: Axes | None = None) -> Axes:
    """A dot for each method and task at its mean regret, with its 95 % interval; beyond 0.5, on a logarithmic axis."""
    ax = ready(ax, size=(WIDE_SIZE[0], 1.4 + 0.9 * len(tasks)))
    methods = sorted({m for task in tasks.values() for m in task} - {ORACLE}, key=lambda name: (name == OURS, name))
    for i, task in enumerate(tasks.values()):
        for j, method in enumerate(methods):
            if method not in task:
                continue
            mean, low, high = mean_interval(task[method].regrets)
            y = i + 0.7 * ((j + 0.5) / len(methods) - 0.5)
            ax.plot(mean, y, MARKERS[j % 7], color=COLOURS[j % 7], ms=5)
            if low is not None:
                ax.plot([low, high], [y, y], color=COLOURS[j % 7], lw=1.2)
    ax.set_xscale("symlog", linthresh=0.5)
    low, high = ax.get_xlim()
    ticks = [tick for tick in (-10, -3, -1, -0.3, 0, 0.3, 1, 3, 10, 30, 100, 1000) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:,g}".replace("-", "−") for tick in ticks])
    ax.minorticks_off()
    ax.axvline(0, color=GREY, lw=1)
    ax.set_yticks(range(len(tasks)), list(tasks))
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.set_xlabel("regret to the oracle: points of accuracy, or % of its loss")
    styles = zip(methods, COLOURS, MARKERS, strict=False)
    handles = [Line2D([], [], color=c, marker=m, ls="", label=name) for name, c, m in styles]
    head(ax, "What a method loses against a grid search", handles)
    return ax


def _quality(row: Row) -> tuple[float, float]:
    """Larger is better: validation accuracy, then loss; a run that broke down comes last."""
    accuracy, loss = row.get("validation_accuracy"), row.get("validation_loss")
    if loss is None:
        return (float("-inf"), float("-inf"))
    return (accuracy if accuracy is not None else 0.0, -loss)


def _score(row: Row, higher_is_better: bool) -> float:
    return 100 * row["test"] if higher_is_better else row["test"]
