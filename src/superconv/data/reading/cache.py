"""Decoded images kept between runs, by the content of the files they came from."""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from superconv.data.reading.decode import Pixels
from superconv.data.reading.splits import Rows

_FORMAT = "2"  # raise it when decoding changes: older entries are then not found
_HASHED = 2**32  # bytes of files that are hashed whole
_BLOCK, _STRIDE = 2**16, 2**26  # so many bytes of larger files are hashed, at such distances


@dataclass(frozen=True)
class Decoded:
    """A data set in memory.

    Attributes:
        class_names: in the order of the class indices.
        splits: for each of train, validation, test that there is: images uint8 (n, c, h, w) and labels int64
            (n,).
        notes: what the user should know about how the set was read.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[Pixels, Rows]]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, Rows]:
        """The class indices of each split, int64 (n,)."""
        return {split: part[1] for split, part in self.splits.items()}


def cache_folder() -> Path:
    """The user's cache folder: SUPERCONV_CACHE, else ``~/.cache/superconv``."""
    return Path(os.environ.get("SUPERCONV_CACHE") or "~/.cache/superconv").expanduser()


def content_key(files: Sequence[tuple[str, Path]], options: Sequence[Any]) -> str:
    """A hash over the files' names and bytes and what else decides on the decoded images.

    Args:
        files: pairs of the name within the set and the file.
        options: values with a stable ``repr``.
    """
    digest = hashlib.sha256(repr((_FORMAT, *options)).encode())
    for name, path in files:
        part = b"unreadable"  # reading it will say what is wrong
        if path.is_file():
            with contextlib.suppress(OSError), path.open("rb") as file:
                part = hashlib.file_digest(file, "sha256").digest()
        digest.update(repr(name).encode() + part)
    return digest.hexdigest()


def file_key(files: Sequence[tuple[str, Path]], options: Sequence[Any]) -> str:
    """As `content_key`; of files so large that hashing takes minutes, from their beginnings, ends and inodes.

    The time of an inode's change cannot be set back, unlike that of a file's.
    """
    if sum(path.stat().st_size for _, path in files) <= _HASHED:
        return content_key(files, options)
    digest = hashlib.sha256(repr((_FORMAT, *options)).encode())
    for name, path in files:
        digest.update(repr((name, state(path))).encode())
        with path.open("rb") as file:
            for place in range(0, path.stat().st_size, _STRIDE):
                file.seek(place)
                digest.update(file.read(_BLOCK))
            file.seek(-min(_BLOCK, path.stat().st_size), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written to; none if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read(key: str) -> Decoded | None:
    """The entry of this key; None if there is none that can be read."""
    try:
        with (
            (cache_folder() / f"{key}.npz").open("rb") as file,  # numpy leaves a broken file open that it opened
            np.load(file, allow_pickle=False) as entry,
        ):
            meta = json.loads(str(entry["meta"]))
            splits = {s: (entry[f"{s}_images"], entry[f"{s}_labels"]) for s in meta["splits"]}
        return Decoded(tuple(meta["class_names"]), splits, tuple(meta["notes"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def write(key: str, decoded: Decoded) -> None:
    """Keep an entry; the file is whole or absent. A folder that cannot be written to only costs time."""
    meta = {
        "class_names": decoded.class_names,
        "splits": list(decoded.splits),
        "notes": decoded.notes,
    }
    arrays = {"meta": np.array(json.dumps(meta))}
    for split, (images, labels) in decoded.splits.items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    part = None
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            part = Path(file.name)
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for allow_pickle
        part.replace(folder / f"{key}.npz")
    except OSError:
        if part is not None:
            part.unlink(missing_ok=True)
