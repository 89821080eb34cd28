"""What a data set is before its images are decoded, and how its splits and columns are recognised."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from superconv.data.reading.decode import EncodedImages
from superconv.data.reading.splits import Rows
from superconv.errors import UserError

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Split:
    """One split: encoded images and their class indices, int64 (n,)."""

    images: EncodedImages
    labels: Rows


@dataclass(frozen=True)
class Table:
    """A data set whose images are still encoded.

    Attributes:
        class_names: in the order of the class indices.
        splits: ``train``, and ``validation`` and ``test`` where the set has them.
        notes: what the user should know about how the set was read.
        complete: whether all images lie in the files that `Raw.files` gives.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    complete: bool = True

    @property
    def labels(self) -> dict[str, Rows]:
        """The class indices of each split, int64 (n,)."""
        return {split: part.labels for split, part in self.splits.items()}


class Raw(Protocol):
    """A data set that was found but not opened."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should know about how the set was found."""
        ...

    def files(self) -> list[tuple[str, Path]]:
        """(name within the set, path) of every file that makes up the set."""
        ...

    def open(self, label_column: str | None) -> Table:
        """Read the labels and make the images readable.

        Raises:
            UserError: if the set cannot be used.
        """
        ...


def split_of(name: str) -> str | None:
    """``train``, ``validation`` or ``test``, if a name up to its first ``-`` or ``.`` says so."""
    return _SPLITS.get(name.lower().split(".")[0].split("-")[0])


def split_in(name: str) -> str | None:
    """As `split_of`, else the split that a word of the name says, as in ``mnist_train``; None if several do."""
    said = {_SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLITS}
    return split_of(name) or (said.pop() if len(said) == 1 else None)


def unlabelled(labels: Sequence[Any]) -> bool:
    """Whether no row has a label, as in test splits of competitions."""
    return all(label is None or label == -1 for label in labels)


def image_column(columns: Sequence[str], features: Mapping[str, Any], where: str) -> str:
    """The column of images: the one declared so, or called ``image`` or ``img``.

    Args:
        columns: all columns' names.
        features: of the columns that have some, as `datasets.Features.to_dict` gives them.
        where: names the set in errors.

    Raises:
        UserError: if there is none, or several without such a name.
    """
    declared = [c for c in columns if _type(features.get(c)) == "Image"]
    for name in ("image", "img"):
        if name in (declared or columns):
            return name
    if len(declared) == 1:
        return declared[0]
    fault = f"several image columns ({', '.join(declared)})" if declared else "no image column"
    raise UserError(f"{where} has {fault}; call it 'image'. Columns: {', '.join(columns)}")


def label_column(columns: Sequence[str], features: Mapping[str, Any], wanted: str | None, where: str) -> str:
    """The column of labels: ``wanted``, else ``label`` or ``fine_label``, else the one declared as classes.

    Raises:
        UserError: if there is none, or several.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise UserError(f"{where} has no column {wanted!r} (--label-column). Columns: {', '.join(columns)}")
    declared = [c for c in columns if _type(features.get(c)) == "ClassLabel"]
    for name in ("label", "fine_label"):
        if name in columns:
            return name
    if len(declared) == 1:
        return declared[0]
    fault = f"several label columns ({', '.join(declared)})" if declared else "no label column"
    raise UserError(f"{where} has {fault}; name it with --label-column. Columns: {', '.join(columns)}")


def class_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, if it says them."""
    names = feature.get("names") if _type(feature) == "ClassLabel" else None
    return list(names) if names else None


def _type(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, Mapping) else None
