"""Images too many to hold: decoded by worker processes as they are drawn."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from superconv.data.augment import ImageTransform
from superconv.data.randomness import Stream, random_bits
from superconv.data.reading.decode import EncodedImages, Geometry, decode, size_message
from superconv.data.sampling import Draw
from superconv.data.source import load_batches
from superconv.errors import UserError

CENTER_CROP = 7 / 8  # 224 of 256 pixels, as is usual for ImageNet
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class StreamedImages:
    """Images decoded, resized and cropped in worker processes; normalised and augmented on the device.

    Where the fit is ``crop``, training takes a random crop of 8 to 100 % of the area and an aspect ratio of 3:4 to 4:3
    (Szegedy et al., "Going deeper with convolutions", arXiv 1409.4842, section 6), a pure function of (seed, epoch,
    index); evaluation takes the centre. Else training and evaluation see the same pictures. Without a size images
    are taken as they are, and must be of one size.

    Attributes:
        images: the encoded images of a whole split.
        labels: int64, (n,), of the samples.
        rows: int64, (n,), where each sample lies in ``images``.
        shape: (c, h, w) of the decoded images.
        geometry: way in which they are brought to ``shape``.
        transform: to float32.
        workers: processes that decode; 0 decodes here.
        device: of the batches.
    """

    images: EncodedImages
    labels: Tensor
    rows: Tensor
    shape: tuple[int, int, int]
    geometry: Geometry
    transform: ImageTransform
    workers: int = 0
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "StreamedImages":
        """The same images, with batches on ``device``."""
        return replace(self, device=torch.device(device))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.batches`; inputs are float32 (b, c, h, w), targets int64 (b,).

        Raises:
            UserError: for an image that cannot be decoded, or has another size than the set's.
        """
        decoder = _Decoder(self, seed, augment)
        for batch in load_batches(decoder, draws, _stack, self.workers, self.device):
            if isinstance(batch, UserError):
                raise batch
            images, labels, epochs, indices = (part.to(self.device, non_blocking=True) for part in batch)
            yield self.transform(images, (epochs, indices), seed=seed, augment=augment), labels


class _Decoder(Dataset[Any]):
    """(epoch, index) to (uint8 image, label, epoch, index), in a worker.

    A `UserError` is handed over as a value: a loader would bury its one line in the worker's traceback.
    """

    def __init__(self, source: StreamedImages, seed: int, augment: bool) -> None:
        self.source, self.seed, self.augment = source, seed, augment

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int, int] | UserError:
        epoch, index = key
        source = self.source
        row = int(source.rows[index])
        geometry = source.geometry
        if self.augment and geometry.size is not None and geometry.fit == "crop":
            bits = random_bits(self.seed, Stream.CROP, epoch, torch.tensor(index))
            geometry = replace(geometry, crop=RandomCrop(int(bits)))
        try:
            pixels = decode(source.images.read([row])[0], geometry, source.images.where(row))
            if pixels.shape != source.shape:
                raise UserError(size_message(source.images.where(row), pixels, source.shape))
        except UserError as error:
            return error
        return torch.from_numpy(pixels), int(source.labels[index]), epoch, index


def _stack(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, labels, epochs, indices = zip(*samples, strict=True)
    return (
        torch.stack(images),
        torch.tensor(labels),
        torch.tensor(epochs),
        torch.tensor(indices),
    )


@dataclass(frozen=True)
class RandomCrop:
    """The random resized crop that belongs to ``bits``."""

    bits: int

    def __call__(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box (left, top, right, bottom) within an image of this size."""
        rng = random.Random(self.bits)
        for _ in range(10):
            area = width * height * rng.uniform(0.08, 1.0)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                return left, top, left + w, top + h
        side = min(width, height)  # a very long image: its centre
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
