"""Normalising and augmenting whole batches of uint8 images on their device.

Every random choice is a hash of (seed, epoch, sample index), and every arithmetic step rounds each pixel by
itself, so an image looks the same, bit for bit, in whichever batch and process it turns up.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from superconv.data.randomness import Stream, coin, field, random_bits
from superconv.data.reading.statistics import Mean
from superconv.errors import at_least


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The default changes nothing.

    Attributes:
        flip: ``random`` mirrors left-right with probability 1/2; ``alternating`` mirrors a random half of the
            images in the first epoch and the other half in the next, by turns, so that two epochs show each
            image both ways (Jordan, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498, section 3.6).
        shift: the image is moved by up to this many pixels each way: a crop of its own size after padding.
        padding: what a shift uncovers: ``zero`` is black (He et al., arXiv 1512.03385, section 4.2), or the mean
            where that is an image; ``reflect`` mirrors the image at its edge.
        cutout: side in pixels of a square that is replaced by the mean; its centre is uniform over the image,
            so it may stick out (DeVries and Taylor, arXiv 1708.04552).

    Raises:
        ValueError: for unknown names or negative sizes.
    """

    flip: Literal["none", "random", "alternating"] = "none"
    shift: int = 0
    padding: Literal["zero", "reflect"] = "zero"
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.flip not in ("none", "random", "alternating"):
            raise ValueError(f"flip must be none, random or alternating, got {self.flip!r}")
        if self.padding not in ("zero", "reflect"):
            raise ValueError(f"padding must be zero or reflect, got {self.padding!r}")
        at_least(0, shift=self.shift, cutout=self.cutout)


@dataclass(frozen=True)
class ImageTransform:
    """uint8 images to normalised float32, augmented or not.

    Attributes:
        mean: per channel or per pixel, on the 0-1 scale. An image's mean is taken off before the image is moved,
            as Caffe does.
        std: per channel, on the 0-1 scale.
        augmentation: used when a call asks for it.
    """

    mean: Mean
    std: tuple[float, ...]
    augmentation: Augmentation = Augmentation()

    def __call__(self, images: Tensor, draw: tuple[Tensor, Tensor], *, seed: int, augment: bool) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8, (b, c, h, w).
            draw: (epochs, indices), int64 (b,), on the device of the images.
            seed: of the augmentation.
            augment: False only normalises.

        Returns:
            float32, (b, c, h, w): (image / 255 - mean) / std.
        """
        augmentation = self.augmentation if augment else Augmentation()
        epochs, indices = draw
        bits = random_bits(seed, Stream.AUGMENTATION, epochs, indices) if augment else indices
        center, scale = _constants(self.mean, self.std, images.device)
        moves = augmentation.flip != "none" or augmentation.shift > 0
        pixelwise = center.shape[1:] != (1, 1)
        if moves and not pixelwise:
            images = _move(images, _flips(augmentation, bits, draw, seed), bits, augmentation)
        # Two roundings, never one fused multiply-add: vectorised and scalar loops must agree on every bit.
        batch = images.to(torch.float32).sub_(center).mul_(scale)
        if moves and pixelwise:
            batch = _move(batch, _flips(augmentation, bits, draw, seed), bits, augmentation)
        if augmentation.cutout:
            batch.mul_(_outside_square(bits, augmentation.cutout, batch.shape[2], batch.shape[3]))
        return batch


@lru_cache(maxsize=32)
def _constants(mean: Mean, std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    center = 255 * torch.tensor(mean, dtype=torch.float64)
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
    return (
        (center if center.dim() == 3 else center.view(-1, 1, 1)).to(device, torch.float32),
        scale.view(-1, 1, 1).to(device, torch.float32),
    )


def _flips(augmentation: Augmentation, bits: Tensor, draw: tuple[Tensor, Tensor], seed: int) -> Tensor | None:
    if augmentation.flip == "none":
        return None
    if augmentation.flip == "random":
        return coin(bits) == 1
    epochs, indices = draw
    return (coin(random_bits(seed, Stream.FIRST_FLIP, 0, indices)) + epochs) % 2 == 1


def _move(images: Tensor, flips: Tensor | None, bits: Tensor, augmentation: Augmentation) -> Tensor:
    """Mirror and shift by one gather: each output pixel knows where in its image it comes from."""
    b, c, h, w = images.shape
    shift = augmentation.shift
    rows = torch.arange(h, device=images.device).expand(b, h)
    columns = torch.arange(w, device=images.device).expand(b, w)
    if flips is not None:
        columns = torch.where(flips[:, None], w - 1 - columns, columns)
    if shift:
        rows = rows + field(bits, 0, 2 * shift + 1)[:, None]
        columns = columns + field(bits, 1, 2 * shift + 1)[:, None]
        if augmentation.padding == "zero":
            images = F.pad(images, (shift, shift, shift, shift))
        else:
            if shift >= min(h, w):
                raise ValueError(f"{h}×{w} images cannot be reflected {shift} pixels beyond their edge")
            rows, columns = _reflect(rows - shift, h), _reflect(columns - shift, w)
    positions = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    flat = images.reshape(b, c, -1)
    return flat.gather(2, positions.view(b, 1, h * w).expand(b, c, h * w)).view(b, c, h, w)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) mirrored back at the edge pixels."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _outside_square(bits: Tensor, side: int, h: int, w: int) -> Tensor:
    """float32 (b, 1, h, w): 0 where cutout removes a pixel, else 1."""
    inside = []
    for position, size in ((2, h), (3, w)):
        first = field(bits, position, size) - side // 2
        pixels = torch.arange(size, device=bits.device)
        inside.append((pixels >= first[:, None]) & (pixels < first[:, None] + side))
    return 1 - (inside[0][:, :, None] & inside[1][:, None, :])[:, None].to(torch.float32)
