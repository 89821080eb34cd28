"""Sources of what people have: loaders, data sets, arrays."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from superconv import nested
from superconv.data.source import DatasetSource, Source, SplitBatch, TensorSource
from superconv.errors import UserError

KINDS = "a Source, a map-style Dataset, a DataLoader of one, or a tuple (X, y) of tensors or arrays"


def as_source(data: Any, *, split: SplitBatch | None = None) -> Source:
    """The source of samples that `data` stands for.

    Args:
        data: One of

            - a `Source`,
            - a map-style torch `Dataset`, or a sequence of samples,
            - a `DataLoader`, of which the data set, the collate function and the workers are used; batch size and
              shuffling are not, as the order of samples is a function of seed and position,
            - a tuple (X, y) of tensors or NumPy arrays whose first dimension counts the samples; X may be a tuple or
              a dict of them. Arrays of float64 take torch's default type, and integers become int64.
        split: Function that makes (inputs, targets) of a batch of a data set; `split_batch`, if not given.

    Raises:
        UserError: It is none of these, cannot be read by position, or draws samples unevenly.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data, split)
    if isinstance(data, IterableDataset):
        raise UserError(
            f"{_name(data)} gives samples one after another, but they are drawn by position: {_map_style()}"
        )
    if isinstance(data, DatasetSource):
        return data if data.split or split is None else replace(data, split=split)
    if hasattr(data, "batches") and hasattr(data, "to"):
        return data  # type: ignore[no-any-return]  # a Source
    if isinstance(data, tuple) and not hasattr(data, "_fields"):
        return _of_tensors(data)
    return _of_dataset(data, split)


def _of_dataset(dataset: Any, split: SplitBatch | None) -> Source:
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2 and split is None:
        return TensorSource(*dataset.tensors)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or isinstance(
        dataset, Tensor | np.ndarray | Mapping | str
    ):
        raise UserError(f"data is {KINDS}, not {_name(dataset)}")
    if not len(dataset):
        raise UserError(f"{_name(dataset)} has no sample")
    if isinstance(dataset, list) and isinstance(dataset[0], Tensor | np.ndarray):
        raise UserError("data in memory is a tuple (X, y), not a list of arrays")
    return DatasetSource(dataset, split=split)


def _of_loader(loader: "DataLoader[Any]", split: SplitBatch | None) -> Source:
    dataset: Dataset[Any] = loader.dataset
    if isinstance(dataset, IterableDataset):
        raise UserError(f"the DataLoader reads {_name(dataset)} one after another: {_map_style()}")
    if loader.batch_sampler is None:
        raise UserError(
            "a DataLoader with batch_size=None makes no batches of samples: give a Dataset of single samples"
        )
    sampler: Any = loader.sampler
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, list(sampler.indices))
    elif isinstance(sampler, WeightedRandomSampler) or getattr(sampler, "replacement", False):
        raise UserError(
            f"the DataLoader's {type(sampler).__name__} draws some samples more often than others, but each is "
            "drawn once an epoch: repeat them in the Dataset, or weight them in the loss"
        )
    elif isinstance(sampler, RandomSampler) and len(sampler) != len(dataset):  # type: ignore[arg-type]
        raise UserError(
            f"the DataLoader draws {len(sampler)} of {len(dataset)} samples an epoch: "  # type: ignore[arg-type]
            "give a Subset, or say num_samples nowhere"
        )
    elif not isinstance(sampler, RandomSampler | SequentialSampler | DistributedSampler):
        _note_unused(sampler)
    if type(loader.batch_sampler) is not BatchSampler:
        _note_unused(loader.batch_sampler)
    collate = None if loader.collate_fn is default_collate else loader.collate_fn
    source = _of_dataset(dataset, split)
    if isinstance(source, TensorSource) and collate is None:
        return source
    return DatasetSource(
        dataset,
        collate=collate,
        workers=loader.num_workers,
        split=split,
        worker_init=loader.worker_init_fn,
        context=loader.multiprocessing_context,
    )


def _of_tensors(pair: tuple[Any, ...]) -> TensorSource:
    if len(pair) != 2:
        raise UserError(f"data in memory is a tuple (X, y), not one of {len(pair)}; X itself may be a tuple or a dict")
    inputs, targets = (_as_tensors(part) for part in pair)
    targets = nested.mapped(lambda t: t.long() if t.dtype == torch.uint8 else t, targets)
    try:
        return TensorSource(inputs, targets)
    except ValueError as error:
        raise UserError(f"the first dimension of X and y counts the samples: {error}") from error


def _as_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_tensors(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_as_tensors(part) for part in value)
    if not isinstance(value, Tensor):
        value = _of_array(value)
    if not value.ndim:
        raise UserError("X and y have a first dimension that counts the samples; a single number has none")
    return value


def _of_array(value: Any) -> Tensor:
    array = value.to_numpy() if hasattr(value, "to_numpy") else value  # pandas, polars
    if isinstance(array, list):
        array = np.asarray(array)
    if not isinstance(array, np.ndarray):
        raise UserError(f"X and y are tensors or NumPy arrays, not {_name(value)}")
    if array.dtype.kind not in "biufc":
        raise UserError(f"X and y hold numbers, not {array.dtype}: turn names into integers first")
    if array.dtype.kind == "u" and array.itemsize > 1:
        array = array.astype(np.int64)
    tensor = torch.from_numpy(np.array(array))  # a copy: the array may be read-only, or of another byte order
    if tensor.dtype == torch.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if tensor.dtype in (torch.int8, torch.int16, torch.int32) else tensor


def _note_unused(sampler: "Sampler[Any] | Any") -> None:
    warnings.warn(
        f"the DataLoader's {type(sampler).__name__} is not used: every epoch has each sample of the data set once",
        UserWarning,
        stacklevel=5,
    )


def _map_style() -> str:
    return "give a map-style Dataset (__getitem__ and __len__), or a Source of your own"


def _name(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
