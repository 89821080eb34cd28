"""Images that cannot be decoded, and sets of a few images."""

import dataclasses
from pathlib import Path

import pytest
import tyro
from data_files import picture, pictures, refused, write_folder, write_parquet

from superconv.commands import options
from superconv.data import load
from superconv.report.words import score

pytestmark = pytest.mark.usefixtures("own_cache")


def damaged(root: Path) -> list[str]:
    """A folder of 24 images of which five are none, each in its way; the damaged ones."""
    write_folder(root, {"train/cat": 10, "train/dog": 10, "test/cat": 2, "test/dog": 2}, size=(60, 50))
    whole = (root / "train/cat/005.png").read_bytes()
    (root / "train/cat/000.png").write_bytes(b"")
    (root / "train/cat/005.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/dog/009.png").write_bytes(b"<html>not found</html>")
    (root / "test/dog/000.png").unlink()
    (root / "test/dog/000.png").symlink_to(root / "gone.png")
    (root / "test/cat/001.png").write_bytes(whole[:20])
    return ["train/cat/000.png", "train/cat/005.png", "train/dog/009.png", "test/dog/000.png", "test/cat/001.png"]


def test_all_corrupt_images_are_reported_at_once(tmp_path):
    names = damaged(tmp_path)
    message = refused(tmp_path)
    assert message.startswith("5 of 24 images cannot be decoded: replace or remove them, or leave such images out")
    assert "--skip-corrupt" in message
    assert sum(str(tmp_path / name) in message for name in names) == 3
    assert message.endswith("and 2 more")


def test_corrupt_images_can_be_skipped_with_their_labels(tmp_path):
    damaged(tmp_path)
    for _ in range(2):  # the second time out of the cache
        data = load(tmp_path, skip_corrupt=True, validation=0)
        assert data.train.images[:, 0, 0, 0].tolist() == [5, 10, 15, 20, 30, 35, 40, 45, *range(0, 45, 5)]
        assert data.train.labels.tolist() == [0] * 8 + [1] * 9
        assert (data.test.images[:, 0, 0, 0].tolist(), data.test.labels.tolist()) == ([0, 5], [0, 1])
        assert data.notes[0].startswith("5 of 24 images cannot be decoded and were left out: ")
    assert "5 of 24" in refused(tmp_path)  # the cache of the one is not that of the other


def test_corrupt_rows_of_a_table_can_be_skipped(tmp_path):
    images = [*pictures(10), None, b"rubbish", *pictures(10)]
    write_parquet(tmp_path / "train.parquet", images, [0] * 11 + [1] * 11)
    message = refused(tmp_path)
    assert "2 of 22 images cannot be decoded" in message
    assert "image in row 10 of train.parquet is empty; image in row 11 of train.parquet cannot be decoded" in message
    data = load(tmp_path, skip_corrupt=True, validation=0)
    assert len(data.train) + len(data.test) == 20


def test_skipping_leaves_no_split_and_no_class_empty(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 1})
    (folder / "test" / "cat" / "000.png").write_bytes(b"rubbish")
    assert "no image of the test split can be decoded" in refused(folder, skip_corrupt=True)
    (folder / "test" / "cat" / "000.png").write_bytes(picture(4))
    for file in (folder / "train" / "dog").iterdir():
        file.write_bytes(b"rubbish")
    assert "no training image of class dog can be decoded" in refused(folder, skip_corrupt=True)
    for file in (folder / "train" / "cat").iterdir():
        file.write_bytes(b"rubbish")
    assert "none of the 6 training images can be decoded" in refused(folder, skip_corrupt=True)


def test_a_streamed_set_skips_nothing(tmp_path):
    damaged(tmp_path)
    assert "--skip-corrupt needs all images in memory" in refused(tmp_path, skip_corrupt=True, resident_bytes=0)
    assert "3 of 20 images cannot be decoded: replace or remove them. " in refused(
        tmp_path, resident_bytes=0, validation=0
    )


@pytest.mark.parametrize(
    ("word", "amount", "count"), [("1", 1, 1), ("20", 20, 20), ("0.5", 0.5, 718), ("0", 0, None), ("2e2", 200, 200)]
)
def test_validation_on_the_command_line_is_a_number_or_a_share(word, amount, count):
    task = tyro.cli(options.TaskOptions, args=["digits", "--validation", word], config=(tyro.conf.OmitArgPrefixes,))
    assert task.validation == amount
    held_out = load("digits", validation=task.validation).validation
    assert held_out is None if count is None else len(held_out) == count


def test_a_validation_of_one_point_nothing_is_refused_as_ambiguous():
    task = tyro.cli(options.TaskOptions, args=["digits", "--validation", "1.0"], config=(tyro.conf.OmitArgPrefixes,))
    assert "give 1 for one image, or a fraction below 1" in refused("digits", validation=task.validation)
    assert dataclasses.asdict(task)["validation"] == 1.0


@pytest.mark.parametrize(
    ("value", "samples", "words"),
    [(0.0, 1, "0 of 1 (0.00 %)"), (2 / 3, 199, "133 of 199 (66.67 %)"), (0.5, 200, "50.00 %"), (0.5, None, "50.00 %")],
)
def test_an_accuracy_of_a_few_images_is_a_count(value, samples, words):
    assert score("accuracy", value, samples).replace("\u202f", " ") == words
    assert score("loss", value, samples) == f"{value:.4g}"
