"""The embedded data set: 1,797 handwritten digits, 8×8 pixels (see ``digits.md`` for source and licence)."""

from importlib.resources import as_file, files

import numpy as np

from superconv.data.reading.cache import Decoded


def load_digits() -> Decoded:
    """The digits, with a fixed stratified test split of 360 images (one is 0.28 points)."""
    with as_file(files("superconv.data.reading") / "digits.npz") as path, np.load(path, allow_pickle=False) as entry:
        images, labels, test = entry["images"][:, None], entry["labels"].astype(np.int64), entry["test"]
    return Decoded(
        tuple("0123456789"),
        {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])},
    )
