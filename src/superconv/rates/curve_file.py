"""Read a sweep from anybody's file and say clearly what is wrong with it; the doorway of `Curve.from_csv`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from superconv.errors import UserError
from superconv.rates.curve_table import RATE_NAMES, Table, read_table

MIN_POINTS = 10  # fewer rates cannot show a rise, a plateau and a fall
METRIC = "test_accuracy"  # judged where a file has it and nobody names another
_STEP_NAMES = (
    "step",
    "iteration",
    "global_step",
    "trainer/global_step",
    "_step",
    "iter",
    "iterations",
    "batch",
    "update",
)
_NO_METRIC = re.compile(
    r"(epoch|seed|time|wall_time|_?timestamp|_?runtime|_?step|lr.*|momentum.*|mom|mom?s)$|.*__(min|max)$"
)
_NO_RATE = re.compile(
    r"(momentum|weight_decay|wd|decay|__min|__max|lr_(min|max|start|end|mult(iplier)?|scale|ratio|factor|gamma))$"
)
_TRAINING = frozenset({"train", "training", "trn"})
_HELD_OUT = frozenset({"val", "valid", "validation", "test", "eval", "evaluation", "dev"})
_FALLING = 0.1  # share of neighbouring rows whose rate may fall before a file counts as no sweep


class Row(NamedTuple):
    """One usable row of the file."""

    lr: float
    step: int
    seed: int
    value: float  # may be NaN or infinite where training had diverged


@dataclass(frozen=True)
class Sweep:
    """The rows of a range test, and the name of what was measured."""

    metric: str
    rows: tuple[Row, ...]
    header: tuple[str, ...]
    """All columns of the file."""


def read_sweep(path: Path, *, metric: str | None = None) -> Sweep:
    """Rows of a range test in the order of the sweep, seeds one after the other; see `Curve.from_csv`.

    Raises:
        UserError: The file is missing, empty, binary, lacks a column, holds text where a number belongs, has
            fewer than 10 usable points, or its rates do not rise.
    """
    table = read_table(path)
    rate_at = _rate_column(table)
    value_at = _metric_column(table, metric)
    metric = metric or table.header[value_at]
    rows = _rows(table, rate_at, value_at)
    rows = [row for seed in sorted({r.seed for r in rows}) for row in _one_sweep(path, rows, seed)]
    points = len({(row.seed, row.lr) for row in rows if math.isfinite(row.value)})
    if points < MIN_POINTS:
        raise UserError(
            f"{path}: only {points} usable points (different rates with a number for {metric!r}); "
            f"a range test needs at least {MIN_POINTS}: measure more often"
        )
    return Sweep(metric, tuple(rows), table.header)


def split_of(metric: str, *, beside: Sequence[str] = ()) -> tuple[str, bool]:
    """A metric's name without the split that it was measured on, and whether that was the training's minibatches.

    Args:
        metric: Name of a column.
        beside: The file's other columns: `accuracy` is the training's where there is a `val_accuracy`.

    >>> split_of("val/loss"), split_of("loss/train"), split_of("run-7 - train_acc")
    (('loss', False), ('loss', True), ('acc', True))
    """
    whole = _without_run(_plain(metric))
    parts = [part for part in whole.split("/") if part not in _TRAINING | _HELD_OUT] or [whole]
    bare = re.sub(f"^(({'|'.join(_TRAINING | _HELD_OUT)})_)+(?=.)", "", parts[-1])
    words = set(re.split("[/_]", whole))
    if words & (_TRAINING | _HELD_OUT):
        return bare, bool(words & _TRAINING)
    others = {_without_run(name) for name in beside}
    counterpart = any(f"{split}{sign}{whole}" in others for split in _HELD_OUT for sign in "_/")
    return bare, counterpart or bare in ("loss", "losses")


def _rate_column(table: Table) -> int:
    """The column of the rate: by its name, by the last part of that (`train/lr`), or as Lightning has it (`lr-SGD`)."""
    if table.header == ("wall_time", "step", "value"):
        raise UserError(
            f"{table.path}: TensorBoard writes one tag into a file, without a rate; join the files of rate and "
            "metric by their step into one with the columns step, lr and the metric"
        )
    found = _named(table, RATE_NAMES)
    if not found:  # Lightning: lr-SGD, lr-AdamW/pg1, and beside them lr-SGD-momentum
        found = [i for i, name in enumerate(table.header) if name.startswith("lr_") and not _NO_RATE.search(name)]
    if not found:
        raise UserError(
            f"{table.path}: no column 'lr' or 'learning_rate'; the columns are {', '.join(table.header)}: rename one"
        )
    return _single(table, found)


def _metric_column(table: Table, metric: str | None) -> int:
    """The column that is judged: the one that is named, else `METRIC`, else the only one that can be meant."""
    wanted = _plain(metric or METRIC)
    found = _named(table, (wanted,))
    columns = f"the columns are {', '.join(table.header)}: name another with --metric (metric= in Python)"
    if not found and metric is None:
        rates = {i for i, name in enumerate(table.header) if _last(name) in RATE_NAMES}
        found = [i for i, name in enumerate(table.header) if i not in rates and not _no_metric(name)]
        if len(found) > 1:
            raise UserError(f"{table.path}: no column {METRIC!r}; {columns}")
    if not found:
        raise UserError(f"{table.path}: no column {wanted!r}; {columns}")
    return _single(table, found)


def _no_metric(name: str) -> bool:
    return not name or name in _STEP_NAMES or any(_NO_METRIC.match(part) for part in (name, _last(name)))


def _named(table: Table, names: Sequence[str]) -> list[int]:
    """Columns with one of these names; if none has, those whose name ends in one (`run - lr`, `train/lr`)."""
    for part in (lambda name: name, _without_run, _last):
        if found := [i for i, name in enumerate(table.header) if part(name) in names]:
            return found
    return []


def _single(table: Table, found: Sequence[int]) -> int:
    if len(found) > 1 and len({tuple(cell for _, cell in table.cells(i)) for i in found}) > 1:
        names = " and ".join(repr(table.header[i]) for i in found[:2])
        raise UserError(f"{table.path}: {names} could both be meant; keep one of these columns")
    return found[0]


def _without_run(name: str) -> str:
    """Weights & Biases puts the run's name before the metric's."""
    return name.rpartition("___")[2]  # " - "


def _last(name: str) -> str:
    return _without_run(name).rpartition("/")[2]


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _rows(table: Table, rate_at: int, value_at: int) -> list[Row]:
    step_at = next(iter(_named(table, _STEP_NAMES)), None)
    seed_at = table.header.index("seed") if "seed" in table.header else None
    columns = [i for i in (rate_at, value_at, step_at, seed_at) if i is not None]
    read = dict(zip(columns, table.numbers(columns), strict=True))
    rates, values = read[rate_at], read[value_at]
    for (line, cell), lr in zip(table.cells(rate_at), rates, strict=True):
        if lr is not None and (lr < 0 or math.isinf(lr)):
            raise UserError(
                f"{table.path}, line {line}, column {table.header[rate_at]!r}: a learning rate of {cell} is "
                "impossible; correct it or remove the row"
            )
    steps = [None] * len(rates) if step_at is None else read[step_at]
    seeds = [None] * len(rates) if seed_at is None else read[seed_at]
    if step_at is not None and sum(a is not None and b is not None for a, b in zip(rates, values, strict=True)) == 0:
        rates = _joined(rates, steps)
    return [
        Row(lr, _integer(step, place), _integer(seed, 0), value)
        for place, (lr, value, step, seed) in enumerate(zip(rates, values, steps, seeds, strict=True))
        if lr is not None and value is not None and not math.isnan(lr)
    ]


def _joined(rates: Sequence[float | None], steps: Sequence[float | None]) -> list[float | None]:
    """The rate at each row's step, where loggers write rate and metric into rows of their own: the last known one."""
    known = sorted((step, lr) for step, lr in zip(steps, rates, strict=True) if step is not None and lr is not None)
    joined: list[float | None] = []
    for step in steps:
        before = [lr for at, lr in known if step is not None and at <= step]
        joined.append(before[-1] if before else None)
    return joined


