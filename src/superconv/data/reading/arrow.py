"""Tables whose images lie in a memory-mapped `datasets.Dataset`: local parquet files, and sets of the hub."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from superconv.data.reading.decode import BadImageError, read_file
from superconv.data.reading.labels import encode_labels
from superconv.data.reading.table import Split, Table, class_names, image_column, label_column, unlabelled
from superconv.errors import UserError
from superconv.optional import needs


@dataclass(frozen=True)
class ArrowImages:
    """Images in a column of a `datasets.Dataset`, not decoded.

    Attributes:
        dataset: with one row per image.
        column: of the images.
        parts: (first row, name) of the files that the rows come from, for errors.
        folders: folders in which images may lie that a row only names; relative names begin at the first.
    """

    dataset: Any
    column: str
    parts: tuple[tuple[int, str], ...]
    folders: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `EncodedImages.read`."""
        return [self._bytes(row, item) for row, item in zip(rows, self.dataset[rows][self.column], strict=True)]

    @property
    def embedded(self) -> bool:
        """Whether the table holds the bytes of all images, so that no row leads to a file of its own."""
        from pyarrow import compute

        return not compute.struct_field(self.dataset.data.column(self.column), "bytes").null_count

    def _bytes(self, row: int, item: Mapping[str, Any] | None) -> bytes | None:
        if item is None:
            return None
        data: bytes | None = item["bytes"]
        if data is not None or not item["path"]:
            return data
        path = (self.folders[0] / item["path"]).resolve()
        if not any(path.is_relative_to(folder.resolve()) for folder in self.folders):
            raise BadImageError(f"{self.where(row)} is the file {path}, outside the set's folder: embed or remove it")
        return read_file(path)

    def where(self, row: int) -> str:
        """The image's row, counted from 0, within its file."""
        return f"image in {row_name(self.parts, row)}"


class ArrowSource(Protocol):
    """A set of such tables, before its columns are known."""

    @property
    def where(self) -> str:
        """Name of the set in errors."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """The splits there are."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should know about how the set was found."""

    def schema(self) -> tuple[Sequence[str], Mapping[str, Any]]:
        """Names of all columns; and what is known of some of them, as `datasets.Features.to_dict` gives it."""

    def labels(self, split: str, column: str) -> tuple[list[Any], list[tuple[int, str]]]:
        """The labels of a split as they stand there; and (first row, name) of the files that they come from."""

    def images(self, splits: Sequence[str], column: str) -> Mapping[str, Any]:
        """For each split a `datasets.Dataset` whose column holds images, not decoded."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders in which images may lie that a row only names."""


def read_table(source: ArrowSource, wanted: str | None) -> Table:
    """Find the columns of images and labels, check the labels, and leave the images encoded.

    The labels are read by themselves: a label out of range makes `datasets` refuse the whole file without naming the
    row.

    Args:
        source: The set.
        wanted: Column of labels; found by name and type, if not given.

    Raises:
        UserError: There is no such column, or a label is missing or out of range.
    """
    columns, features = source.schema()
    image, label = image_column(columns, features, source.where), label_column(columns, features, wanted, source.where)
    labels: dict[str, list[Any]] = {}
    parts: dict[str, list[tuple[int, str]]] = {}
    for split in source.splits:
        values, parts[split] = source.labels(split, label)
        if not values:
            raise UserError(f"the {split} split in {source.where} has no rows: give it images")
        if split != "test" or not unlabelled(values):
            labels[split] = values
    names, encoded = encode_labels(
        labels, class_names(features.get(label)), lambda split, row: row_name(parts[split], row)
    )
    images = source.images(list(labels), image)
    opened = {s: ArrowImages(images[s], image, tuple(parts[s]), source.folders) for s in labels}
    found = {s: Split(opened[s], encoded[s]) for s in labels}
    return Table(names, found, source.notes, all(part.embedded for part in opened.values()))


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
    with needs("data", "this data set"):
        import datasets
    bars, counts = not datasets.are_progress_bars_disabled(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            datasets.enable_progress_bars()
