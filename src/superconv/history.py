"""What happened in a run: one row per logged step, appended to a JSONL file."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from superconv.errors import UserError
from superconv.files import write_text

Row = dict[str, float | None]


class History:
    """Appends rows to `path`, each flushed at once so that a killed run keeps what it saw.

    Args:
        path: The JSONL file; made if absent.
        until: Keep only the rows of at most this step (a resumed run drops what it will do again). 0 starts afresh.
    """

    def __init__(self, path: Path, *, until: int = 0) -> None:
        kept = [row for row in read(path) if (row["step"] or 0) <= until] if until and path.exists() else []
        write(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add one row; it must have a `step`. What is not finite is stored as null, JSON having no NaN."""
        self._file.write(_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Force the rows to the disk, before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write(path: Path, rows: Iterable[Mapping[str, float | None]]) -> None:
    """Write a whole history."""
    write_text(path, "".join(map(_line, rows)))


def read(path: Path) -> list[Row]:
    """Read the rows of a history; a torn last line, all that a killed run can leave, is dropped.

    Raises:
        UserError: The file is absent, or a line other than the last is not a row.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no step")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is not a row of a history ({error})") from error
        rows.append(row)
    return rows


def _line(row: Mapping[str, float | None]) -> str:
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
