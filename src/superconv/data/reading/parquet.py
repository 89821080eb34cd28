"""Parquet files in the hub's layout."""

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
from superconv.data.reading.cache import cache_folder, file_key
from superconv.data.reading.table import Table, class_names
from superconv.errors import UserError
from superconv.optional import needs

_BATCH = 256  # rows that are copied at once: a batch must stay below 2 GiB


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
    def folders(self) -> tuple[Path, ...]:
        """See `ArrowSource.folders`."""
        return (self.root,)

    @property
    def where(self) -> str:
        """See `ArrowSource.where`."""
        return str(self.root)

    def open(self, label_column: str | None) -> Table:
        """See `Raw.open`."""
        return read_table(self, label_column)

    def schema(self) -> tuple[Sequence[str], Mapping[str, Any]]:
        """See `ArrowSource.schema`."""
        first = sorted(self.splits, key=lambda split: split != "train")
        return _schema([path for split in first for path in self.splits[split]])

    def labels(self, split: str, column: str) -> tuple[list[Any], list[tuple[int, str]]]:
        """See `ArrowSource.labels`; numbers become names in a file whose classes are not those of the first one."""
        usual = class_names(self.schema()[1].get(column))
        values: list[Any] = []
        parts: list[tuple[int, str]] = []
        for path in self.splits[split]:
            parts.append((len(values), str(path.relative_to(self.root))))
            schema = _read_schema(path)
            if split == "test" and not any(column in _read_schema(other).names for other in self.splits[split]):
                values += [None] * _parquet().ParquetFile(path).metadata.num_rows
                continue
            labels, own = _column(path, column, schema), class_names(_features(schema).get(column))
            values += labels if own in (None, usual) else [_named(label, own) for label in labels]
        return values, parts

    def images(self, splits: Sequence[str], column: str) -> Mapping[str, Any]:
        """See `ArrowSource.images`; memory-mapped copies, kept under the content of the files they were made of."""
        with needs("data", "this data set"):
            import datasets
        images = {}
        for split in splits:
            files = [(str(i), path) for i, path in enumerate(self.splits[split])]
            copy = _arrow_folder() / f"{file_key(files, (column,))}.arrow"
            if not copy.exists():
                _copy(self.splits[split], column, copy)
            with quiet():
                images[split] = datasets.Dataset.from_file(str(copy))
        return images


def _schema(paths: Sequence[Path]) -> tuple[list[str], dict[str, Any]]:
    """All columns, and the features that the first file with some says; every file must be readable."""
    schemas = [_read_schema(path) for path in paths]
    columns = dict.fromkeys(name for schema in schemas for name in schema.names)
    return list(columns), next(filter(None, map(_features, schemas)), {})


def _read_schema(path: Path) -> Any:
    try:
        return _parquet().read_schema(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise UserError(f"{path} is no readable parquet file: replace or remove it") from error


def _features(schema: Any) -> dict[str, Any]:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return described.get("info", {}).get("features") or {}


def _named(label: Any, names: Sequence[str]) -> Any:
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else label


def _column(path: Path, column: str, schema: Any) -> list[Any]:
    _require(path, column, schema)
    try:
        values: list[Any] = _parquet().ParquetFile(path).read(columns=[column])[column].to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"column {column} of {path} cannot be read: the file is damaged, replace it") from error
    return values


def _require(path: Path, column: str, schema: Any) -> None:
    if column not in schema.names:
        raise UserError(f"{path} lacks the column {column}, which other files of the set have: replace or remove it")


def _copy(paths: Sequence[Path], column: str, target: Path) -> None:
    """Write the images of parquet files into one Arrow file that can be memory-mapped; it is whole or absent."""
    import datasets
    import pyarrow

    feature = datasets.Image(decode=False)
    schema = pyarrow.schema([(column, feature.pa_type)])
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            with pyarrow.ipc.new_stream(file, schema) as stream:
                for path in paths:
                    _require(path, column, _read_schema(path))
                    for batch in _parquet().ParquetFile(path).iter_batches(_BATCH, columns=[column]):
                        stream.write(pyarrow.record_batch([feature.cast_storage(batch.column(0))], schema))
        except UserError:
            part.unlink()
            raise
        except Exception as error:  # datasets and pyarrow raise whatever reading, casting or writing leads to
            part.unlink()
            raise UserError(
                f"column {column!r} of {paths[0].parent} cannot be read as images: {root_cause(error)}"
            ) from error
    part.replace(target)


@cache
def _arrow_folder() -> Path:
    """Where memory-mapped copies lie: the cache, or for this process only if it is read-only."""
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
