"""A table of text in any dialect: which characters separate it, where its header is, how its numbers are written."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv.errors import UserError

RATE_NAMES = ("lr", "learning_rate", "lrs", "learning_rates")
_MISSING = frozenset({"", "na", "n/a", "#n/a", "none", "null", "-", "–"})
_BROKEN = {"#num!": math.nan, "#div/0!": math.nan, "1.#inf": math.inf, "1.#ind": math.nan, "1.#qnan": math.nan}
_SEPARATORS = (",", ";", "\t", "|")
_FORM = re.compile(r"([+-]?)([0-9.,\s\u00a0\u202f']*)([eE][+-]?[0-9]+)?(\s*%)?")
_GROUPED = {mark: re.compile(rf"[1-9][0-9]{{0,2}}({re.escape(mark)}[0-9]{{3}})+") for mark in ".,"}


@dataclass(frozen=True)
class Table:
    """Cells as they are written, and how their numbers are to be read."""

    path: Path
    header: tuple[str, ...]
    """Names of the columns, in small letters, with underscores."""
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """(line of the file, cells) of each row; a row may have fewer cells than there are columns."""
    separator: str = ""
    """The sign between cells; empty for JSON, whose numbers have a decimal point."""

    def cells(self, column: int) -> list[tuple[int, str]]:
        """(line, cell) of a column."""
        return [(line, cells[column].strip() if column < len(cells) else "") for line, cells in self.rows]

    def numbers(self, columns: Sequence[int]) -> list[list[float | None]]:
        """The numbers of some columns, `None` where a cell is empty.

        One sign is the decimal mark of all of them: the one that cells which can be read in one way only have.

        Raises:
            UserError: A cell that is no number, or numbers of which nobody can tell how they are meant.
        """
        cells = [self.cells(column) for column in columns]
        for column, own in zip(columns, cells, strict=True):
            self._refuse_mixed(column, own)
        decimal = self._decimal(columns, cells) if self.separator else "."
        return [
            [self._number(cell, decimal, line, column) for line, cell in own]
            for column, own in zip(columns, cells, strict=True)
        ]

    def _refuse_mixed(self, column: int, cells: Sequence[tuple[int, str]]) -> None:
        """Refuse percentages of a rate, and beside numbers that are none: 85 % and 0.86 are one column's by mistake."""
        written = [(line, cell) for line, cell in cells if re.search("[0-9]", cell)]
        percent = [(line, cell) for line, cell in written if cell.endswith("%")]
        if percent and (len(percent) < len(written) or self.header[column].rpartition("/")[2] in RATE_NAMES):
            line, cell = percent[0]
            raise UserError(
                f"{self.path}, line {line}, column {self.header[column]!r}: {cell!r} is a percentage, where a plain "
                "number belongs; write the whole column without"
            )

    def _decimal(self, columns: Sequence[int], cells: Sequence[Sequence[tuple[int, str]]]) -> str:
        told: dict[str, str] = {}
        doubtful: dict[str, str] = {}
        for column, own in zip(columns, cells, strict=True):
            for line, cell in own:
                match = _FORM.fullmatch(cell)
                if not match or not cell:
                    continue
                digits = re.sub(r"[\s\u00a0\u202f']", "", match[2])
                where = f"line {line}, column {self.header[column]!r}: {cell!r}"
                for mark, other in ((",", "."), (".", ",")):
                    if mark not in digits:
                        continue
                    last = digits.rfind(mark) > digits.rfind(other)
                    if other in digits:
                        if last:
                            told.setdefault(mark, where)
                    elif match[3] or not _GROUPED[mark].fullmatch(digits):
                        told.setdefault(mark, where)
                    elif mark == "," or self.separator != ",":  # a point between commas is a decimal point
                        doubtful.setdefault(mark, where)
        if len(told) > 1:
            raise UserError(
                f"{self.path}: {told[',']} has a decimal comma and {told['.']} a decimal point; write all numbers alike"
            )
        if told:
            return next(iter(told))
        if doubtful:
            raise UserError(
                f"{self.path}, {next(iter(doubtful.values()))} may be a number of thousands or have a decimal comma; "
                "write it with a decimal point and without thousands separators"
            )
        return "."

    def _number(self, cell: str, decimal: str, line: int, column: int) -> float | None:
        lowered = cell.lower()
        if lowered in _MISSING:
            return None
        if lowered in _BROKEN:
            return _BROKEN[lowered]
        match = _FORM.fullmatch(cell)
        plain = cell
        if match:
            thousands = "." if decimal == "," else ","
            digits = re.sub(r"[\s\u00a0\u202f']", "", match[2])
            whole = digits.partition(decimal)[0]
            if thousands in digits and not _GROUPED[thousands].fullmatch(whole):
                plain = "?"
            else:
                plain = match[1] + digits.replace(thousands, "").replace(decimal, ".") + (match[3] or "")
        try:
            return float(plain)
        except ValueError:
            raise UserError(
                f"{self.path}, line {line}, column {self.header[column]!r}: {cell!r} is not a number; "
                "correct it, or leave the cell empty to skip the row"
            ) from None


