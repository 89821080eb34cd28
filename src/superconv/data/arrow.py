"""What local parquet files and sets on the hub share: images in a memory-mapped `datasets.Dataset`."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv.data.decode import read_file
from superconv.data.extra import require


@dataclass(frozen=True)
class ArrowImages:
    """Images in a column of a `datasets.Dataset`, not decoded.

    Attributes:
        dataset: with one row per image.
        column: of the images.
        parts: (first row, name) of the files that the rows come from, for errors.
    """

    dataset: Any
    column: str
    parts: tuple[tuple[int, str], ...]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `EncodedImages.read`."""
        return [_bytes(item) for item in self.dataset[rows][self.column]]

    def where(self, row: int) -> str:
        """The image's row, counted from 0, within its file."""
        return f"image in {row_name(self.parts, row)}"


def _bytes(item: Mapping[str, Any] | None) -> bytes | None:
    if item is None:
        return None
    data: bytes | None = item["bytes"]
    return read_file(Path(item["path"])) if data is None and item["path"] else data


def row_name(parts: Sequence[tuple[int, str]], row: int) -> str:
    """``row r of file`` for a row of the files one after the other; ``parts`` holds (first row, name)."""
    first, name = parts[bisect_right(parts, row, key=lambda part: part[0]) - 1]
    return f"row {row - first} of {name}"


def root_cause(error: BaseException) -> str:
    """The first line of the error that a chain of errors began with."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and load counts of `datasets`; its settings are put back after."""
    datasets = require("datasets")
    bars, counts = not datasets.are_progress_bars_disabled(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            datasets.enable_progress_bars()
