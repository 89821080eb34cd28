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
    values: Mapping[str, Sequence[Any]], names: Sequence[str] | None, where: Where
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """Number the classes and check every label.

    Args:
        values: for each split one label per row: whole numbers from 0 without a gap, or strings. ``train``
            must be there; what it does not contain is no class.
        names: the classes' names if the set says them; the labels are then numbers below their count.
        where: names a row in errors.

    Returns:
        The class names, in the order of their indices, and int64 (n,) for each split.

    Raises:
        UserError: for a missing, broken or unknown label, or fewer than two classes in ``train``.
    """
    clean = {split: [_clean(v, where, split, i) for i, v in enumerate(rows)] for split, rows in values.items()}
    found = set(clean["train"])
    as_text = any(isinstance(v, str) for v in found)
    if as_text:
        classes: list[Any] = list(names) if names else sorted(map(str, found))
    else:
        classes = list(range(len(names) if names else len(found)))
    index = {label: i for i, label in enumerate(classes)}
    encoded = {}
    for split, rows in clean.items():
        for i, label in enumerate(rows):
            if label not in index:
                raise UserError(_unknown(where(split, i), label, classes, as_text))
        encoded[split] = np.array([index[label] for label in rows], dtype=np.int64)
    if len(found) < 2:
        only = (names or [str(c) for c in classes])[index[found.pop()]]
        raise UserError(
            f"all {len(clean['train'])} training images are of one class ({only}), and classification needs two: "
            "is this the right column of labels (--label-column)?"
        )
    return tuple(names or map(str, classes)), encoded


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


def _unknown(where: str, label: int | str, classes: Sequence[Any], as_text: bool) -> str:
    if as_text:
        return f"{where} has the label {label!r}, which no training image has: correct it or remove the row"
    return (
        f"{where} has the label {label}, which is out of range: with {len(classes)} classes labels are 0 to "
        f"{len(classes) - 1}; correct or renumber them"
    )
