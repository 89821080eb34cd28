"""Data sets on the Hugging Face hub."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv.data.reading.arrow import quiet, read_table, root_cause
from superconv.data.reading.table import Table, split_of
from superconv.errors import UserError
from superconv.optional import needs

_log = logging.getLogger(__name__)
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class HubSet:
    """A data set that was fetched from the hub, or found in the hub's own cache.

    Attributes:
        name: ``owner/name``.
        splits: a `datasets.Dataset` for each split that is used.
    """

    name: str
    splits: dict[str, Any]

    def files(self) -> list[tuple[str, Path]]:
        """See `Raw.files`; the memory-mapped copies."""
        return [
            (f"{split}/{Path(file['filename']).name}", Path(file["filename"]))
            for split, rows in self.splits.items()
            for file in rows.cache_files
        ]

    @property
    def where(self) -> str:
        """See `ArrowSource.where`."""
        return self.name

    @property
    def folders(self) -> tuple[Path, ...]:
        """See `ArrowSource.folders`; those of the hub's own cache."""
        config, constants = _datasets().config, _hub().constants
        return tuple(map(Path, (constants.HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH)))

    @property
    def notes(self) -> tuple[str, ...]:
        """See `ArrowSource.notes`."""
        return ()

    def open(self, label_column: str | None) -> Table:
        """See `Raw.open`."""
        return read_table(self, label_column)

    def schema(self) -> tuple[Sequence[str], Mapping[str, Any]]:
        """See `ArrowSource.schema`."""
        train = self.splits["train"]
        return train.column_names, train.features.to_dict()

    def labels(self, split: str, column: str) -> tuple[list[Any], list[tuple[int, str]]]:
        """See `ArrowSource.labels`."""
        values = self.splits[split].select_columns([column])[:][column]
        return list(values), [(0, f"split {split} of {self.name}")]

    def images(self, splits: Sequence[str], column: str) -> Mapping[str, Any]:
        """See `ArrowSource.images`."""
        decode_later = _datasets().Image(decode=False)
        return {split: self.splits[split].cast_column(column, decode_later) for split in splits}


def fetch(name: str) -> HubSet:
    """Load a data set from the hub; without a network from the hub's local cache.

    Raises:
        UserError: if it is in neither, or has no training split.
    """
    datasets = _datasets()
    reachable = _reachable()
    _log.info("loading %s from the Hugging Face hub%s", name, "" if reachable else "'s local cache (no network)")
    try:
        with quiet(), contextlib.nullcontext() if reachable else _offline():
            loaded = datasets.load_dataset(name)
    except Exception as error:  # datasets, the hub's client and its network stack raise errors of their own
        raise UserError(_failure(name, reachable, error)) from error
    named = sorted(loaded, key=lambda split: split == split_of(split))  # of `val` and `validation` the latter is taken
    splits = {role: loaded[split] for split in named if (role := split_of(split)) is not None}
    if "train" not in splits:
        raise UserError(f"{name} has no train split, only {', '.join(loaded)}: choose another data set")
    return HubSet(name, splits)


def _failure(name: str, reachable: bool, error: Exception) -> str:
    local = (
        "put its parquet files into a folder and give that folder, or set SUPERCONV_DATA to the folder that holds it"
    )
    if not reachable:
        return f"{name} is not on this machine and the Hugging Face hub cannot be reached: {local}"
    if type(error).__name__ == "DatasetNotFoundError":
        reason = str(error).splitlines()[0]
        return f"{name} is no local folder, and on the Hugging Face hub: {reason} (gated or private: hf auth login)"
    return f"{name} cannot be loaded from the Hugging Face hub ({root_cause(error)}): try again, or {local}"


def _reachable() -> bool:
    """Ask the hub once: `datasets` by itself would try for half a minute."""
    hub, constants = _hub(), _hub().constants
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        hub.utils.get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # of the client's network stack, which differs between versions; any answer would do
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    places = _hub().constants, _datasets().config
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _datasets() -> Any:
    with needs("data", "this data set"):
        import datasets
    return datasets


def _hub() -> Any:
    with needs("data", "this data set"):
        import huggingface_hub
        import huggingface_hub.constants
    return huggingface_hub
