"""Image classification data by name or path: found, decoded, split, ready to draw batches from."""

import contextlib
import math
import os
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from superconv.data.augment import Augmentation, ImageTransform
from superconv.data.reading import cache
from superconv.data.reading.cache import Decoded
from superconv.data.reading.catalog import Location, locate
from superconv.data.reading.decode import BadImageError, Fit, Pixels, SelectedImages, count_channels, decode
from superconv.data.reading.digits import load_digits
from superconv.data.reading.folders import ImageFolder, find
from superconv.data.reading.hub import fetch
from superconv.data.reading.splits import Choice, choose
from superconv.data.reading.statistics import Mean, channel_statistics, fixed_scale, pixel_statistics
from superconv.data.reading.table import Raw, Split, Table
from superconv.data.reading.whole import Reading, Shape, decode_all, decode_table, notes_of, refusal
from superconv.data.source import ResidentImages, Source
from superconv.data.streaming import CENTER_CROP, StreamedImages
from superconv.errors import UserError

GIB = 2**30
_STATISTICS_IMAGES = 1024  # that mean and deviation of a streamed set are estimated from
_MOST_WORKERS = 8
_LOOKED_AT = 5  # images that decide between grey and colour

Normalization = Literal["channel", "mean_image", "scale"]
_STATISTICS = {"channel": channel_statistics, "mean_image": pixel_statistics, "scale": fixed_scale}


@dataclass(frozen=True)
class ImageData:
    """An image classification data set, split and ready.

    Attributes:
        name: as it was asked for.
        class_names: in the order of the class indices.
        mean: per channel, on the 0-1 scale, of the training images; or per pixel, of the whole set's.
        std: per channel, on the 0-1 scale, of the training images; 1/255 beside a mean image, 256/255 for a scale.
        train: the training images that are left after holding out the others.
        validation: to choose on; None if nothing was held out.
        test: to be read once, at the end.
        image_shape: (c, h, w).
        notes: what the user should know about how the set was read, one sentence each.
        image_fit: way in which an image of another shape is brought to `image_shape`.
        center: share of the largest central box that `image_fit="crop"` cuts out.
    """

    name: str
    class_names: tuple[str, ...]
    mean: Mean
    std: tuple[float, ...]
    train: Source
    validation: Source | None
    test: Source
    image_shape: Shape
    notes: tuple[str, ...] = ()
    image_fit: Fit = "squash"
    center: float = 1.0


