"""Data sets on the Hugging Face hub."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv.data.arrow import ArrowImages, quiet, root_cause
from superconv.data.extra import require
from superconv.data.labels import encode_labels
from superconv.data.raw import Split, Table, class_names, image_column, label_column, split_of, unlabelled
from superconv.errors import UserError

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

    def open(self, wanted: str | None) -> Table:
        """See `Raw.open`."""
        train = self.splits["train"]
        features = train.features.to_dict()
        image = image_column(train.column_names, features, self.name)
        label = label_column(train.column_names, features, wanted, self.name)
        labels = {split: rows.select_columns([label])[:][label] for split, rows in self.splits.items()}
        labels = {split: rows for split, rows in labels.items() if split != "test" or not unlabelled(rows)}
        parts = {split: ((0, f"split {split} of {self.name}"),) for split in labels}
        names, encoded = encode_labels(
            labels, class_names(features[label]), lambda split, row: f"row {row} of {parts[split][0][1]}"
        )
        decode_later = require("datasets").Image(decode=False)
        images = {split: self.splits[split].cast_column(image, decode_later) for split in labels}
        return Table(names, {s: Split(ArrowImages(images[s], image, parts[s]), encoded[s]) for s in labels})


def fetch(name: str) -> HubSet:
    """Load a data set from the hub; without a network from the hub's local cache.

    Raises:
        UserError: if it is in neither, or has no training split.
    """
    datasets = require("datasets")
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
    hub, constants = require("huggingface_hub"), require("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        hub.utils.get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # of the client's network stack, which differs between versions; any answer would do
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    places = require("huggingface_hub.constants"), require("datasets").config
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
