"""A range test's curve: what was measured at which learning rate. Numbers only: any framework's fit in."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from superconv import files
from superconv.errors import UserError
from superconv.rates.curve_file import MIN_POINTS, read_sweep, split_of
from superconv.rates.direction import lower_is_better

SCHEMA = 1  # of the JSON form; raised when a reader of the old form would misread the new one

Column = Literal["validation_metric", "train_metric", "validation_loss", "train_loss"]
_PREFERRED: tuple[Column, ...] = ("validation_metric", "train_metric", "validation_loss", "train_loss")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of one or several sweeps of the learning rate, one row per recorded update.

    All columns have the same length; the sweeps of several seeds are stacked and told apart by ``seed``. Rows
    stay as they were recorded: order, repeated rates and non-finite values are dealt with by `signal`.

    Attributes:
        lr: Learning rate of each row, finite and not negative.
        step: Update index of each row, 0-based.
        seed: Which sweep the row belongs to.
        train_loss: Loss of the row's minibatch; None where not measured, as in the next three.
        train_metric: Metric of the row's minibatch.
        validation_loss: Loss on held-out data after the row's update.
        validation_metric: Metric on held-out data after the row's update.
        metric: Name of the metric; ``"loss"`` where there is only a loss (both metric columns are then all
            None).
        higher_is_better: Direction of the metric. Losses are always better when lower.
        stopped: (seed, reason) of every sweep that ended early because training broke down.
        total_steps: Updates that were planned, None if unknown.
        max_lr: Largest rate that was planned, None if unknown.
        estimate: Smoothed curvature estimate of the rate (`CurvatureEstimate`) after each row; empty if not measured.

    >>> import superconv
    >>> nothing = (None,) * 3
    >>> curve = superconv.Curve((0.1, 0.2, 0.3), (0, 1, 2), (0, 0, 0), (2.0, 1.5, 4.0), nothing, nothing, nothing)
    >>> curve.label, curve.signal()[1].tolist()
    ('training loss', [2.0, 1.5, 4.0])
    """

    lr: tuple[float, ...]
    step: tuple[int, ...]
    seed: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    train_metric: tuple[float | None, ...]
    validation_loss: tuple[float | None, ...]
    validation_metric: tuple[float | None, ...]
    metric: str = "accuracy"
    higher_is_better: bool = True
    stopped: tuple[tuple[int, str], ...] = ()
    total_steps: int | None = None
    max_lr: float | None = None
    estimate: tuple[float | None, ...] = ()

    # JSON knows no NaN: a diverged value is written as "NaN" or "Infinity", and pydantic reads those back.
    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_inf_nan": "strings", "extra": "forbid"}

    def __post_init__(self) -> None:
        for name in ("step", "seed", *_PREFERRED):
            if len(getattr(self, name)) != len(self.lr):
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, lr has {len(self.lr)}")
        if len(self.estimate) not in (0, len(self.lr)):
            raise ValueError(f"estimate has {len(self.estimate)} rows, lr has {len(self.lr)}")
        if not all(np.isfinite(rate) and rate >= 0 for rate in self.lr):
            raise ValueError("every learning rate of a curve must be finite and >= 0")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds present, ascending."""
        return tuple(sorted(set(self.seed)))

    @property
    def column(self) -> Column:
        """Name of the column that `signal` and the verdict read.

        The first of validation metric, training metric, validation loss and training loss that has at least
        10 finite points per seed; failing that, the one with the most.
        """
        counts = {name: sum(v is not None and np.isfinite(v) for v in getattr(self, name)) for name in _PREFERRED}
        enough = [name for name in _PREFERRED if counts[name] >= MIN_POINTS * max(1, len(self.seeds))]
        return enough[0] if enough else max(_PREFERRED, key=lambda name: counts[name])

    @property
    def rising_is_better(self) -> bool:
        """Whether larger values of `column` are better."""
        return self.higher_is_better and self.column.endswith("_metric")

    @property
    def label(self) -> str:
        """`column` in words, for axes and sentences, e.g. ``"validation accuracy"``."""
        part, kind = self.column.split("_")
        return f"{'training' if part == 'train' else part} {self.metric if kind == 'metric' else 'loss'}"

    def signal(self, *, seed: int | None = None, column: Column | None = None) -> tuple[Array, Array]:
        """The series that the verdict is made from, of one seed or of all.

        Args:
            seed: Which sweep; None takes all rows, so that equal rates of several seeds are averaged.
            column: Of what; `column`, if not given.

        Returns:
            Rates in strictly ascending order and the values there, both of shape ``(k,)``. Rows without
            a value are left out and values at the same rate averaged; NaN and infinity (a diverged run) stay.
        """
        rows = [
            (rate, value)
            for rate, value, s in zip(self.lr, getattr(self, column or self.column), self.seed, strict=True)
            if value is not None and (seed is None or s == seed)
        ]
        rates, where, count = np.unique([r for r, _ in rows], return_inverse=True, return_counts=True)
        with np.errstate(invalid="ignore"):  # inf - inf among the diverged
            total = np.bincount(where, weights=[v for _, v in rows], minlength=len(rates))
        return rates.astype(np.float64), total / count

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain values for strict JSON: with a schema number, non-finite values as strings."""
        return {"schema": SCHEMA, **json.loads(TypeAdapter(Curve).dump_json(self))}

    @classmethod
    def from_dict(cls, value: object, *, source: object = "curve") -> "Curve":
        """The curve that `to_dict` wrote; `source` is what an error says is wrong.

        Raises:
            UserError: Another schema, or missing, unknown, ill-typed or impossible entries.
        """
        schema = value.get("schema") if isinstance(value, dict) else None
        if not isinstance(value, dict) or schema != SCHEMA:
            raise UserError(f"{source}: not a curve that this version reads: schema is {schema!r}, not {SCHEMA}")
        return files.checked(Curve, {k: v for k, v in value.items() if k != "schema"}, source=source)

    def to_json(self) -> str:
        """`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, source: object = "curve") -> "Curve":
        """The curve that `to_json` wrote.

        Raises:
            UserError: As `from_dict`, and for text that is no JSON.
        """
        try:
            return cls.from_dict(json.loads(text), source=source)
        except json.JSONDecodeError as error:
            raise UserError(f"{source}: not JSON (line {error.lineno}: {error.msg})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        files.write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Curve":
        """Read what `save` wrote.

        Raises:
            UserError: A file that cannot be read or holds no curve.
        """
        return cls.from_json(files.read_text(Path(path)), source=path)

    @classmethod
    def from_csv(
        cls, path: str | os.PathLike[str], *, metric: str | None = None, higher_is_better: bool | None = None
    ) -> "Curve":
        """Read a sweep from anybody's file: a column ``lr`` or ``learning_rate`` and one named by `metric`.

        Columns are found by name, whatever the case, the spaces around it, and a run's name or a path before it
        (``train/lr``, ``run - lr``, Lightning's ``lr-SGD``). Commas, semicolons, tabs, bars or spaces separate them;
        Excel's ``sep=;``, comments, decimal commas and thousands are understood, numbers of which nobody can tell how
        they are meant are refused. ``step`` or ``iteration`` and ``seed`` are used if present, others ignored. Where
        rate and metric have rows of their own, they are joined by the step. Rows without a rate or a value are skipped.
        NaN counts as "not measured" if finite values follow it and as divergence if it ends its sweep. Rows are put in
        the order of the step, else of the file; single rates out of place are tolerated (`signal` sorts and averages),
        a file whose rates go up and down is refused, because a training run's log is no range test. A ``.json`` may
        hold the columns by name, as torch-lr-finder's history does.

        Args:
            path: The file.
            metric: Name of the column to judge; if not given, ``test_accuracy``, or else the only one that there is.
                Names with "loss" hold a loss. Names with "train", "loss" alone, as most loggers call the training's,
                and those that have a ``val_`` beside them, as in Keras, go to the training columns.
            higher_is_better: Direction of the metric; if not given, the name decides (`lower_is_better`).

        Raises:
            UserError: A file that cannot be used; the message names file, row and column and says what to do.
        """
        sweep = read_sweep(Path(path), metric=metric)
        rows, (name, training) = sweep.rows, split_of(sweep.metric, beside=sweep.header)
        lower = lower_is_better(name) if higher_is_better is None else not higher_is_better
        is_loss = "loss" in name and lower
        column = f"{'train' if training else 'validation'}_{'loss' if is_loss else 'metric'}"
        empty: tuple[float | None, ...] = (None,) * len(rows)
        columns: dict[str, Any] = dict.fromkeys(_PREFERRED, empty)
        columns[column] = tuple(row.value for row in rows)
        return cls(
            lr=tuple(row.lr for row in rows),
            step=tuple(row.step for row in rows),
            seed=tuple(row.seed for row in rows),
            metric="loss" if is_loss else name,
            higher_is_better=not lower,
            **columns,
        )


def merge(curves: Sequence[Curve]) -> Curve:
    """Stack the sweeps of several seeds into one curve.

    Args:
        curves: At least one; same metric, no seed twice.

    Returns:
        All rows in the given order. `total_steps` and `max_lr` are kept where all agree, else None.

    Raises:
        ValueError: No curves, different metrics, or a seed that occurs in two of them.
    """
    if not curves:
        raise ValueError("nothing to merge: give at least one curve")
    first = curves[0]
    if any((c.metric, c.higher_is_better) != (first.metric, first.higher_is_better) for c in curves):
        raise ValueError(f"curves of different metrics cannot be merged: {sorted({c.metric for c in curves})}")
    seeds = [seed for curve in curves for seed in curve.seeds]
    if len(seeds) != len(set(seeds)):
        raise ValueError(f"each curve needs seeds of its own, got {seeds}")
    names = ("lr", "step", "seed", *_PREFERRED, "stopped", "estimate")
    stacked: dict[str, Any] = {n: tuple(row for c in curves for row in getattr(c, n)) for n in names}
    same_steps = len({c.total_steps for c in curves}) == 1
    same_rate = len({c.max_lr for c in curves}) == 1
    return Curve(
        **stacked,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        total_steps=first.total_steps if same_steps else None,
        max_lr=first.max_lr if same_rate else None,
    )
