"""Data sets in local folders: which files there are, and image folders."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from superconv.data.reading.decode import read_file
from superconv.data.reading.labels import encode_labels
from superconv.data.reading.parquet import ParquetSet
from superconv.data.reading.table import Raw, Split, Table, split_in, split_of
from superconv.errors import UserError

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_LAYOUT = "train/<class>/*.png (and test/<class>/*.png), or parquet files called train-*.parquet and test-*.parquet"


def find(path: Path) -> Raw:
    """The data set in a folder (its parquet files, else its images in class folders) or a single parquet file.

    Raises:
        UserError: if there is nothing to be recognised.
    """
    if not path.is_dir():
        if path.suffix == ".parquet":
            return ParquetSet(path.parent, {"train": [path]})
        raise UserError(f"{path} is no folder and no parquet file: give a folder with {_LAYOUT}")
    files = list(_walk(path))
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        return _parquet(path, tables)
    if any(file.suffix.lower() in _IMAGE_SUFFIXES for file in files):
        return _image_folder(path)
    fault = "holds no parquet files and no images" if files else "is empty"
    raise UserError(f"folder {path} {fault}: put there {_LAYOUT}")


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder in a fixed order, links followed, hidden ones left out."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _parquet(root: Path, files: Sequence[Path]) -> ParquetSet:
    splits: dict[str, list[Path]] = {}
    rest = []
    for file in files:
        parts = [file.name, *reversed(file.relative_to(root).parts[:-1])]
        split = next(filter(None, map(split_in, parts)), None)
        if split:
            splits.setdefault(split, []).append(file)
        else:
            rest.append(file)
    if not splits:
        return ParquetSet(root, {"train": rest})
    if "train" not in splits:
        raise UserError(f"{root} has no training files, only {', '.join(splits)}: call them train-*.parquet")
    notes = (f"{len(rest)} files of no known split were left out, e.g. {rest[0].name}",) if rest else ()
    return ParquetSet(root, splits, notes)


@dataclass(frozen=True)
class FileImages:
    """Images in files of their own."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `EncodedImages.read`."""
        return [read_file(self.paths[row]) for row in rows]

    def where(self, row: int) -> str:
        """The file."""
        return f"image {self.paths[row]}"


@dataclass(frozen=True)
class ImageFolder:
    """Images sorted into folders by class: ``<class>/*.png``, or ``train/<class>/*.png`` and so on.

    Attributes:
        root: the folder.
        splits: for each split the images' files and the names of their classes.
    """

    root: Path
    splits: dict[str, list[tuple[Path, str]]]

    def files(self) -> list[tuple[str, Path]]:
        """See `Raw.files`."""
        return [(str(p.relative_to(self.root)), p) for rows in self.splits.values() for p, _ in rows]

    def open(self, label_column: str | None) -> Table:
        """See `Raw.open`; the labels are the folders' names."""
        if label_column is not None:
            raise UserError(
                f"{self.root} is an image folder: its labels are its folders' names, leave out --label-column"
            )
        images = {split: FileImages(tuple(p for p, _ in rows)) for split, rows in self.splits.items()}
        names, labels = encode_labels(
            {split: [label for _, label in rows] for split, rows in self.splits.items()},
            None,
            lambda split, row: images[split].where(row),
        )
        return Table(names, {split: Split(images[split], labels[split]) for split in images})


def _image_folder(root: Path) -> ImageFolder:
    folders = [d for d in _subfolders(root) if any(f.suffix.lower() in _IMAGE_SUFFIXES for f in _walk(d))]
    named = [(split_of(d.name), d) for d in folders if d.name.isalpha() and _subfolders(d)]
    if "train" not in dict(named):
        named = [(split_in(d.name), d) for d in folders]
        if not named or None in dict(named):  # then they are classes, whatever some of them are called
            return ImageFolder(root, {"train": _classes(root)})
    splits: dict[str, Path] = {}
    for split, folder in named:
        if split in splits:
            raise UserError(f"{splits[split]} and {folder} both hold {split} images: rename one, to .{folder.name}")
        if split:
            splits[split] = folder
    if "train" not in splits:
        raise UserError(f"{root} has no training images, only {', '.join(splits)}: sort them into train/<class>/")
    return ImageFolder(root, {split: _classes(_innermost(splits[split], split)) for split in sorted(splits)})


def _innermost(folder: Path, split: str) -> Path:
    """The folder of the class folders, where that of a split holds but another of its kind."""
    inner = _subfolders(folder)
    return _innermost(inner[0], split) if len(inner) == 1 and split_in(inner[0].name) == split else folder


def _subfolders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _classes(folder: Path) -> list[tuple[Path, str]]:
    rows = []
    for class_folder in _subfolders(folder):
        images = [file for file in _walk(class_folder) if file.suffix.lower() in _IMAGE_SUFFIXES]
        if not images:
            raise UserError(f"class folder {class_folder} holds no images: fill or remove it")
        rows += [(image, class_folder.name) for image in images]
    if not rows:
        raise UserError(f"{folder} has no class folders: sort the images into {folder.name}/<class>/")
    return rows
