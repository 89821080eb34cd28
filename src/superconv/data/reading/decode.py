"""Encoded images (PNG, JPEG and so on) to uint8 arrays of one shape."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from superconv.errors import UserError
from superconv.optional import needs

if TYPE_CHECKING:
    from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Box = tuple[float, float, float, float]

_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
_CHUNK = 256  # images per task of a thread


class EncodedImages(Protocol):
    """The image files of one split, by row."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """The files' bytes; None where there is none."""
        ...

    def where(self, row: int) -> str:
        """What to call the row's image in an error."""
        ...


@dataclass(frozen=True)
class SelectedImages:
    """Some rows of a split: ``rows`` of ``images``."""

    images: EncodedImages
    rows: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `EncodedImages.read`."""
        return self.images.read([int(self.rows[row]) for row in rows])

    def where(self, row: int) -> str:
        """See `EncodedImages.where`."""
        return self.images.where(int(self.rows[row]))


@dataclass(frozen=True)
class Geometry:
    """What every image is turned into.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        size: side in pixels of the square result; None keeps the image's own size.
        center: share of the shorter side that the central crop takes.
        crop: gives another box for (width, height) than the central one.
    """

    channels: int
    size: int | None = None
    center: float = 1.0
    crop: Callable[[int, int], Box] | None = None


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore or remove it") from error


def decode(data: bytes | None, geometry: Geometry, where: str) -> Pixels:
    """Decode one image to uint8 (c, h, w).

    Alpha is dropped, palettes and CMYK become RGB, 16 bits per pixel keep their upper 8, an EXIF orientation
    is applied.

    Raises:
        UserError: if the bytes are no image that Pillow can read.
    """
    image = _open(data, where)
    try:
        if "exif" in image.info:
            image = _pillow().ImageOps.exif_transpose(image)
        image = _convert(image, geometry.channels)
    except Exception as error:  # Pillow's plugins raise whatever the broken bytes lead to
        raise _corrupt(where, error) from error
    if geometry.size is not None:
        image = _resize(image, geometry.size, geometry)
    pixels = np.asarray(image)
    return pixels[None].copy() if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def count_channels(data: bytes | None, where: str) -> int:
    """1 if an image is grey, else 3."""
    mode = _open(data, where).mode
    return 1 if mode in _GRAY_MODES or mode.startswith("I;16") else 3


def decode_all(images: EncodedImages, geometry: Geometry, shape: tuple[int, int, int]) -> Pixels:
    """Decode every image of a split, in threads.

    Returns:
        uint8, (n, c, h, w).

    Raises:
        UserError: for an image that cannot be read, or is not of ``shape`` (c, h, w).
    """
    result = np.empty((len(images), *shape), dtype=np.uint8)

    def fill(start: int) -> None:
        rows = range(start, min(start + _CHUNK, len(images)))
        for row, data in zip(rows, images.read(rows), strict=True):
            pixels = decode(data, geometry, images.where(row))
            if pixels.shape != shape:
                raise UserError(size_message(images.where(row), pixels, shape))
            result[row] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            for _ in threads.map(fill, range(0, len(images), _CHUNK)):
                pass
        finally:
            threads.shutdown(cancel_futures=True)
    return result


def size_message(where: str, pixels: Pixels, shape: tuple[int, int, int]) -> str:
    """What to say about an image of another size than the set's."""
    return (
        f"{where} is {pixels.shape[1]}×{pixels.shape[2]} pixels (height × width) and the first image "
        f"{shape[1]}×{shape[2]}: bring all to one size, for example with --image-size {min(shape[1:])}"
    )


def _pillow() -> Any:
    with needs("data", "this data set"):
        import PIL.Image
        import PIL.ImageOps
    return PIL


def _open(data: bytes | None, where: str) -> "Image.Image":
    if not data:
        raise UserError(f"{where} is empty: remove the row or give it an image")
    pillow = _pillow()
    try:
        image: Image.Image = pillow.Image.open(io.BytesIO(data))
    except Exception as error:  # as above
        raise _corrupt(where, error) from error
    return image


def _corrupt(where: str, error: Exception) -> UserError:
    reason = "no image format that Pillow knows" if "cannot identify" in str(error) else str(error)
    return UserError(f"{where} cannot be decoded ({reason}): replace or remove it")


def _convert(image: "Image.Image", channels: int) -> "Image.Image":
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        image.load()
        return image
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64) >> 8
        image = _pillow().Image.fromarray(values.clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _resize(image: "Image.Image", size: int, geometry: Geometry) -> "Image.Image":
    if geometry.crop:
        box = geometry.crop(*image.size)
    elif image.size == (size, size):
        return image
    else:
        side = min(image.size) * geometry.center
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    return image.resize((size, size), _pillow().Image.Resampling.BILINEAR, box=box)