def load(
    name_or_path: str | os.PathLike[str],
    *,
    train_samples: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    augmentation: Augmentation = Augmentation(),  # noqa: B008  # frozen
    normalization: Normalization = "channel",
    label_column: str | None = None,
    image_size: int | None = None,
    image_fit: Fit | None = None,
    skip_corrupt: bool = False,
    workers: int | None = None,
    resident_bytes: int = 4 * GIB,
) -> ImageData:
    """Load an image classification data set.

    A test split of the set is kept for the end; without one its validation split serves, else a tenth of the
    training images, the same tenth for every seed. A validation split beside a test split is used as it is;
    else it is held out of the training images, stratified. Then the subset is taken.

    Args:
        name_or_path: ``digits``; ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` or ``imagenet-1k``,
            looked up in the folder SUPERCONV_DATA first, then on the Hugging Face hub; a folder of parquet
            files or of class folders with images; or ``owner/name`` on the hub.
        train_samples: train on a stratified subset of this many images (None: all); smaller subsets lie
            within larger ones.
        validation: to hold out of the training images: below 1 a fraction, else a number of images, 0 none.
        seed: of the validation split and the subset.
        augmentation: of the training images.
        normalization: ``channel`` gives each channel mean 0 and deviation 1 over the training images;
            ``mean_image`` subtracts the mean image of all training images, also where ``train_samples`` or
            ``validation`` leave some out, and keeps the scale of 0 to 255: the input of the paper's runs (of a
            streamed set: of about a thousand of those that are trained on);
            ``scale`` only divides pixels of 0 to 255 by 256: that of its LeNet.
        label_column: of a table with several.
        image_size: side in pixels that images are brought to. None keeps them as they are (224 for imagenet-1k).
        image_fit: way in which images that are not square are brought there: ``squash`` scales the sides apart,
            ``pad`` lays the whole picture on black, ``crop`` cuts out its centre. If not given, ``squash``, which
            loses nothing at the borders; ``crop`` for imagenet-1k, whose usual protocol it is: a streamed set is then
            trained on random crops and read at the centre, 7/8 of the shorter side.
        skip_corrupt: go on without images that cannot be decoded; a note says how many, and which are the first.
        workers: processes that decode a set that does not fit; None takes one per core, 8 at most.
        resident_bytes: a set whose decoded images take up to this much is held in memory, a larger one is
            streamed.

    Raises:
        UserError: if the set cannot be found or used; one line that says where and what to do.
    """
    name = os.fspath(name_or_path)
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is a side in pixels, at least 1, got {image_size}")
    if normalization not in get_args(Normalization):
        raise UserError(f"normalization is one of {', '.join(get_args(Normalization))}, not {normalization!r}")
    location = locate(name)
    size = image_size or location.image_size
    if image_fit is not None and image_fit not in get_args(Fit):
        raise UserError(f"--image-fit is one of {', '.join(get_args(Fit))}, not {image_fit!r}")
    if image_fit is not None and size is None:
        raise UserError("--image-fit says how images are brought to --image-size: give that too")
    reading = Reading(size, image_fit or location.image_fit, skip_corrupt)
    found = _find(location, label_column, reading, resident_bytes)
    choice = choose(found.labels, validation, train_samples, seed)
    if isinstance(found, Decoded):
        ready = _resident(found, choice, augmentation, normalization)
    else:
        ready = _streamed(found, choice, augmentation, normalization, reading, workers)
    return ImageData(
        name=name,
        class_names=found.class_names,
        mean=ready.transform.mean,
        std=ready.transform.std,
        train=ready.sources["train"],
        validation=ready.sources.get("validation"),
        test=ready.sources["test"],
        image_shape=ready.shape,
        notes=(*found.notes, *choice.notes, *ready.notes),
        image_fit=reading.fit,
        center=ready.center,
    )


def _find(location: Location, label_column: str | None, reading: Reading, resident_bytes: int) -> Decoded | Table:
    if location.path or location.hub:
        raw = find(location.path) if location.path else fetch(location.hub or "")
        usual = None if isinstance(raw, ImageFolder) else location.label_column
        return _read(raw, label_column or usual, reading, resident_bytes)
    if label_column is not None or reading.size not in (None, 8):
        raise UserError("digits are 8×8 pixels and have one label: leave out --label-column and --image-size")
    return load_digits()


def _read(raw: Raw, label_column: str | None, reading: Reading, resident_bytes: int) -> Decoded | Table:
    """The set decoded, from the cache if possible; or as a table if it does not fit."""
    paths = [path for _, path in raw.files()]
    before = [cache.state(path) for path in paths]
    key = _key(raw, label_column, reading, resident_bytes)
    if key is not None and (kept := cache.read(key)) is not None and _size(kept) <= resident_bytes:
        return replace(kept, notes=(*raw.notes, *kept.notes))
    table = raw.open(label_column)
    shape = _shape(table.splits["train"], reading)
    decoded = None
    while decoded is None:
        if sum(map(len, table.labels.values())) * math.prod(shape) > resident_bytes:
            if reading.skip_corrupt:
                raise UserError(
                    f"--skip-corrupt needs all images in memory, and they would take more than {resident_bytes:,} "
                    "bytes: remove corrupt images, or make all smaller with --image-size"
                )
            return table
        decoded = decode_table(table, shape, reading)
        shape = (3, shape[1], shape[2])  # of the next try, where one image has colour
    if changed := [path for path, state in zip(paths, before, strict=True) if cache.state(path) != state]:
        raise UserError(f"{changed[0]} changed while it was read: start again")
    if key is not None and table.complete:
        cache.write(key, decoded)
    return replace(decoded, notes=(*raw.notes, *decoded.notes))


def _key(raw: Raw, label_column: str | None, reading: Reading, resident_bytes: int) -> str | None:
    """The set's key in the cache; None if it has no files, or too large ones to be held: hashing would take minutes."""
    files = raw.files()
    if not files or sum(state[2] for _, path in files if (state := cache.state(path))) > resident_bytes:
        return None
    return cache.content_key(files, (label_column, reading))