def read_table(path: Path) -> Table:
    """Read a CSV of any dialect, or the history of a range test as JSON (columns by name, or a list of rows).

    Raises:
        UserError: The file is missing, empty, binary, or no table.
    """
    text = _text(path)
    if text.lstrip()[:1] in "[{":
        return _from_json(path, text)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    separator = None
    if match := re.fullmatch(r"\"?sep=(.|\\t)\"?\s*", lines[0][1].strip(), re.IGNORECASE):
        separator = "\t" if match[1] == "\\t" else match[1]
        lines = lines[1:]
    lines = _without_comments(lines)
    if not lines:
        raise UserError(f"{path}: the file has no header line; it needs one, and one line per measured rate")
    separator = separator or _separator([line for _, line in lines])
    try:
        rows = list(_split(lines, separator))
    except csv.Error as error:
        raise UserError(f"{path}: not readable as CSV ({error})") from None
    (_, header), *body = rows
    for line, cells in body:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells under {len(header)} names; write decimal points, put text "
                "with a comma in quotation marks, and give every column a name"
            )
    names = tuple(_plain(name) for name in header)
    return Table(path, names, tuple((line, tuple(cells)) for line, cells in body), separator)


def _split(lines: Sequence[tuple[int, str]], separator: str) -> Iterable[tuple[int, list[str]]]:
    if separator == " ":
        return ((number, line.split()) for number, line in lines)
    reader = csv.reader(
        io.StringIO("\n".join(line for _, line in lines), newline=""), delimiter=separator, skipinitialspace=True
    )
    return ((lines[reader.line_num - 1][0], cells) for cells in reader if any(cell.strip() for cell in cells))


def _separator(lines: Sequence[str]) -> str:
    """The sign that gives a column a rate's name, and most of the first lines as many cells as the header has.

    Spaces separate, if no other sign gives two columns.
    """
    best, most = " ", (False, 0, 0)
    for sign in _SEPARATORS:
        with_sign = list(csv.reader(lines[:20], delimiter=sign, skipinitialspace=True))
        wide = len(with_sign[0])
        named = any(_plain(cell) in RATE_NAMES for cell in with_sign[0])
        score = (named, sum(len(cells) == wide for cells in with_sign), wide)
        if wide > 1 and score > most:
            best, most = sign, score
    return best if most[2] or " " in lines[0].strip() else ","


def _without_comments(lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The lines that are no comments; the last comment is the header where the line after it holds numbers alone."""
    first = next((i for i, (_, line) in enumerate(lines) if not line.lstrip().startswith("#")), len(lines))
    rest = [
        (number, line) for number, line in lines[first:] if not re.match(r"\s*#(?!n/a|num|div)", line, re.IGNORECASE)
    ]
    if first and rest and not re.search("[a-z]", re.sub(r"[0-9.,]e|nan|inf", "", rest[0][1].lower())):
        number, line = lines[first - 1]
        return [(number, line.lstrip().lstrip("#")), *rest]
    return rest


def _from_json(path: Path, text: str) -> Table:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        try:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    if isinstance(value, dict) and value and all(isinstance(own, list) for own in value.values()):
        if len({len(own) for own in value.values()}) > 1:
            lengths = ", ".join(f"{name} {len(own)}" for name, own in value.items())
            raise UserError(f"{path}: columns of unequal length ({lengths}); give a value for each rate")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not (isinstance(value, list) and value and all(isinstance(row, dict) for row in value)):
        raise UserError(
            f'{path}: no table; give columns by name, such as {{"lr": [...], "loss": [...]}}, or a list of rows'
        )
    names = list(dict.fromkeys(str(name) for row in value for name in row))
    rows = tuple(
        (i, tuple("" if row.get(name) is None else repr(row[name]).strip("'\"") for name in names))
        for i, row in enumerate(value, start=1)
    )
    return Table(path, tuple(map(_plain, names)), rows)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV file") from None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")  # Excel's, in western Europe; only names can be misread
    if "\0" in text:
        raise UserError(f"{path}: not a text file; export the curve as CSV with columns lr and the metric")
    if not text.strip():
        raise UserError(f"{path}: the file is empty; it needs a header line and one line per measured rate")
    return text


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