def _integer(number: float | None, otherwise: int) -> int:
    return otherwise if number is None or not math.isfinite(number) else int(number)


def _one_sweep(path: Path, rows: list[Row], seed: int) -> list[Row]:
    """One seed's rows in the order of its steps, without the NaN that mean "not measured"."""
    as_written = [row for row in rows if row.seed == seed]
    sweep = sorted(as_written, key=lambda row: row.step)
    if _falls(sweep) and not _falls(as_written):  # the step counts down to the end of the run
        sweep = [row._replace(step=i) for i, row in enumerate(as_written)]
    if _falls(sweep):
        raise UserError(
            f"{path}: column 'lr' does not rise from row to row, so this is a training log and no range test; give "
            "a sweep from small to large rates (several sweeps in one file need a column 'seed')"
        )
    finite = [i for i, row in enumerate(sweep) if math.isfinite(row.value)]
    interleaved = any(math.isnan(row.value) for row in sweep[: finite[-1]]) if finite else False
    return [row for row in sweep if not (interleaved and math.isnan(row.value))]


def _falls(sweep: Sequence[Row]) -> bool:
    falls = sum(later.lr < earlier.lr for earlier, later in pairwise(sweep))
    return len(sweep) >= MIN_POINTS and (falls > _FALLING * len(sweep) or sweep[-1].lr <= sweep[0].lr)
