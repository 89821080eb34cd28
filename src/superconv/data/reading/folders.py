"""Data sets in local folders: which files there are, and image folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from superconv.data.reading.decode import image_endings, read_file
from superconv.data.reading.labels import encode_labels
from superconv.data.reading.parquet import ParquetSet
from superconv.data.reading.table import Raw, Split, Table, split_in, split_of
from superconv.data.reading.tree import Walk, left_behind, left_out, subfolders
from superconv.errors import UserError

_LAYOUT = "train/<class>/*.png (and test/<class>/*.png), or parquet files called train-*.parquet and test-*.parquet"


def find(path: Path) -> Raw:
    """The data set in a folder (its parquet files, else its images in class folders) or a single parquet file.

    Raises:
        UserError: if there is nothing to be recognised.
    """
    if not path.is_dir():
        if path.suffix == ".parquet" and path.is_file():
            return ParquetSet(path.parent, {"train": [path]})
        raise UserError(f"{path} is no folder and no parquet file: give a folder with {_LAYOUT}")
    files = Walk().files([path])[path]
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        return _parquet(path, tables)
    if any(map(_is_image, files)):
        return _image_folder(path)
    unread = left_out(files, "files are of other kinds")
    fault = f"holds no parquet files and no images that Pillow reads, {unread[0]}" if unread else "is empty"
    raise UserError(f"folder {path} {fault}: put there {_LAYOUT}")


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
        notes: sentences about files that are not read.
    """

    root: Path
    splits: dict[str, list[tuple[Path, str]]]
    notes: tuple[str, ...] = ()

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
            one_class=f"sort the images in {self.root} into one folder for each class",
        )
        return Table(names, {split: Split(images[split], labels[split]) for split in images}, self.notes)


def _image_folder(given: Path) -> ImageFolder:
    root = _top(given)
    splits = _split_folders(root)
    if "train" not in splits:
        raise UserError(f"{root} has no training images, only {', '.join(splits)}: sort them into train/<class>/")
    bases = {"train": root if splits["train"] == root else _innermost(splits["train"], "train", ())}
    classes = [folder.name for folder in subfolders(bases["train"])]
    bases |= {split: _innermost(folder, split, classes) for split, folder in splits.items() if split != "train"}
    walk = Walk()
    walk.pass_by([given, root, *splits.values(), *bases.values()])
    folders = {split: subfolders(bases[split]) for split in sorted(bases)}
    files = walk.files(folder for parts in folders.values() for folder in parts)
    rows = {split: _rows(bases[split], parts, files) for split, parts in folders.items()}
    unread = [file for found in files.values() for file in found if not _is_image(file)]
    loose = [f for folder in {root, *bases.values()} for f in folder.iterdir() if _is_image(f) and f.is_file()]
    notes = (
        *left_out(unread, "files beside the images were left out: Pillow reads no images of their endings"),
        *left_out(sorted(loose), "images were left out: they lie in no class folder"),
        *left_out(walk.odd, "pipes, devices or sockets beside the images were left out"),
        *left_out(walk.again, "links or names were left out: they lead to images that are taken already"),
    )
    return ImageFolder(root, rows, notes)


def _top(folder: Path) -> Path:
    """The folder in which the classes or splits lie: archives often hold all in a single one."""
    passed = {folder.resolve()}
    while len(inner := _with_images(folder)) == 1:
        inside = _with_images(inner[0])
        split = split_in(inner[0].name)
        if inner[0].resolve() in passed or not inside or (split and "train" not in map(split_in, _names(inside))):
            break
        folder = inner[0]
        passed.add(folder.resolve())
    return folder


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; `root` as that of the training images where there are no splits."""
    folders = _with_images(root)
    named = [(split_of(d.name), d) for d in folders if d.name.isalpha() and subfolders(d)]
    if "train" not in dict(named):
        named = [(split_in(d.name), d) for d in folders]
        if not named or None in dict(named):  # then they are classes, whatever some of them are called
            return {"train": root}
    splits: dict[str, Path] = {}
    for split, folder in named:
        if split in splits:
            raise UserError(f"{splits[split]} and {folder} both hold {split} images: rename one, to .{folder.name}")
        if split:
            splits[split] = folder
    return splits


def _innermost(folder: Path, split: str, classes: Sequence[str]) -> Path:
    """The folder of the class folders, where that of a split holds but another one, which is no class."""
    passed = {folder.resolve()}
    while len(inner := _with_images(folder)) == 1 and inner[0].resolve() not in passed:
        same, inside = split_in(inner[0].name) == split, _with_images(inner[0])
        if inner[0].name in classes or not (same or inside):
            break
        folder = inner[0]
        passed.add(folder.resolve())
    return folder


def _rows(base: Path, folders: Sequence[Path], files: Mapping[Path, Sequence[Path]]) -> list[tuple[Path, str]]:
    rows = []
    for folder in folders:
        images = [file for file in files[folder] if _is_image(file)]
        if not images:
            raise UserError(f"class folder {folder} holds no images of its own: fill or remove it")
        rows += [(image, folder.name) for image in images]
    if not rows:
        raise UserError(f"{base} has no class folders: sort the images into {base.name}/<class>/")
    return rows


def _with_images(folder: Path) -> list[Path]:
    return [d for d in subfolders(folder) if Walk().holds(d, _is_image)]


def _names(folders: Sequence[Path]) -> list[str]:
    return [folder.name for folder in folders]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in image_endings() and not left_behind(path.name)
