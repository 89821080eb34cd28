"""From what the user typed to where the data set lies."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from superconv.data.reading.decode import Fit
from superconv.errors import UserError


@dataclass(frozen=True)
class Location:
    """Where a data set lies: in a local folder (or file), on the Hugging Face hub, or else in the package.

    Attributes:
        name: what the user asked for.
        path: the local folder, else None.
        hub: the name on the hub, else None.
        label_column: of the labels, where the set has several.
        image_size: side to resize to, for sets whose images differ in size.
        image_fit: usual way of that.
    """

    name: str
    path: Path | None = None
    hub: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    image_fit: Fit = "squash"


_KNOWN = {
    "mnist": Location("mnist", hub="ylecun/mnist"),
    "fashion_mnist": Location("fashion_mnist", hub="zalando-datasets/fashion_mnist"),
    "cifar10": Location("cifar10", hub="uoft-cs/cifar10"),
    "cifar100": Location("cifar100", hub="uoft-cs/cifar100", label_column="fine_label"),
    "imagenet-1k": Location("imagenet-1k", hub="ILSVRC/imagenet-1k", image_size=224, image_fit="crop"),
}
_EMBEDDED = "digits"
SHORT_NAMES = (_EMBEDDED, *_KNOWN)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(name: str) -> Location:
    """Find a data set by its name or path.

    The order: ``digits``; the entry of exactly that name in the folder SUPERCONV_DATA; a short name's place
    on the hub; a local path; ``owner/name`` on the hub.

    Raises:
        UserError: for a name that is none of these; suggests close ones.
    """
    if name == _EMBEDDED:
        return Location(name)
    known = _KNOWN.get(name, Location(name))
    collection = _collection()
    plain = bool(name) and name not in (".", "..") and Path(name).name == name
    if collection and plain and (collection / name).exists():
        return Location(name, collection / name, None, known.label_column, known.image_size, known.image_fit)
    if known.hub:
        return known
    path = Path(os.path.expanduser(name))  # which leaves alone what names no user
    if name and path.exists():
        return Location(name, path)
    if _HUB_NAME.fullmatch(name):
        return Location(name, hub=name)
    raise UserError(f"no data set {name!r}: {_suggestion(name, path, collection)}")


def _collection() -> Path | None:
    value = os.environ.get("SUPERCONV_DATA")
    if not value:
        return None
    folder = Path(os.path.expanduser(value))
    if not folder.is_dir():
        raise UserError(f"SUPERCONV_DATA={value} is no folder: correct or unset it")
    return folder


def _suggestion(name: str, path: Path, collection: Path | None) -> str:
    candidates = list(SHORT_NAMES)
    if collection:
        candidates += [entry.name for entry in collection.iterdir() if entry.is_dir()]
    close = difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
    if path.parent != Path() and path.parent.is_dir():
        beside = [str(entry) for entry in path.parent.iterdir()]
        close += difflib.get_close_matches(str(path), beside, n=2, cutoff=0.8)
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close))}?"
    return f"give one of {', '.join(SHORT_NAMES)}, a folder with parquet files or images, or owner/name on the hub"
