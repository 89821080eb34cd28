"""The author's logs, which ship with the package."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from superconv.errors import UserError

_FOLDER = Path(__file__).parent / "data"
_COLUMNS = ("lr", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Log:
    """One of the author's runs, test by test."""

    iteration: tuple[int, ...]
    lr: tuple[float | None, ...]
    """Rate of the update after the test; none in the last row."""
    train_accuracy: tuple[float | None, ...]
    """Of one batch of 125 images."""
    test_accuracy: tuple[float | None, ...]

    @property
    def final(self) -> float:
        """Test accuracy after the last update."""
        return next(value for value in reversed(self.test_accuracy) if value is not None)

    @property
    def readings(self) -> list[tuple[float, float]]:
        """(rate, test accuracy) at each test that was followed by an update."""
        pairs = zip(self.lr, self.test_accuracy, strict=True)
        return [(rate, value) for rate, value in pairs if rate is not None and value is not None]


def names() -> tuple[str, ...]:
    """The logs there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.csv")))


@cache
def log(name: str) -> Log:
    """Read a log.

    Raises:
        UserError: There is none of that name.
    """
    if name not in names():
        raise UserError(f"the author left no log {name!r}; there are {', '.join(names())}")
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {key: tuple(float(row[key]) if row[key] else None for row in rows) for key in _COLUMNS}
    return Log(iteration=tuple(int(row["iteration"]) for row in rows), **columns)
