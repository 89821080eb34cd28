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

from superconv.data.arrow import ArrowImages, quiet, root_cause, row_name
from superconv.data.cache import cache_folder
from superconv.data.extra import require
from superconv.data.labels import encode_labels
from superconv.data.raw import Split, Table, class_names, image_column, label_column, unlabelled
from superconv.errors import UserError


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

    def open(self, wanted: str | None) -> Table:
        """See `Raw.open`.

        The labels are read by themselves: a label out of range makes `datasets` refuse the whole file without
        naming the row.
        """
        columns, features = _schema([path for _, path in self.files()])
        where = str(self.root)
        image, label = image_column(columns, features, where), label_column(columns, features, wanted, where)
        labels: dict[str, list[Any]] = {}
        parts: dict[str, list[tuple[int, str]]] = {}
        for split, paths in self.splits.items():
            values: list[Any] = []
            for path in paths:
                parts.setdefault(split, []).append((len(values), str(path.relative_to(self.root))))
                values += _column(path, label)
            if not values:
                raise UserError(f"the {split} split in {self.root} has no rows: give it images")
            if split != "test" or not unlabelled(values):
                labels[split] = values
        names, encoded = encode_labels(
            labels, class_names(features.get(label)), lambda split, row: row_name(parts[split], row)
        )
        images = _load_images({split: self.splits[split] for split in labels}, image)
        return Table(
            names,
            {s: Split(ArrowImages(images[s], image, tuple(parts[s])), encoded[s]) for s in labels},
            self.notes,
        )


def _schema(paths: Sequence[Path]) -> tuple[list[str], dict[str, Any]]:
    """Columns and features of the first file; every file must be readable and have its columns."""
    parquet = require("pyarrow.parquet")
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
        values: list[Any] = require("pyarrow.parquet").ParquetFile(path).read(columns=[column])[column].to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"column {column} of {path} cannot be read: the file is damaged, replace it") from error
    return values


def _load_images(splits: Mapping[str, Sequence[Path]], column: str) -> Any:
    datasets = require("datasets")
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
