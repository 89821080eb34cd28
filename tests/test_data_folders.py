import numpy as np
import pytest
import torch
from data_files import picture, pictures, refused, write_folder, write_parquet

from superconv.data import load
from superconv.data.reading import cache as cache_module

pytestmark = pytest.mark.usefixtures("own_cache")


def values(source):
    return source.images[:, 0, 0, 0].tolist(), source.labels.tolist()


def test_parquet_in_the_hub_layout(tmp_path):
    labels = [index % 2 for index in range(20)]
    write_parquet(tmp_path / "plain" / "train-00000-of-00002.parquet", pictures(10), labels[:10], names=["cat", "dog"])
    write_parquet(tmp_path / "plain" / "train-00001-of-00002.parquet", pictures(10), labels[10:], names=["cat", "dog"])
    write_parquet(tmp_path / "plain" / "test-00000-of-00001.parquet", pictures(4), [1, 1, 0, 0], names=["cat", "dog"])
    data = load(tmp_path, validation=0)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 5, 6)
    assert values(data.train) == ([5 * (i % 10) for i in range(20)], labels)
    assert values(data.test) == ([0, 5, 10, 15], [1, 1, 0, 0])
    assert data.notes == ()


def test_splits_by_folder_and_words_as_labels(tmp_path):
    write_parquet(tmp_path / "train" / "a.parquet", pictures(4), ["b", "a", "b", "a"])
    write_parquet(tmp_path / "valid" / "a.parquet", pictures(2), ["a", "b"])
    write_parquet(tmp_path / "test" / "a.parquet", pictures(2), ["b", "b"])
    data = load(tmp_path)
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert (len(data.validation), data.test.labels.tolist()) == (2, [1, 1])
    assert "validation split" in data.notes[0]
    assert load(tmp_path, validation=0).validation is None


def test_unlabelled_test_images_leave_the_validation_split_for_testing(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(20), [0, 1] * 10)
    write_parquet(tmp_path / "validation-0.parquet", pictures(2), [0, 1])
    write_parquet(tmp_path / "test-0.parquet", pictures(3), [-1, -1, -1])
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 2)
    assert "no labelled test split" in data.notes[0]


def test_a_set_without_test_split_gives_a_fixed_tenth_of_it(tmp_path):
    file = write_parquet(tmp_path / "all.parquet", pictures(40), [0, 1] * 20)
    first, second = load(file, seed=0), load(tmp_path, seed=1)
    assert (len(first.train), len(first.validation), len(first.test)) == (32, 4, 4)
    assert values(first.test) == values(second.test)
    assert "fixed tenth" in first.notes[0]


def test_image_folders_with_and_without_splits(tmp_path):
    plain = write_folder(tmp_path / "plain", {"cat": 10, "dog": 10})
    split = write_folder(tmp_path / "split", {"train/cat": 3, "train/dog/big": 3, "test/dog": 2})
    (split / "README.txt").write_text("no image")
    data = load(plain)
    assert (data.class_names, len(data.train), len(data.test)) == (("cat", "dog"), 16, 2)
    data = load(split, validation=0)
    assert values(data.train) == ([0, 5, 10] * 2, [0, 0, 0, 1, 1, 1])
    assert data.test.labels.tolist() == [1, 1]


@pytest.mark.parametrize(("modes", "shape"), [(["L"], (1, 5, 6)), (["RGB"], (3, 5, 6)), (["L", "L", "RGB"], (3, 5, 6))])
def test_a_few_images_decide_between_grey_and_colour(tmp_path, modes, shape):
    images = [picture(100 + i, mode=modes[i % len(modes)]) for i in range(12)]
    write_parquet(tmp_path / "train-0.parquet", images, [0, 1] * 6)
    write_parquet(tmp_path / "test-0.parquet", images, [0, 1] * 6)
    data = load(tmp_path, validation=0)
    assert data.image_shape == shape
    assert values(data.train)[0] == list(range(100, 112))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train-images", "test-images"),
        ("Train", "Test"),
    ],
)
def test_splits_are_told_by_a_word_of_their_folders_names(tmp_path, train, test):
    write_folder(tmp_path, {f"{train}/cat": 6, f"{train}/dog": 6, f"{test}/cat": 2, f"{test}/dog": 1})
    data = load(tmp_path, validation=0)
    assert (data.class_names, len(data.train), data.test.labels.tolist()) == (("cat", "dog"), 12, [0, 0, 1])


