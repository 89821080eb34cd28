"""Parquet files as people have them: names, columns and labels that differ between files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import pictures, refused, write_parquet

from superconv.data import load

CLASSES = ["cat", "dog"]


pytestmark = pytest.mark.usefixtures("own_cache")


def pairs(source):
    return list(zip(source.images[:, 0, 0, 0].tolist(), source.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    "name", ["train[1].parquet", "train*.parquet", "train?.parquet", "{train}.parquet", "train b#%41.parquet"]
)
def test_a_files_name_is_no_pattern(tmp_path, name):
    write_parquet(tmp_path / name, pictures(20), [0, 1] * 10)
    other = tmp_path / "other"  # a pattern would find these
    write_parquet(other / "train1.parquet", pictures(30), [0, 1] * 15)
    assert len(load(tmp_path / name, validation=0).train) == 18
    (other / "train1.parquet").rename(tmp_path / "test-1.parquet")
    data = load(tmp_path, validation=0)
    assert len(data.test) == 30


def without(path, column):
    pq.write_table(pq.read_table(path).drop_columns([column]), path)


def extended(path, column):
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, pa.array(["x"] * len(table))), path)


@pytest.mark.parametrize("shard", ["train-0.parquet", "train-1.parquet", "test-0.parquet"])
def test_a_column_that_nobody_needs_may_lack(tmp_path, shard):
    for name in ("train-0.parquet", "train-1.parquet", "test-0.parquet"):
        write_parquet(tmp_path / name, pictures(10), [0, 1] * 5, names=CLASSES)
        if name != shard:
            extended(tmp_path / name, "photographer")
    data = load(tmp_path, validation=0)
    assert (len(data.train), len(data.test)) == (20, 10)


@pytest.mark.parametrize("shard", ["train-0.parquet", "train-1.parquet"])
@pytest.mark.parametrize("column", ["image", "label"])
def test_a_needed_column_that_lacks_is_named(tmp_path, shard, column):
    for name in ("train-0.parquet", "train-1.parquet"):
        write_parquet(tmp_path / name, pictures(10), [0, 1] * 5)
    without(tmp_path / shard, column)
    assert f"{shard} lacks the column {column}, which other files of the set have" in refused(tmp_path)


def test_a_test_split_without_labels_is_unlabelled(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(20), [0, 1] * 10)
    write_parquet(tmp_path / "test-0.parquet", pictures(10), [0, 1] * 5)
    without(tmp_path / "test-0.parquet", "label")
    data = load(tmp_path, validation=0)
    assert (len(data.train), len(data.test)) == (18, 2)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (([0, 1] * 5, CLASSES), (["dog", "cat"], None)),
        ((["cat", "dog"] * 5, None), ([1, 0], CLASSES)),
        ((["cat", "dog"] * 5, None), ([0, 1], CLASSES[::-1])),
        (([0, 1] * 5, CLASSES), ([0, 1], CLASSES[::-1])),
        (([0, 1] * 5, CLASSES), ([1, 0], None)),
        ((["0", "1"] * 5, None), ([1, 0], None)),
    ],
)
def test_numbers_in_one_split_and_names_in_the_other_are_the_same_classes(tmp_path, train, test):
    write_parquet(tmp_path / "train-0.parquet", pictures(10), train[0], names=train[1])
    write_parquet(tmp_path / "test-0.parquet", pictures(2), test[0], names=test[1])
    data = load(tmp_path, validation=0)
    names = data.class_names
    first, second = CLASSES if "cat" in names else "01"
    assert [names[label] for _, label in pairs(data.train)] == [first, second] * 5
    assert [names[label] for _, label in pairs(data.test)] == [second, first]


def test_numbers_without_names_beside_names_are_refused(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(10), [0, 1] * 5)
    write_parquet(tmp_path / "test-0.parquet", pictures(2), ["dog", "cat"])
    assert "row 0 of test-0.parquet has the label 'dog', but training labels are numbers up to 1" in refused(tmp_path)
    write_parquet(tmp_path / "train-0.parquet", pictures(10), CLASSES * 5)
    write_parquet(tmp_path / "test-0.parquet", pictures(2), [1, 0])
    assert "row 0 of test-0.parquet has the label 1, which no training image has" in refused(tmp_path)


def test_shards_that_order_their_classes_otherwise_are_read_by_name(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", pictures(10), [0, 1] * 5, names=CLASSES)
    write_parquet(tmp_path / "train-1.parquet", pictures(10), [1, 0] * 5, names=CLASSES[::-1])
    assert json.loads(pq.read_schema(tmp_path / "train-1.parquet").metadata[b"huggingface"])
    write_parquet(tmp_path / "test-0.parquet", pictures(2), [0, 1], names=CLASSES)
    assert load(tmp_path, validation=0).train.labels.tolist() == [0, 1] * 10
