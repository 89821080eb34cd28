"""Read a sweep from anybody's CSV and say clearly what is wrong with it; the doorway of `Curve.from_csv`."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from superconv.errors import UserError

MIN_POINTS = 10  # fewer rates cannot show a rise, a plateau and a fall
_MISSING = {"", "na", "n/a", "none", "null", "-"}
_RATE_NAMES = ("lr", "learning_rate")
_STEP_NAMES = ("step", "iteration")
_FALLING = 0.1  # share of neighbouring rows whose rate may fall before a file counts as no sweep


class Row(NamedTuple):
    """One usable row of the file."""

    lr: float
    step: int
    seed: int
    value: float  # may be NaN or infinite where training had diverged


def read_sweep(path: Path, *, metric: str) -> list[Row]:
    """Rows of a range test in the order of the sweep, seeds one after the other; see `Curve.from_csv`.

    Raises:
        UserError: The file is missing, empty, binary, lacks a column, holds text where a number belongs, has
            fewer than 10 usable points, or its rates do not rise.
    """
    text = _text(path)
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [_plain(name) for name in next(cells for cells in table if any(cells))]
        lines = ((table.line_num, cells) for cells in table)
        rows = list(_rows(path, lines, header, metric=metric, decimal="," if delimiter == ";" else "."))
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: not readable as CSV ({error})") from None
    rows = [row for seed in sorted({r.seed for r in rows}) for row in _one_sweep(path, rows, seed)]
    points = len({(row.seed, row.lr) for row in rows if math.isfinite(row.value)})
    if points < MIN_POINTS:
        raise UserError(
            f"{path}: only {points} usable points (different rates with a number for {metric!r}); "
            f"a range test needs at least {MIN_POINTS}: measure more often"
        )
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV file") from None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path}: not a text file; export the curve as CSV with columns lr and the metric")
    if not text.strip():
        raise UserError(f"{path}: the file is empty; it needs a header line and one line per measured rate")
    return text


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _rows(
    path: Path, lines: Iterable[tuple[int, list[str]]], header: list[str], *, metric: str, decimal: str
) -> Iterator[Row]:
    rate_at = _find(path, header, _RATE_NAMES)
    value_at = _find(path, header, (_plain(metric),))
    step_at = next((header.index(name) for name in _STEP_NAMES if name in header), None)
    seed_at = header.index("seed") if "seed" in header else None
    for line, cells in lines:

        def number(column: int, cells: list[str] = cells, line: int = line) -> float | None:
            cell = cells[column].strip() if column < len(cells) else ""
            if cell.lower() in _MISSING:
                return None
            try:
                return float(cell.replace(decimal, "."))
            except ValueError:
                raise UserError(
                    f"{path}, line {line}, column {header[column]!r}: {cell!r} is not a number; "
                    f"correct it, or leave the cell empty to skip the row"
                ) from None

        lr, value = number(rate_at), number(value_at)
        if lr is None or value is None or math.isnan(lr):
            continue
        if lr < 0 or math.isinf(lr):
            raise UserError(
                f"{path}, line {line}, column {header[rate_at]!r}: a learning rate of {lr:g} is impossible; "
                f"correct it or remove the row"
            )
        step = None if step_at is None else number(step_at)
        seed = None if seed_at is None else number(seed_at)
        yield Row(lr, _integer(step, line - 2), _integer(seed, 0), value)


def _integer(number: float | None, otherwise: int) -> int:
    return otherwise if number is None or not math.isfinite(number) else int(number)


def _find(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    wanted = " or ".join(map(repr, names))
    hint = "rename one" if names is _RATE_NAMES else "name another with --metric (metric= in Python)"
    raise UserError(f"{path}: no column {wanted}; the columns are {', '.join(header)}: {hint}")


def _one_sweep(path: Path, rows: list[Row], seed: int) -> list[Row]:
    """One seed's rows in the order of its steps, without the NaN that mean "not measured"."""
    sweep = sorted((row for row in rows if row.seed == seed), key=lambda row: row.step)
    falls = sum(later.lr < earlier.lr for earlier, later in pairwise(sweep))
    if len(sweep) >= MIN_POINTS and (falls > _FALLING * len(sweep) or sweep[-1].lr <= sweep[0].lr):
        raise UserError(
            f"{path}: column 'lr' does not rise from row to row, so this is a training log and no range test; give "
            "a sweep from small to large rates (several sweeps in one file need a column 'seed')"
        )
    finite = [i for i, row in enumerate(sweep) if math.isfinite(row.value)]
    interleaved = any(math.isnan(row.value) for row in sweep[: finite[-1]]) if finite else False
    return [row for row in sweep if not (interleaved and math.isnan(row.value))]
