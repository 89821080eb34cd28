"""Parquet files in the hub's layout, read with Hugging Face `datasets`."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from superconv.data.reading.arrow import quiet, read_table, root_cause
from superconv.data.reading.cache import cache_folder
from superconv.data.reading.table import Table
from superconv.errors import UserError
from superconv.optional import needs


@dataclass(frozen=True)
class ParquetSet:
    """Parquet files, by split.

    Attributes:
        root: the folder that holds them.
        splits: the files of each split.
        notes: what was left out.
    """

    root: Path
    splits: dict[str, list[Path]]
    notes: tuple[str, ...] = ()

    def files(self) -> list[tuple[str, Path]]:
        """See `Raw.files`."""
        return [(f"{split}/{p.name}", p) for split, paths in self.splits.items() for p in paths]

    @property
    def where(self) -> str:
        """See `ArrowSource.where`."""
        return str(self.root)

    def open(self, label_column: str | None) -> Table:
        """See `Raw.open`."""
        return read_table(self, label_column)

    def schema(self) -> tuple[Sequence[str], Mapping[str, Any]]:
        """See `ArrowSource.schema`."""
        return _schema([path for _, path in self.files()])

    def labels(self, split: str, column: str) -> tuple[list[Any], list[tuple[int, str]]]:
        """See `ArrowSource.labels`."""
        values: list[Any] = []
        parts: list[tuple[int, str]] = []
        for path in self.splits[split]:
            parts.append((len(values), str(path.relative_to(self.root))))
            values += _column(path, column)
        return values, parts

    def images(self, splits: Sequence[str], column: str) -> Mapping[str, Any]:
        """See `ArrowSource.images`."""
        loaded: Mapping[str, Any] = _load_images({split: self.splits[split] for split in splits}, column)
        return loaded


def _schema(paths: Sequence[Path]) -> tuple[list[str], dict[str, Any]]:
    """Columns and features of the first file; every file must be readable and have its columns."""
    parquet = _parquet()
    columns: list[str] = []
    features: dict[str, Any] = {}
    for path in paths:
        try:
            schema = parquet.read_schema(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise UserError(f"{path} is no readable parquet file: replace or remove it") from error
        if not columns:
            columns = schema.names
            described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = described.get("info", {}).get("features") or {}
        elif missing := set(columns) - set(schema.names):
            raise UserError(f"{path} lacks the columns {', '.join(sorted(missing))} that {paths[0].name} has")
    return columns, features


def _column(path: Path, column: str) -> list[Any]:
    try:
        values: list[Any] = _parquet().ParquetFile(path).read(columns=[column])[column].to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"column {column} of {path} cannot be read: the file is damaged, replace it") from error
    return values


def _load_images(splits: Mapping[str, Sequence[Path]], column: str) -> Any:
    with needs("data", "this data set"):
        import datasets
    files = {split: [str(path) for path in paths] for split, paths in splits.items()}
    try:
        with quiet():
            loaded = datasets.load_dataset(
                "parquet", data_files=files, columns=[column], cache_dir=str(_arrow_folder())
            )
            return loaded.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # datasets wraps whatever reading, casting or writing raised
        raise UserError(
            f"column {column!r} of {Path(files['train'][0]).parent} cannot be read as images: {root_cause(error)}"
        ) from error


@cache
def _arrow_folder() -> Path:
    """Where `datasets` puts its memory-mapped copies: the cache, or for this process only if it is read-only."""
    folder = cache_folder() / "arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    temporary = Path(tempfile.mkdtemp(prefix="superconv-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _parquet() -> Any:
    with needs("data", "this data set"):
        import pyarrow.parquet
    return pyarrow.parquet
