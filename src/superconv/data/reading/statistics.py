"""Mean and standard deviation of images, per channel or per pixel."""

import numpy as np

from superconv.data.reading.decode import Pixels

Mean = tuple[float, ...] | tuple[tuple[tuple[float, ...], ...], ...]
"""On the 0-1 scale: of each channel (c,), or of each pixel (c, h, w)."""

_CHUNK = 4096  # images counted at once: counting takes eight bytes per pixel


def channel_statistics(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all images and pixels, exact up to rounding.

    Args:
        images: uint8, (n, c, h, w).

    Returns:
        (mean, std), c numbers each, on the 0-1 scale; a channel without any variation gets a deviation of 1.
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), _CHUNK):
            counts += np.bincount(images[start : start + _CHUNK, channel].ravel(), minlength=256)
        shares = counts / counts.sum()
        mean.append(float(shares @ values))
        std.append(float(np.sqrt(shares @ (values - mean[-1]) ** 2)) or 1.0)
    return tuple(mean), tuple(std)


def pixel_statistics(images: Pixels) -> tuple[Mean, tuple[float, ...]]:
    """The mean image, and the deviation that leaves pixels on the scale of 0 to 255: what Caffe's mean file does.

    Args:
        images: uint8, (n, c, h, w).

    Returns:
        (mean, std): (c, h, w) and c numbers, on the 0-1 scale.
    """
    mean = images.mean(0, dtype=np.float64) / 255
    return tuple(tuple(map(tuple, channel)) for channel in mean.tolist()), (1 / 255,) * len(mean)


def fixed_scale(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation that divide pixels of 0 to 255 by 256, as Caffe's LeNet has them.

    Args:
        images: uint8, (n, c, h, w); only how many channels they have counts.

    Returns:
        (mean, std), c numbers each, on the 0-1 scale.
    """
    channels = images.shape[1]
    return (0.0,) * channels, (256 / 255,) * channels
