"""Fixtures: real data and the author's logs, where a machine has them."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples every time, however slow the machine: a change is what fails a test, not chance.
settings.register_profile("superconv", deadline=None, derandomize=True)
settings.load_profile("superconv")

# The networks here are tiny: more threads only wait for each other. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What one suite has cached, another version may not read; and whose data a name means is not the user's business here.
if "PYTEST_XDIST_WORKER" not in os.environ:  # whose workers share the folder
    _CACHE = tempfile.TemporaryDirectory(prefix="superconv-tests-")
    os.environ["SUPERCONV_CACHE"] = _CACHE.name
os.environ.pop("SUPERCONV_DATA", None)

# A job that a script puts in the background ignores SIGINT, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(os.environ.get("SUPERCONV_SHARED", Path(__file__).parents[2] / "shared"))


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"{path} is absent (set SUPERCONV_SHARED to the folder that holds {folder})")
    return path


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch) -> None:
    """A cache of data sets that no other test has filled."""
    from superconv.data.reading import parquet

    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
    parquet._arrow_folder.cache_clear()


@pytest.fixture(scope="session")
def shared_logs() -> Path:
    """The author's Caffe logs as CSV, with INDEX.csv."""
    return _shared("paper/logs")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """CIFAR-10 and MNIST as parquet folders."""
    return _shared("data")
