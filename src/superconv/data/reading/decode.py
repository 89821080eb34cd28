"""One encoded image (PNG, JPEG and so on) to a uint8 array."""

import contextlib
import io
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from superconv.errors import UserError
from superconv.optional import needs

if TYPE_CHECKING:
    from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Box = tuple[float, float, float, float]
Fit = Literal["squash", "pad", "crop"]
"""Way in which an image is brought to another shape: the sides are scaled apart (`squash`), the whole is scaled and
laid on black (`pad`), or its centre is cut out (`crop`)."""

MOST_BYTES = 2**29  # of an image file: more is no picture, and reading it would fill the memory
_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow knows their names but decodes none by itself


class BadImageError(UserError):
    """An image that cannot be read or decoded; others of its set can be used without it."""


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
    """Form that every image is brought to.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) in pixels; if not given, the image keeps its own.
        fit: way in which an image of another shape is brought to `size`.
        center: share of the largest central box of the right shape that `fit="crop"` takes.
        crop: function that gives another box for (width, height) than the central one.
    """

    channels: int
    size: tuple[int, int] | None = None
    fit: Fit = "squash"
    center: float = 1.0
    crop: Callable[[int, int], Box] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and facts about its file.

    Attributes:
        pixels: uint8, (c, h, w).
        coloured: whether the file holds more than grey.
        transparent: whether a part of it was transparent.
        reshaped: whether height and width had another ratio in the file.
    """

    pixels: Pixels
    coloured: bool
    transparent: bool
    reshaped: bool


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        BadImageError: It cannot be read, is no regular file (reading a pipe or a device never ends), or is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError(f"{path} is no regular file: remove it")
        if status.st_size > MOST_BYTES:
            raise BadImageError(f"{path} has {status.st_size:,} bytes, more than {MOST_BYTES:,}: replace or remove it")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path} cannot be read ({error.strerror}): restore or remove it") from error


@cache
def image_endings() -> frozenset[str]:
    """Endings of the files that Pillow reads, such as ``.jpg``, in lower case; plugins included."""
    image = _pillow().Image
    image.init()
    known = image.registered_extensions().items()
    return frozenset(ending for ending, form in known if form in image.OPEN and form not in _NO_PICTURES)


def decode(data: bytes | None, geometry: Geometry, where: str) -> Pixels:
    """Decode one image to uint8 (c, h, w); see `decode_file`."""
    return decode_file(data, geometry, where).pixels


def decode_file(data: bytes | None, geometry: Geometry, where: str) -> DecodedImage:
    """Decode one image.

    An image with transparency is laid over white; over black, where nothing would be seen of it over white. Palettes
    and CMYK become RGB, 16 bits per pixel keep their upper 8, an EXIF orientation is applied.

    Raises:
        BadImageError: The bytes are no image that Pillow can read.
    """
    image = _open(data, where)
    coloured = _coloured(image)
    try:
        if "exif" in image.info:
            image = _pillow().ImageOps.exif_transpose(image)
        image, transparent = _opaque(image)
        image = _convert(image, geometry.channels)
    except Exception as error:  # Pillow's plugins raise whatever the broken bytes lead to
        raise _corrupt(where, error) from error
    reshaped = False
    if geometry.size is not None:
        height, width = geometry.size
        reshaped = image.width * height != image.height * width
        image = _resize(image, geometry)
    pixels = np.asarray(image)
    pixels = pixels[None].copy() if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return DecodedImage(pixels, coloured, transparent, reshaped)


def count_channels(data: bytes | None, where: str) -> int:
    """1 if an image is grey, else 3."""
    return 3 if _coloured(_open(data, where)) else 1


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
    with contextlib.suppress(ImportError):  # phones' .heic, where the plugin is installed
        import pillow_heif

        if "HEIF" not in PIL.Image.OPEN:
            pillow_heif.register_heif_opener()
    return PIL


def _open(data: bytes | None, where: str) -> "Image.Image":
    if not data:
        raise BadImageError(f"{where} is empty: remove the row or give it an image")
    pillow = _pillow()
    try:
        image: Image.Image = pillow.Image.open(io.BytesIO(data))
    except Exception as error:  # as above
        raise _corrupt(where, error) from error
    return image


def _corrupt(where: str, error: Exception) -> BadImageError:
    reason = "no image format that Pillow knows" if "cannot identify" in str(error) else str(error)
    return BadImageError(f"{where} cannot be decoded ({reason}): replace or remove it")


def _coloured(image: "Image.Image") -> bool:
    return image.mode not in _GRAY_MODES and not image.mode.startswith("I;16")


def _opaque(image: Any) -> tuple["Image.Image", bool]:
    """The image without transparency, and whether it had any."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits, where one value may stand for transparent pixels
        values = np.asarray(image)
        clear = values == key if isinstance(key, int) else np.zeros(values.shape, dtype=bool)
        # Pillow's own conversion of 16 bits would clip at 255.
        pixels = np.where(clear, 255, (values.astype(np.int64) >> 8).clip(0, 255)).astype(np.uint8)
        return _pillow().Image.fromarray(pixels), bool(clear.any())
    palette = image.palette is not None and image.palette.mode.endswith("A")
    if image.mode not in _ALPHA_MODES and key is None and not palette:
        image.load()
        return image, False
    colors = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    lowest, highest = colors.getextrema()[-1]
    if lowest == 255:
        return colors.convert("RGB"), False
    pillow = _pillow().Image
    laid = pillow.alpha_composite(pillow.new("RGBA", colors.size, "white"), colors).convert("RGB")
    if lowest < highest and laid.getextrema() == ((255, 255),) * 3:  # white on nothing
        laid = pillow.alpha_composite(pillow.new("RGBA", colors.size, "black"), colors).convert("RGB")
    return laid, True


def _convert(image: "Image.Image", channels: int) -> "Image.Image":
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    return image if image.mode == mode else image.convert(mode)


def _resize(image: "Image.Image", geometry: Geometry) -> "Image.Image":
    height, width = geometry.size or (image.height, image.width)
    method = _pillow().Image.Resampling.BILINEAR
    if geometry.crop:
        return image.resize((width, height), method, box=geometry.crop(*image.size))
    if image.size == (width, height):
        return image
    if geometry.fit == "pad":
        padded: Image.Image = _pillow().ImageOps.pad(image, (width, height), method)
        return padded
    box = (0.0, 0.0, float(image.width), float(image.height))
    if geometry.fit == "crop":
        if image.width * height <= image.height * width:
            w, h = image.width * geometry.center, min(image.width * geometry.center * (height / width), image.height)
        else:
            w, h = min(image.height * geometry.center * (width / height), image.width), image.height * geometry.center
        left, top = (image.width - w) / 2, (image.height - h) / 2
        box = (left, top, left + w, top + h)
    return image.resize((width, height), method, box=box)
