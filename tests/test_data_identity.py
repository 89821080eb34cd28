"""A set is known by its content, and each of its images by what it is, not by its path."""

import os
import shutil

import pytest
from data_files import pictures, refused, write_folder, write_parquet

from superconv.data import load
from superconv.data.reading import cache as cache_module

pytestmark = pytest.mark.usefixtures("own_cache")


def values(source):
    """(pixel, label) of each image."""
    (inputs, labels), *_ = source.batches([(all_of(source) * 0, all_of(source))], seed=0, augment=False)
    return inputs[:, 0, 0, 0].tolist(), labels.tolist()


def all_of(source):
    import torch

    return torch.arange(len(source))


@pytest.mark.parametrize("hashed", [2**32, 0])
@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_a_file_replaced_with_its_old_time_is_read_anew(tmp_path, monkeypatch, resident_bytes, hashed):
    monkeypatch.setattr(cache_module, "_HASHED", hashed)  # 0: as for files too large to be hashed at every start
    options = {"validation": 0, "normalization": "scale", "resident_bytes": resident_bytes, "workers": 0}
    place = tmp_path / "set" / "train-0.parquet"
    first = write_parquet(tmp_path / "first.parquet", pictures(20), [0, 1] * 10)
    second = write_parquet(tmp_path / "second.parquet", pictures(20)[::-1], [1, 0] * 10)
    os.utime(second, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    place.parent.mkdir()
    for source, order in ((first, 1), (second, -1)):
        shutil.copy2(source, place)  # cp -p
        assert place.stat().st_mtime_ns == first.stat().st_mtime_ns
        data = load(place, **options)
        pixels, labels = values(data.train)
        expected = dict(zip([i * 5 for i in range(20)], [0, 1] * 10, strict=True))
        assert {
            round(pixel * 256): label for pixel, label in zip(pixels, labels, strict=True)
        }.items() <= expected.items()
        assert pixels == sorted(pixels)[::order]


def test_images_beside_a_table_are_read_anew_when_they_change(tmp_path):
    """The table only names them: it does not change with them."""
    files = [f"{i}.png" for i in range(20)]
    for name, data in zip(files, pictures(20), strict=True):
        (tmp_path / name).write_bytes(data)
    write_named(tmp_path / "train.parquet", files)
    assert load(tmp_path, validation=0, normalization="scale").train.images.max() < 100
    for name in files:
        (tmp_path / name).write_bytes(pictures(52)[51])
    assert load(tmp_path, validation=0, normalization="scale").train.images.min() == 255


def write_named(path, names):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": None, "path": str(name)} for name in names]
    table = {"image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    pq.write_table(pa.table(table | {"label": [i % 2 for i in range(len(names))]}), path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "outside.png", "link.png"])
def test_a_row_names_regular_files_in_the_sets_folder_only(tmp_path, target):
    folder = tmp_path / "set"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (tmp_path / "outside.png").write_bytes(pictures(1)[0])
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "good.png").write_bytes(pictures(1)[0])
    name = str(tmp_path / target) if target == "outside.png" else target
    write_named(folder / "train.parquet", ["good.png", name, "good.png", "good.png"])
    message = refused(folder)
    assert "row 1 of train.parquet is the file" in message or "pipe is no regular file" in message


def test_a_set_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    from superconv.data import images

    folder = write_folder(tmp_path, {"cat": 10, "dog": 10})
    decode = images.decode_table

    def change_and_decode(*arguments):
        (folder / "cat" / "003.png").write_bytes(pictures(52)[51])
        return decode(*arguments)

    monkeypatch.setattr(images, "decode_table", change_and_decode)
    assert "003.png changed while it was read: start again" in refused(folder)
    assert not list(cache_module.cache_folder().glob("*.npz"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("loops", [1, 2])
def test_links_in_a_circle_add_no_images(tmp_path, loops):
    folder = write_folder(tmp_path / "set", {"train/cat": 6, "train/dog": 6, "test/cat": 3, "test/dog": 3})
    for place in ("train/cat", "train/dog")[:loops]:
        (folder / place / "loop").symlink_to(folder)
        (folder / place / "up").symlink_to("..")
    data = load(folder, validation=0)
    assert (len(data.train), len(data.test)) == (12, 6)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert sum("taken already" in note for note in data.notes) == 1


def test_a_link_into_another_class_does_not_take_its_images(tmp_path):
    folder = write_folder(tmp_path, {"cat": 10, "dog": 10})
    (folder / "cat" / "aaa").symlink_to(folder / "dog")
    (folder / "cat" / "000-link.png").symlink_to(folder / "dog" / "003.png")
    os.link(folder / "dog" / "004.png", folder / "dog" / "zzz.png")
    data = load(folder, validation=0)
    assert len(data.train) + len(data.test) == 20
    note = next(note for note in data.notes if "taken already" in note)
    assert note.startswith("3 links or names were left out")


def test_class_folders_may_be_links_to_a_folder_beside_the_splits(tmp_path):
    folder = write_folder(tmp_path, {"all/cat": 6, "all/dog": 6, "test/cat": 3, "test/dog": 3})
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / "train" / name).symlink_to(folder / "all" / name)
    assert len(load(folder, validation=0).train) == 12


@pytest.mark.timeout(60)
def test_pipes_and_devices_among_images_are_left_out_with_a_note(tmp_path):
    folder = write_folder(tmp_path, {"cat": 10, "dog": 10})
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "dog" / "zero.png").symlink_to("/dev/zero")
    data = load(folder, validation=0)
    assert len(data.train) + len(data.test) == 20
    assert any(note.startswith("2 pipes, devices or sockets beside the images were left out") for note in data.notes)
    os.mkfifo(tmp_path / "train.parquet")
    assert "is no folder and no parquet file" in refused(tmp_path / "train.parquet")
    assert len(load(folder, validation=0).train) == 18


def test_a_huge_file_is_no_image(tmp_path):
    folder = write_folder(tmp_path, {"cat": 10, "dog": 10})
    with (folder / "cat" / "004.png").open("wb") as file:
        file.truncate(2**30)  # takes no room on the disk
    assert "004.png has 1,073,741,824 bytes, more than 536,870,912: replace or remove it" in refused(folder)
