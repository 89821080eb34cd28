import io
import zlib

import numpy as np
import pytest
from data_files import picture
from PIL import Image

from superconv.data.reading.decode import Geometry, count_channels, decode, image_endings
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


def drawing(mode: str, ink: int = 0) -> Image.Image:
    """A picture whose upper left quarter is all that is not transparent, and whose colour is the same everywhere."""
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[:4, :4] = 255
    if mode == "P":
        image = Image.fromarray((alpha // 255).astype(np.uint8), "L").convert("P")
        image.putpalette([ink] * 6)
        return image
    layers = [Image.new("L", (8, 8), ink)] * (1 if mode == "LA" else 3)
    return Image.merge(mode, [*layers, Image.fromarray(alpha)])


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("P", "PNG")]
)
@pytest.mark.parametrize("ink", [0, 90, 255])
def test_a_picture_drawn_in_the_alpha_channel_only_is_seen(mode, form, ink):
    options = {"lossless": True} if form == "WEBP" else {"transparency": b"\x00\xff"} if mode == "P" else {}
    data = encoded(drawing(mode, ink), form, **options)
    for channels in (1, 3):
        pixels = decode(data, Geometry(channels), "it").astype(int)
        ground = 0 if ink == 255 else 255  # white on white would not be seen
        assert (pixels[:, :4, :4] == ink).all()
        assert (pixels[:, 4:] == ground).all()


def test_half_transparent_pixels_are_mixed_with_white():
    data = encoded(Image.new("RGBA", (2, 2), (0, 100, 200, 128)))
    assert decode(data, Geometry(3), "it")[:, 0, 0].tolist() == [127, 177, 227]


def test_a_grey_key_colour_of_any_depth_is_white():
    assert decode(
        encoded(Image.fromarray(np.array([[7, 9]], np.uint8)), transparency=7), Geometry(1), "it"
    ).tolist() == [[[255, 9]]]
    sixteen = encoded(Image.fromarray(np.array([[7 << 8, 9 << 8]], np.uint16)), transparency=7 << 8)
    assert decode(sixteen, Geometry(1), "it").tolist() == [[[255, 9]]]


def test_an_opaque_alpha_channel_changes_nothing():
    plain = gradient("RGB")
    image = plain.convert("RGBA")
    assert np.array_equal(decode(encoded(image), Geometry(3), "it"), decode(encoded(plain), Geometry(3), "it"))
    assert np.array_equal(decode(encoded(image), Geometry(1), "it"), decode(encoded(plain), Geometry(1), "it"))


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode(data, Geometry(3), "it").shape == (3, 8, 4)


def test_rows_columns_and_channels_keep_their_places():
    expected = np.arange(48).reshape(4, 4, 3).transpose(2, 0, 1) * 5
    assert np.array_equal(decode(encoded(gradient("RGB")), Geometry(3), "it"), expected)


def wide() -> Image.Image:
    """4×12 pixels: black, but for the middle 8 columns."""
    values = np.zeros((4, 12), dtype=np.uint8)
    values[:, 2:10] = 200
    return Image.fromarray(values)


def test_every_way_to_another_shape_keeps_what_it_promises():
    squash, pad, crop = (
        decode(encoded(wide()), Geometry(1, (12, 12), fit), "it")[0] for fit in ("squash", "pad", "crop")
    )
    assert [row.min() for row in squash[:, [0, 6, 11]].T] == [0, 200, 0]  # the whole width, at the whole height
    assert np.array_equal(pad[4:8], np.asarray(wide()))  # in its own shape
    assert pad[:4].max() == pad[8:].max() == 0
    assert (crop == 200).all()  # the centre


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (333, 97), (224, 224)])
def test_a_central_crop_of_any_size_lies_within_the_image(size):
    data = encoded(Image.new("L", size, 50))
    for center in (1.0, 7 / 8):
        for target in ((224, 224), (100, 30), (30, 100)):
            assert (decode(data, Geometry(1, target, "crop", center), "it") == 50).all()


def test_a_decompression_bomb_is_refused_in_one_line():
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="bomb") as caught:
        decode(bytes(data), Geometry(3), "it")
    assert "\n" not in str(caught.value)


def test_the_endings_of_pictures_are_those_that_pillow_reads():
    endings = image_endings()
    assert {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".tif",
        ".tiff",
        ".webp",
        ".bmp",
        ".gif",
        ".ppm",
        ".pgm",
    } <= endings
    assert not {".h5", ".mpg", ".eps", ".pdf", ".txt"} & endings


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