def _size(decoded: Decoded) -> int:
    return sum(images.nbytes for images, _ in decoded.splits.values())


def _shape(split: Split, reading: Reading) -> Shape:
    """(c, h, w): height and width of the first image, colour where any of `_LOOKED_AT` spread over all has it."""
    images, rows = split.images, range(len(split.labels))
    channels = 1
    for row in sorted({i * (len(rows) - 1) // (_LOOKED_AT - 1) for i in range(_LOOKED_AT)}):
        with contextlib.suppress(BadImageError):
            channels = max(channels, count_channels(images.read([row])[0], images.where(row)))
    fault = None
    for row in rows:
        try:
            _, height, width = decode(images.read([row])[0], reading.geometry(channels), images.where(row)).shape
        except BadImageError as error:
            fault = fault or error
        else:
            return channels, height, width
    raise UserError(f"none of the {len(rows)} training images can be decoded: {fault}")


@dataclass(frozen=True)
class _Ready:
    sources: dict[str, Source]
    transform: ImageTransform
    shape: Shape
    center: float = 1.0
    notes: tuple[str, ...] = ()


def _resident(decoded: Decoded, choice: Choice, augmentation: Augmentation, normalization: Normalization) -> _Ready:
    parts = {}
    for role, (split, rows) in choice.rows.items():
        images, labels = decoded.splits[split]
        parts[role] = images[rows], labels[rows]
    train = parts["train"][0]
    counted = _whole(decoded, choice) if normalization == "mean_image" else train
    transform = ImageTransform(*_STATISTICS[normalization](counted), augmentation)
    sources: dict[str, Source] = {
        role: ResidentImages(torch.from_numpy(images), torch.from_numpy(labels), transform)
        for role, (images, labels) in parts.items()
    }
    return _Ready(sources, transform, (train.shape[1], train.shape[2], train.shape[3]))


def _whole(decoded: Decoded, choice: Choice) -> Pixels:
    """All training images that there are, those held out of them for validation included, for the test excluded."""
    images = decoded.splits["train"][0]
    split, rows = choice.rows["test"]
    return np.delete(images, rows, axis=0) if split == "train" else images


def _streamed(
    table: Table,
    choice: Choice,
    augmentation: Augmentation,
    normalization: Normalization,
    reading: Reading,
    workers: int | None,
) -> _Ready:
    shape = _shape(table.splits["train"], reading)
    rows = choice.rows["train"][1]
    sample = SelectedImages(table.splits["train"].images, rows[:: math.ceil(len(rows) / _STATISTICS_IMAGES)])
    center = CENTER_CROP if reading.fit == "crop" and reading.size else 1.0
    pixels, seen = decode_all(sample, reading.geometry(shape[0], center=center), shape)
    if seen.coloured and shape[0] == 1:
        shape = (3, shape[1], shape[2])
        pixels, seen = decode_all(sample, reading.geometry(3, center=center), shape)
    if seen.faults:
        raise UserError(refusal(list(seen.faults.values()), len(sample)))
    transform = ImageTransform(*_STATISTICS[normalization](pixels), augmentation)
    count = min(os.cpu_count() or 1, _MOST_WORKERS) if workers is None else workers
    sources: dict[str, Source] = {}
    for role, (name, rows) in choice.rows.items():
        split = table.splits[name]
        sources[role] = StreamedImages(
            images=split.images,
            labels=torch.from_numpy(split.labels[rows]),
            rows=torch.from_numpy(rows),
            shape=shape,
            geometry=reading.geometry(shape[0], center=center),
            transform=transform,
            workers=count,
        )
    what = {"channel": "mean and standard deviation are", "mean_image": "the mean image is"}.get(normalization)
    notes = [f"{what} estimated from {len(sample)} training images"] if what else []
    notes += notes_of({"train": seen}, shape, reading, kind="images looked at")
    if shape[0] == 1:
        notes.append(f"the {len(sample)} training images looked at are grey: colour in others is turned grey")
    return _Ready(sources, transform, shape, center, tuple(notes))