def test_classes_may_be_called_as_splits_are(tmp_path):
    vehicles = write_folder(tmp_path / "vehicles", {"train": 10, "car": 10, "test-car": 10})
    assert load(vehicles).class_names == ("car", "test-car", "train")
    stations = write_folder(tmp_path / "stations", {"train-station/inside": 10, "airport/inside": 10})
    assert load(stations).class_names == ("airport", "train-station")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({"train_images": 3, "test_images": 3}, "has no class folders: sort the images into test_images/<class>/"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "validation/a": 1}, "both hold validation images: rename one"),
        ({"test/a": 3, "val/a": 3}, "has no training images, only test, validation"),
    ],
)
def test_folders_that_leave_the_splits_open_are_refused(tmp_path, folders, says):
    assert says in refused(write_folder(tmp_path, folders))


@pytest.mark.parametrize(
    ("train", "test"),
    [("mnist_train", "mnist_test"), ("train_0", "test_0"), ("train", "test_0"), ("x-train", "x-test")],
)
def test_splits_are_told_by_a_word_of_their_files_names(tmp_path, train, test):
    write_parquet(tmp_path / f"{train}.parquet", pictures(20), [0, 1] * 10)
    write_parquet(tmp_path / f"{test}.parquet", pictures(4), [0, 1] * 2)
    data = load(tmp_path, validation=0)
    assert (len(data.train), len(data.test), data.notes) == (20, 4, ())


def test_a_folder_of_images_needs_no_label_column(tmp_path, monkeypatch):
    write_folder(tmp_path / "cifar100", {"train/apple": 3, "train/bee": 3, "test/bee": 1})
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path))
    assert load("cifar100", validation=0).class_names == ("apple", "bee")
    assert "leave out --label-column" in refused("cifar100", label_column="fine_label")


def test_images_are_brought_to_one_size(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [picture(50, (8, 6)), picture(90, (20, 30))] * 10, [0, 1] * 10)
    message = refused(tmp_path)
    assert "row 1 of train-0.parquet is 30×20" in message
    assert "--image-size 6" in message
    data = load(tmp_path, image_size=4)
    assert data.image_shape == (3, 4, 4)
    assert set(values(data.train)[0]) == {50, 90}


def test_links_are_followed(tmp_path, monkeypatch):
    target = write_folder(tmp_path / "far", {"cat": 10, "dog": 10})
    (tmp_path / "sets" / "split" / "train").mkdir(parents=True)
    (tmp_path / "sets" / "pets").symlink_to(target)
    for name in ("cat", "dog"):
        (tmp_path / "sets" / "split" / "train" / name).symlink_to(target / name)
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path / "sets"))
    assert len(load("pets").test) == 2
    assert len(load("split").test) == 2


def test_the_label_column_can_be_named(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(20), [0, 1] * 10, column="kind")
    assert "no label column; name it with --label-column. Columns: image, kind" in refused(tmp_path)
    assert "no column 'sort'" in refused(tmp_path, label_column="sort")
    assert load(tmp_path, label_column="kind").class_names == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, None, 0], None, "row 2 of train-0.parquet has no label"),
        ([0.0, 1.0, 1.0, float("nan")], None, "row 3 of train-0.parquet has no label"),
        ([0.0, 0.5, 1.0, 1.0], None, "row 1 of train-0.parquet has the label 0.5"),
        ([0, 1, 7, 0], None, "row 2 of train-0.parquet has the label 7, which is out of range"),
        ([0, -1, 1, 0], None, "row 1 of train-0.parquet has the label -1, which is out of range"),
        ([0, 1, 0, 2], ["cat", "dog"], "row 3 of train-0.parquet has the label 2, which is out of range"),
        ([1, 1, 1, 1], ["cat", "dog"], "of one class (dog)"),
        (["a", "a", "a", "a"], None, "of one class (a)"),
        (["a", "", "b", "a"], None, "row 1 of train-0.parquet has no label"),
    ],
)
def test_bad_labels_are_named(tmp_path, labels, names, message):
    write_parquet(tmp_path / "train-0.parquet", pictures(4), labels, names=names)
    assert message in refused(tmp_path)


def test_a_label_that_training_does_not_have_is_named(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(4), ["a", "b"] * 2)
    write_parquet(tmp_path / "test-0.parquet", pictures(2), ["b", "c"])
    assert "row 1 of test-0.parquet has the label 'c', which no training image has" in refused(tmp_path)


@pytest.mark.parametrize("data", [b"no image", picture(7, (60, 50), form="JPEG")[:300], None, b""])
def test_a_corrupt_image_in_a_table_is_named(tmp_path, data):
    write_parquet(tmp_path / "train-0.parquet", pictures(3, size=(60, 50)), [0, 1, 0])
    write_parquet(tmp_path / "train-1.parquet", [*pictures(2, size=(60, 50)), data], [0, 1, 0])
    assert "image in row 2 of train-1.parquet" in refused(tmp_path)


def test_a_corrupt_image_in_a_folder_is_named(tmp_path):
    write_folder(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "dog" / "001.png").write_bytes(picture(9)[:40])
    message = refused(tmp_path)
    assert str(tmp_path / "dog" / "001.png") in message
    assert "replace or remove it" in message


