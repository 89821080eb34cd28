"""All images of a set, decoded at once in threads; what was seen on the way becomes notes."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from superconv.data.reading.cache import Decoded
from superconv.data.reading.decode import (
    BadImageError,
    DecodedImage,
    EncodedImages,
    Fit,
    Geometry,
    Pixels,
    decode_file,
    size_message,
)
from superconv.data.reading.table import Table
from superconv.errors import UserError

Shape = tuple[int, int, int]
_CHUNK = 256  # images per task of a thread
_NAMED = 3  # images that a message names
_PLACED = {"squash": "squashed", "pad": "scaled and laid on black", "crop": "cut out at their centre"}


@dataclass(frozen=True)
class Reading:
    """Wishes about how images are read.

    Attributes:
        size: side in pixels of the square that images are brought to; if not given, they stay as they are.
        fit: way in which an image of another shape is brought there.
        skip_corrupt: whether images that cannot be decoded are left out.
    """

    size: int | None = None
    fit: Fit = "squash"
    skip_corrupt: bool = False

    def geometry(self, channels: int, *, center: float = 1.0) -> Geometry:
        """The form of every image; `center` as in `Geometry`."""
        return Geometry(channels, None if self.size is None else (self.size, self.size), self.fit, center)


@dataclass(frozen=True)
class Seen:
    """Counts over the images of a split, the faults of those that cannot be decoded, by row, and if all are alike."""

    images: int
    coloured: int
    transparent: int
    reshaped: int
    faults: Mapping[int, str]
    alike: bool


def decode_all(images: EncodedImages, geometry: Geometry, shape: Shape) -> tuple[Pixels, Seen]:
    """Decode every image of a split, in threads.

    Returns:
        uint8, (n, c, h, w), zeros where an image cannot be decoded; and what was seen.

    Raises:
        UserError: An image is not of `shape` (c, h, w).
    """
    result = np.zeros((len(images), *shape), dtype=np.uint8)
    facts = np.zeros((len(images), 3), dtype=bool)
    faults: dict[int, str] = {}

    def fill(start: int) -> None:
        rows = range(start, min(start + _CHUNK, len(images)))
        for row, data in zip(rows, _read(images, rows), strict=True):
            decoded = _decoded(data, geometry, images.where(row))
            if isinstance(decoded, BadImageError):
                faults[row] = str(decoded)
                continue
            if decoded.pixels.shape != shape:
                raise UserError(size_message(images.where(row), decoded.pixels, shape))
            result[row] = decoded.pixels
            facts[row] = decoded.coloured, decoded.transparent, decoded.reshaped

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            for _ in threads.map(fill, range(0, len(images), _CHUNK)):
                pass
        finally:
            threads.shutdown(cancel_futures=True)
    coloured, transparent, reshaped = map(int, facts.sum(0))
    alike = len(images) > 1 and all(np.array_equal(pixels, result[0]) for pixels in result)
    return result, Seen(len(images), coloured, transparent, reshaped, dict(sorted(faults.items())), alike)


def decode_table(table: Table, shape: Shape, reading: Reading) -> Decoded | None:
    """Decode a whole set.

    Args:
        table: The set.
        shape: (c, h, w) of the images.
        reading: Wishes about it.

    Returns:
        The set, or none where `shape` is grey and a training image has colour: it must be read with three channels.

    Raises:
        UserError: Images cannot be decoded, or are of several sizes.
    """
    seen: dict[str, Seen] = {}
    pixels: dict[str, Pixels] = {}
    for name in sorted(table.splits, key=lambda split: split != "train"):
        pixels[name], seen[name] = decode_all(table.splits[name].images, reading.geometry(shape[0]), shape)
        if shape[0] == 1 and name == "train" and seen[name].coloured:
            return None
    notes = notes_of(seen, shape, reading)
    faults = [fault for split in table.splits for fault in seen[split].faults.values()]
    if faults and not reading.skip_corrupt:
        way_out = ", or leave such images out with --skip-corrupt"
        raise UserError(refusal(faults, sum(map(len, table.labels.values())), way_out=way_out))
    splits = {}
    for name, split in table.splits.items():
        kept = np.setdiff1d(np.arange(len(split.labels)), list(seen[name].faults))
        if not len(kept):
            raise UserError(f"no image of the {name} split can be decoded, such as: {faults[0]}")
        whole = len(kept) == len(split.labels)
        splits[name] = (pixels[name], split.labels) if whole else (pixels[name][kept], split.labels[kept])
    missing = set(range(len(table.class_names))) & set(table.labels["train"].tolist())
    if gone := sorted(missing - set(splits["train"][1].tolist())):
        raise UserError(f"no training image of class {table.class_names[gone[0]]} can be decoded: replace them")
    return Decoded(table.class_names, splits, tuple(notes))


def notes_of(
    seen: Mapping[str, Seen], shape: Shape, reading: Reading, *, kind: Literal["images", "images looked at"] = "images"
) -> list[str]:
    """Sentences that a user should know about how images were read."""
    notes = []
    total = sum(part.images for part in seen.values())
    if transparent := sum(part.transparent for part in seen.values()):
        ground = "they are laid over white, and over black where they are white themselves"
        notes.append(f"{transparent} of {total} {kind} have transparent parts: {ground}")
    reshaped = sum(part.reshaped for part in seen.values())
    if reshaped and reading.size is not None:
        others = " or ".join(fit for fit in _PLACED if fit != reading.fit)
        place = f"{_PLACED[reading.fit]} to be {shape[1]}×{shape[2]} pixels"
        notes.append(f"{reshaped} of {total} {kind} are not square: they are {place} (or --image-fit {others})")
    train = seen["train"]
    if shape[0] == 3 and 0 < train.coloured < train.images - len(train.faults):
        some = f"{train.coloured} of {train.images} training {kind} have colour"
        notes.append(f"{some}, the others are grey: all are read with three channels")
    if shape[0] == 1 and (coloured := sum(part.coloured for part in seen.values())):
        notes.append(f"{coloured} of {total} {kind} have colour, but no training image has: they are turned grey")
    if train.alike:
        notes.append(f"all training {kind} are alike, pixel by pixel: there is nothing to learn from them")
    faults = [fault for part in seen.values() for fault in part.faults.values()]
    if faults and reading.skip_corrupt:
        notes.append(f"{len(faults)} of {total} {kind} cannot be decoded and were left out: {_listed(faults)}")
    return notes


def refusal(faults: Sequence[str], total: int, *, way_out: str = "") -> str:
    """One line about images that cannot be decoded; `way_out` ends the advice."""
    if len(faults) == 1:
        return faults[0] + way_out
    return f"{len(faults)} of {total} images cannot be decoded: replace or remove them{way_out}. {_listed(faults)}"


def _listed(faults: Sequence[str]) -> str:
    named = "; ".join(fault.rpartition(":")[0] for fault in faults[:_NAMED])
    return f"{named}; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else named


def _read(images: EncodedImages, rows: Sequence[int]) -> Sequence[bytes | BadImageError | None]:
    """The rows' bytes; the error where a file cannot be read."""
    try:
        return images.read(rows)
    except BadImageError:
        return [_alone(images, row) for row in rows]


def _alone(images: EncodedImages, row: int) -> bytes | BadImageError | None:
    try:
        return images.read([row])[0]
    except BadImageError as error:
        return error


def _decoded(data: bytes | BadImageError | None, geometry: Geometry, where: str) -> DecodedImage | BadImageError:
    if isinstance(data, BadImageError):
        return data
    try:
        return decode_file(data, geometry, where)
    except BadImageError as error:
        return error
