import io

import numpy as np
import pytest
from data_files import picture
from PIL import Image

from superconv.data.reading.decode import Geometry, count_channels, decode
from superconv.errors import UserError


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(mode: str) -> Image.Image:
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("mode", "form", "channels"),
    [
        ("1", "PNG", 1),
        ("L", "PNG", 1),
        ("LA", "PNG", 1),
        ("P", "PNG", 3),
        ("RGB", "PNG", 3),
        ("RGBA", "PNG", 3),
        ("CMYK", "JPEG", 3),
        ("CMYK", "TIFF", 3),
        ("I;16", "PNG", 1),
        ("RGB", "WEBP", 3),
        ("RGB", "BMP", 3),
        ("L", "GIF", 3),
    ],
)
def test_every_kind_of_image_becomes_grey_or_colour(mode, form, channels):
    data = encoded(gradient(mode), form)
    assert count_channels(data, "it") == channels
    for wanted in (1, 3):
        pixels = decode(data, Geometry(wanted), "it")
        assert pixels.shape == (wanted, 4, 4)
        assert pixels.dtype == np.uint8


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 255, 256, 40_000, 65_535]], dtype=np.uint16)
    data = encoded(Image.fromarray(values))
    assert decode(data, Geometry(1), "it").tolist() == [[[0, 0, 1, 156, 255]]]
    assert decode(data, Geometry(3), "it")[2].tolist() == [[0, 0, 1, 156, 255]]


def test_a_palette_with_transparency_is_read_as_its_colours():
    image = gradient("RGB").convert("P")
    data = encoded(image, transparency=bytes(range(256)))
    assert np.array_equal(decode(data, Geometry(3), "it"), decode(encoded(image), Geometry(3), "it"))


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode(data, Geometry(3), "it").shape == (3, 8, 4)


def test_rows_columns_and_channels_keep_their_places():
    expected = np.arange(48).reshape(4, 4, 3).transpose(2, 0, 1) * 5
    assert np.array_equal(decode(encoded(gradient("RGB")), Geometry(3), "it"), expected)


def test_resizing_takes_the_centre():
    values = np.zeros((4, 12), dtype=np.uint8)
    values[:, 2:10] = 200
    assert (decode(encoded(Image.fromarray(values)), Geometry(1, 2), "it") == 200).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (None, "is empty"),
        (b"GIF89a", "cannot be decoded"),
        (b"text", "no image format"),
        (picture(3)[:45], "cannot be decoded"),
        (picture(3, (64, 64), form="JPEG")[:400], "cannot be decoded"),
        (encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"), "no known range"),
    ],
)
def test_what_is_no_image_is_named(data, reason):
    with pytest.raises(UserError, match=f"row 5 of x .*{reason}|row 5 of x {reason}"):
        decode(data, Geometry(3), "row 5 of x")