def test_a_link_to_nothing_is_named(tmp_path):
    write_folder(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "dog" / "003.png").symlink_to(tmp_path / "gone.png")
    assert f"{tmp_path / 'dog' / '003.png'} cannot be read" in refused(tmp_path)


def test_folders_with_nothing_to_use(tmp_path):
    assert "is empty" in refused(tmp_path)
    (tmp_path / "notes.csv").write_text("a,b\n")
    assert "no parquet files and no images" in refused(tmp_path)
    assert "is no folder and no parquet file" in refused(tmp_path / "notes.csv")
    (tmp_path / "x.png").write_bytes(picture(1))
    assert "no class folders" in refused(tmp_path)
    write_folder(tmp_path, {"cat": 3, "dog": 0})
    assert f"class folder {tmp_path / 'dog'} holds no images" in refused(tmp_path)


def test_image_folders_have_no_label_column(tmp_path):
    assert "leave out --label-column" in refused(write_folder(tmp_path, {"a": 9, "b": 9}), label_column="x")
    assert "of one class (a)" in refused(write_folder(tmp_path / "one", {"a": 9}))


def test_broken_parquet_files_are_named(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(4), [0, 1] * 2)
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1 and nothing more")
    assert "train-1.parquet is no readable parquet file" in refused(tmp_path)
    write_parquet(tmp_path / "train-1.parquet", pictures(4), [0, 1] * 2, column="kind")
    assert "train-1.parquet lacks the column label" in refused(tmp_path)
    (tmp_path / "train-1.parquet").unlink()
    (tmp_path / "train-0.parquet").rename(tmp_path / "test-0.parquet")
    assert "no training files, only test" in refused(tmp_path)


def test_a_parquet_file_without_images_or_rows(tmp_path):
    file = write_parquet(tmp_path / "train-0.parquet", [], [], names=["a", "b"])
    assert "has no rows" in refused(tmp_path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"pixels": [1, 2], "label": [0, 1]}), file)
    assert "no image column; call it 'image'. Columns: pixels, label" in refused(tmp_path)
    pq.write_table(pa.table({"image": [1.5, 2.5], "label": [0, 1]}), file)
    assert "column 'image'" in refused(tmp_path)


def entries():
    return list(cache_module.cache_folder().glob("*.npz"))


def test_decoded_images_are_kept_and_a_changed_file_is_noticed(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "set", {"cat": 10, "dog": 10})
    first = load(folder)
    (entry,) = entries()
    monkeypatch.setattr("superconv.data.images.decode_all", lambda *_: pytest.fail("decoded although cached"))
    again = load(folder)
    assert torch.equal(first.train.images, again.train.images)
    assert (first.class_names, first.notes) == (again.class_names, again.notes)
    monkeypatch.undo()
    monkeypatch.setenv("SUPERCONV_CACHE", str(entry.parent))
    for path in (folder / "cat").iterdir():
        path.write_bytes(picture(255))
    assert 255 in values(load(folder).train)[0]
    assert len(entries()) == 2


@pytest.mark.parametrize("damage", [b"", b"rubbish", "half", "pickle"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    folder = write_folder(tmp_path, {"cat": 10, "dog": 10})
    expected = load(folder)
    (entry,) = entries()
    whole = entry.read_bytes()
    if damage == "pickle":
        np.savez(entry, meta=np.array([object()], dtype=object))
    else:
        entry.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    assert torch.equal(load(folder).train.images, expected.train.images)
    assert entry.stat().st_size == len(whole)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    write_parquet(tmp_path / "set" / "train-0.parquet", pictures(20), [0, 1] * 10)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load(tmp_path / "set").train) == 16


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder", {"cat": 10, "dog": 10})
    write_parquet(tmp_path / "table" / "train-0.parquet", pictures(20), [0, 1] * 10)
    import sys

    for name in ("PIL.Image", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'superconv[data]'" in refused(folder)
    assert "pip install 'superconv[data]'" in refused(tmp_path / "table")


@pytest.mark.parametrize(
    ("name", "shape", "column"), [("cifar10", (3, 32, 32), "img"), ("mnist", (1, 28, 28), "image")]
)
def test_real_sets(shared_data, tmp_path, name, shape, column):
    """The first 300 rows of each split, in the files' own layout."""
    import pyarrow.parquet as pq

    for file in (shared_data / name).rglob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 300), tmp_path / file.name)
    data = load(tmp_path)
    assert (data.image_shape, len(data.class_names)) == (shape, 10)
    assert (len(data.train), len(data.validation), len(data.test)) == (270, 30, 300)
    assert all(0.1 < value < 0.6 for value in (*data.mean, *data.std))
