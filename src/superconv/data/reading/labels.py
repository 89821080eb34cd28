"""Labels as they stand in a data set, to class indices."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from superconv.data.reading.splits import Rows
from superconv.errors import UserError

Where = Callable[[str, int], str]
"""What to call row ``row`` of split ``split`` in an error."""


def encode_labels(
    values: Mapping[str, Sequence[Any]],
    names: Sequence[str] | None,
    where: Where,
    *,
    one_class: str = "is this the right column of labels (--label-column)?",
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """Number the classes and check every label.

    Args:
        values: for each split one label per row: whole numbers from 0 without a gap, or strings. ``train``
            must be there; what it does not contain is no class.
        names: the classes' names if the set says them; the labels are then numbers below their count, or names.
        where: names a row in errors.
        one_class: advice where all training images are of one class.

    Returns:
        The class names, in the order of their indices, and int64 (n,) for each split.

    Raises:
        UserError: for a missing, broken or unknown label, or fewer than two classes in ``train``.
    """
    clean = {split: [_clean(v, where, split, i) for i, v in enumerate(rows)] for split, rows in values.items()}
    found = set(clean["train"])
    as_text = any(isinstance(v, str) for v in found)
    classes = tuple(names or (sorted(map(str, found)) if as_text else map(str, range(len(found)))))
    index: dict[int | str, int] = {label: i for i, label in enumerate(classes)} if names or as_text else {}
    if names or not as_text:
        index |= {i: i for i in range(len(classes))}
    encoded = {}
    for split, rows in clean.items():
        written = rows if names or not as_text else [str(label) for label in rows]
        for i, label in enumerate(written):
            if label not in index:
                raise UserError(_unknown(where(split, i), rows[i], classes, as_text))
        encoded[split] = np.array([index[label] for label in written], dtype=np.int64)
    if len(taken := np.unique(encoded["train"])) < 2:
        raise UserError(
            f"all {len(clean['train'])} training images are of one class ({classes[taken[0]]}), and classification "
            f"needs two: {one_class}"
        )
    return classes, encoded


def _clean(value: Any, where: Where, split: str, row: int) -> int | str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)  # what pandas makes of whole numbers beside a missing one
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    fault = "has no label" if missing else f"has the label {value!r}, which is neither a whole number nor text"
    raise UserError(f"{where(split, row)} {fault}: correct or remove the row")


def _unknown(where: str, label: int | str, classes: Sequence[str], as_text: bool) -> str:
    if as_text:
        return f"{where} has the label {label!r}, which no training image has: correct it or remove the row"
    if isinstance(label, str):
        return (
            f"{where} has the label {label!r}, but training labels are numbers up to {len(classes) - 1}: label all "
            "splits in one way"
        )
    return (
        f"{where} has the label {label}, which is out of range: with {len(classes)} classes labels are 0 to "
        f"{len(classes) - 1}; correct or renumber them"
    )
