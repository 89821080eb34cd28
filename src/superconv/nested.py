"""Batches and outputs of any structure: tuples, lists, mappings and data classes that hold tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a structure, in its order.

    >>> [t.item() for t in tensors({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        yield value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    elif is_dataclass(value) and not isinstance(value, type):
        parts = (getattr(value, field.name) for field in fields(value))
    for part in parts:
        yield from tensors(part)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The structure with each of its tensors replaced by what `function` makes of it."""
    return function(value) if isinstance(value, Tensor) else apply_to_collection(value, Tensor, function)


def split(value: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """Parts of a structure of so many samples each, which share its memory."""
    if isinstance(value, Tensor):
        yield from torch.split(value, list(sizes))
        return
    start = 0
    for size in sizes:
        yield mapped(lambda t, start=start, size=size: t.narrow(0, start, size), value)  # type: ignore[misc]
        start += size


def samples(*values: Any) -> int:
    """Number of samples of a batch: the first dimension of the tensors of the first value that has any.

    A list whose entries are mappings, or differ in their first dimension, has an entry for each sample, as in object
    detection.
    """
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
        sizes = {len(tensor) for tensor in tensors(value) if tensor.ndim}
        listed = isinstance(value, tuple | list) and bool(value)
        if listed and (len(sizes) > 1 or isinstance(value[0], Mapping)):
            return len(value)
        if sizes:
            return sizes.pop()
    return 1
