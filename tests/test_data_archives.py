"""Image folders as people have them: unpacked archives, other endings, files of other kinds."""

import io

import numpy as np
import pytest
from data_files import picture, refused, write_folder
from PIL import Image

from superconv.data import load
from superconv.data.reading.decode import image_endings

pytestmark = pytest.mark.usefixtures("own_cache")


def counts(path, **options):
    data = load(path, validation=0, **options)
    return data.class_names, len(data.train) + len(data.test)


@pytest.mark.parametrize(
    "top", ["", "flowers/", "flowers/flowers/", "flowers-test/train/", "flowers/train/", "train/all/"]
)
def test_what_an_archive_leaves_is_no_class_and_its_top_folder_is_passed_through(tmp_path, top):
    write_folder(tmp_path, {f"{top}rose": 10, f"{top}tulip": 10, f"__MACOSX/{top}rose": 3, f"{top}.thumbnails": 1})
    for junk in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (tmp_path / top / "rose" / junk).write_bytes(b"junk")
        (tmp_path / junk).write_bytes(b"junk")
    assert counts(tmp_path) == (("rose", "tulip"), 20)
    assert len(load(tmp_path).notes) == 1  # of the test split that it lacks


def test_splits_below_a_top_folder_are_found(tmp_path):
    write_folder(
        tmp_path, {"pets/train/img/cat": 6, "pets/train/img/dog": 6, "pets/test/img/cat": 2, "pets/test/img/dog": 1}
    )
    data = load(tmp_path, validation=0)
    assert (data.class_names, len(data.train), data.test.labels.tolist()) == (("cat", "dog"), 12, [0, 0, 1])


def test_a_test_split_of_one_class_keeps_its_class(tmp_path):
    write_folder(tmp_path, {"train/cat": 6, "train/dog": 6, "test/dog/big": 2})
    assert load(tmp_path, validation=0).test.labels.tolist() == [1, 1]


def test_one_class_folder_gets_advice_about_folders(tmp_path):
    message = refused(write_folder(tmp_path, {"flowers": 9}))
    assert "of one class (flowers)" in message
    assert f"sort the images in {tmp_path} into one folder for each class" in message
    assert "--label-column" not in message


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".JPG", ".tif", ".avif", ".pnm", ".tga", ".jp2"])
def test_every_ending_that_pillow_reads_is_read(tmp_path, ending):
    if ending.lower() not in image_endings():
        pytest.skip(f"this Pillow reads no {ending}")
    write_folder(tmp_path, {"cat": 10, "dog": 10})
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 6, 3), 128, np.uint8)).save(buffer, Image.registered_extensions()[ending.lower()])
    (tmp_path / "cat" / f"more{ending}").write_bytes(buffer.getvalue())
    assert counts(tmp_path) == (("cat", "dog"), 21)


def test_files_that_are_not_read_are_counted_in_a_note(tmp_path):
    write_folder(tmp_path, {"train/cat": 10, "train/dog": 10, "test/dog": 2})
    for name in ("train/cat/a.xyz", "train/cat/b.xyz", "test/dog/list.txt"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "train" / "loose.png").write_bytes(picture(1))
    (tmp_path / "README.txt").write_text("beside the classes, and no image")
    for _ in range(2):  # the second time out of the cache, which does not know of these files
        notes = load(tmp_path, validation=0).notes
        assert [note.split(":")[0] for note in notes] == [
            "3 files beside the images were left out",
            "1 images were left out",
        ]
        assert ".xyz 2, .txt 1" in notes[0]
    (tmp_path / "train" / "loose.png").unlink()
    assert len(load(tmp_path, validation=0).notes) == 1


def test_a_folder_of_unknown_pictures_says_so(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.xyz").write_bytes(b"something")
    assert "no images that Pillow reads, 1 files are of other kinds (.xyz 1)" in refused(tmp_path)


@pytest.mark.parametrize("odd", range(13))
def test_one_colour_image_among_grey_ones_is_read_in_colour(tmp_path, odd):
    write_folder(tmp_path, {"train/cat": 7, "train/dog": 6, "test/cat": 2}, mode="L")
    colour = np.zeros((5, 6, 3), np.uint8)
    colour[..., 2] = 200
    place = tmp_path / "train" / ("cat" if odd < 7 else "dog") / f"{odd % 7:03}.png"
    Image.fromarray(colour).save(place)
    data = load(tmp_path, validation=0)
    assert data.image_shape == (3, 5, 6)
    assert data.train.images[odd, :, 0, 0].tolist() == [0, 0, 200]
    assert data.notes[0].startswith("1 of 13 training images have colour")


def test_colour_in_the_test_split_alone_is_turned_grey_with_a_note(tmp_path):
    write_folder(tmp_path, {"train/cat": 7, "train/dog": 6}, mode="L")
    write_folder(tmp_path, {"test/cat": 2})
    data = load(tmp_path, validation=0)
    assert data.image_shape == (1, 5, 6)
    assert data.notes == ("2 of 15 images have colour, but no training image has: they are turned grey",)


def test_a_streamed_set_looks_at_many_images_for_colour(tmp_path):
    write_folder(tmp_path, {"train/cat": 7, "train/dog": 6, "test/cat": 2}, mode="L")
    assert "colour in others is turned grey" in load(tmp_path, validation=0, resident_bytes=0).notes[-1]
    (tmp_path / "train" / "cat" / "001.png").write_bytes(picture(7))
    data = load(tmp_path, validation=0, resident_bytes=0, workers=0)
    assert (data.image_shape, data.train.shape) == ((3, 5, 6),) * 2
    assert data.notes[-1].startswith("1 of 13 training images looked at have colour")
