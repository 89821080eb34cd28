import os
import subprocess
import sys

import pytest
from data_files import pictures, write_folder, write_parquet

from superconv.data import images, load
from superconv.data.reading import hub
from superconv.data.reading.catalog import locate
from superconv.data.reading.whole import Reading
from superconv.errors import UserError


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("SUPERCONV_DATA", raising=False)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "ylecun/mnist"),
        ("fashion_mnist", "zalando-datasets/fashion_mnist"),
        ("cifar10", "uoft-cs/cifar10"),
        ("cifar100", "uoft-cs/cifar100"),
        ("imagenet-1k", "ILSVRC/imagenet-1k"),
        ("somebody/pets", "somebody/pets"),
    ],
)
def test_names_on_the_hub(name, place):
    assert locate(name).hub == place


def test_the_collection_is_looked_up_first_and_exactly(tmp_path, monkeypatch):
    (tmp_path / "cifar100").mkdir()
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path))
    found = locate("cifar100")
    assert (found.path, found.hub, found.label_column) == (tmp_path / "cifar100", None, "fine_label")
    assert locate("cifar10").hub == "uoft-cs/cifar10"


def test_cifar100_takes_its_fine_labels(tmp_path, monkeypatch):
    write_parquet(tmp_path / "cifar100" / "train-0.parquet", pictures(20), [0, 1] * 10, column="fine_label")
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path))
    assert len(load("cifar100").train) == 16


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "did you mean cifar10"),
        ("fashion-mnist", "did you mean fashion_mnist"),
        ("digit", "did you mean digits"),
        ("pest", "did you mean pets"),
        ("{tmp}/pest", "did you mean {tmp}/pets"),
        ("qqqqqq", "give one of digits, mnist"),
        ("~nobody-of-that-name/pets", "give one of digits, mnist"),
        ("", "give one of digits, mnist"),
    ],
)
def test_unknown_names_get_suggestions(tmp_path, monkeypatch, name, hint):
    write_folder(tmp_path / "pets", {"cat": 1})
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load(name.format(tmp=tmp_path))
    assert hint.format(tmp=tmp_path) in str(caught.value)


def test_a_wrong_collection_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERCONV_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"SUPERCONV_DATA=.*nowhere is no folder"):
        load("mnist")


def test_without_a_network_the_way_out_is_said(tmp_path):
    """In a process of its own, with a hub whose port is closed."""
    code = (
        "import superconv.data, superconv.errors\n"
        "try: superconv.data.load('mnist')\n"
        "except superconv.errors.UserError as error: print(error)\n"
        "import datasets, huggingface_hub.constants as c\n"
        "print(c.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled())"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    first, second = done.stdout.splitlines()
    assert first.startswith("ylecun/mnist is not on this machine and the Hugging Face hub cannot be reached: ")
    assert "SUPERCONV_DATA" in first
    assert second == "False False False"
    assert done.stderr == ""


def test_a_fetched_set_is_read_like_a_local_one(tmp_path):
    """What the hub hands over is a `datasets.DatasetDict`: a real one, made from a local file."""
    import datasets

    names = ["cat", "dog"]
    files = {
        "train": str(write_parquet(tmp_path / "train-0.parquet", pictures(20), [0, 1] * 10, names=names)),
        "test": str(write_parquet(tmp_path / "test-0.parquet", pictures(4), [-1] * 4, names=names)),
        "validation": str(write_parquet(tmp_path / "validation-0.parquet", pictures(4), [1] * 4, names=names)),
    }
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    found = hub.HubSet("owner/pets", dict(loaded))
    assert [path.suffix for _, path in found.files()] == [".arrow"] * 3
    table = found.open(None)
    assert table.class_names == ("cat", "dog")
    assert sorted(table.splits) == ["train", "validation"]
    assert table.splits["train"].images.read([0, 3]) == [pictures(4)[0], pictures(4)[3]]
    assert table.splits["validation"].labels.tolist() == [1] * 4
    in_memory = hub.HubSet("owner/pets", {s: rows.map(lambda r: r, keep_in_memory=True) for s, rows in loaded.items()})
    assert images._key(in_memory, None, Reading(), 2**30) is None  # nothing would tell it from another set
    with pytest.raises(UserError, match="owner/pets has no column 'breed'"):
        found.open("breed")
