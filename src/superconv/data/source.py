"""Where batches come from: sources that turn draws into (inputs, targets) on a device.

A source keeps no position. Which samples make a batch is said by the draws, how they are varied by the seed,
so two sources made alike give equal batches, in any process, whether the run was resumed or not.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np
import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from superconv import nested
from superconv.data.augment import ImageTransform
from superconv.data.randomness import Stream, random_bits
from superconv.data.sampling import Draw
from superconv.errors import UserError
from superconv.rates.generators import generators_of, take
from superconv.rates.generators import seed as seed_generator

Collate = Callable[[list[Any]], Any]
SplitBatch = Callable[[Any], tuple[Any, Any]]
TARGETS = ("labels", "label", "targets", "target", "y")
"""Names of the target in a batch that is a mapping: the first that there is."""
_CPU = torch.device("cpu")
_BLOCK = 2**19  # numbers of input that are made at once: what a call costs is then shared by many small batches …
_AHEAD = 64  # … but no more batches than this, which a short training would never use


class Source(Protocol):
    """Samples that can be drawn in batches.

    >>> import torch, superconv
    >>> source: superconv.Source = superconv.TensorSource(torch.ones(10, 1), torch.zeros(10))
    >>> len(source), len(source.to("cpu"))
    (10, 10)
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same samples, with batches on ``device``."""
        ...

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Any, Any]]:
        """One (inputs, targets) on the device for each draw, in their order; both may be nested structures of tensors.

        Args:
            draws: which samples in which epochs; may be endless, and may be read ahead of what was yielded.
            seed: of everything random about a sample, together with its epoch and index.
            augment: whether training samples are varied; evaluations say False.
        """
        ...


@dataclass(frozen=True)
class ResidentImages:
    """Images that fit: uint8 on the device, normalised and augmented there.

    Attributes:
        images: uint8, (n, c, h, w).
        labels: int64, (n,).
        transform: to float32.
    """

    images: Tensor
    labels: Tensor
    transform: ImageTransform

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ResidentImages":
        """The same images, held on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.batches`; inputs are float32 (b, c, h, w), targets int64 (b,)."""
        device = self.images.device
        for sizes, draw in _blocks(draws, self.images[0].numel()):
            epochs, indices = (part.to(device, non_blocking=True) for part in draw)
            images = self.images.index_select(0, indices)
            inputs = self.transform(images, (epochs, indices), seed=seed, augment=augment)
            labels = self.labels.index_select(0, indices)
            yield from zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)


@dataclass(frozen=True)
class TensorSource:
    """Any tensors whose first dimension counts the samples: regression, token sequences. Nothing is varied.

    Attributes:
        inputs: (n, ...), or a tuple or mapping of such tensors.
        targets: (n, ...), or a tuple or mapping of such tensors.

    Raises:
        ValueError: if the numbers of samples differ or are zero.

    >>> import torch, superconv
    >>> source = superconv.TensorSource(torch.arange(10.0)[:, None], torch.arange(10.0))
    >>> draw = torch.zeros(3, dtype=torch.int64), torch.tensor([7, 0, 2])
    >>> inputs, targets = next(source.batches([draw], seed=0, augment=False))
    >>> targets.tolist()
    [7.0, 0.0, 2.0]
    """

    inputs: Any
    targets: Any

    def __post_init__(self) -> None:
        lengths = [len(tensor) for part in (self.inputs, self.targets) for tensor in nested.tensors(part)]
        if len(set(lengths)) != 1 or not lengths[0]:
            inputs, targets = (sorted({len(t) for t in nested.tensors(p)}) for p in (self.inputs, self.targets))
            raise ValueError(f"{_numbers(inputs)} inputs and {_numbers(targets)} targets make no data set")

    def __len__(self) -> int:
        return len(next(nested.tensors(self.inputs)))

    def to(self, device: torch.device | str) -> "TensorSource":
        """The same tensors, held on ``device``."""
        return TensorSource(*(nested.mapped(lambda t: t.to(device), part) for part in (self.inputs, self.targets)))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Any, Any]]:
        """See `Source.batches`; ``seed`` and ``augment`` change nothing."""
        tensors = list(nested.tensors(self.inputs))
        for sizes, (_, indices) in _blocks(draws, sum(tensor[0].numel() for tensor in tensors)):
            drawn = indices.to(tensors[0].device, non_blocking=True)
            pick = partial(torch.index_select, dim=0, index=drawn)
            parts = (nested.split(nested.mapped(pick, whole), sizes) for whole in (self.inputs, self.targets))
            yield from zip(*parts, strict=True)


@dataclass(frozen=True)
class DatasetSource:
    """Any map-style torch data set.

    Its random transforms are made pure too: the generators of Python, NumPy and torch, and those that hang on the data
    set, are set from (seed, epoch, index) while a sample is made, and put back after. ``augment`` changes nothing: a
    data set knows its own transforms.

    Attributes:
        dataset: gives one sample per index, and has a length.
        collate: makes a batch of a list of samples; torch's default stacks them.
        workers: processes that make samples; 0 makes them here.
        device: of the batches.
        split: makes (inputs, targets) of a batch; `split_batch`, if not given.
        worker_init: called in each worker process with its number, before it makes samples.
        context: how worker processes are started, as a loader's ``multiprocessing_context``.

    >>> import torch, superconv
    >>> dataset = torch.utils.data.TensorDataset(torch.arange(10.0)[:, None], torch.arange(10.0))
    >>> draw = torch.zeros(2, dtype=torch.int64), torch.tensor([7, 0])
    >>> inputs, targets = next(superconv.DatasetSource(dataset).batches([draw], seed=0, augment=False))
    >>> targets.tolist()
    [7.0, 0.0]
    """

    dataset: "Dataset[Any]"
    collate: Collate | None = None
    workers: int = 0
    device: torch.device = _CPU
    split: SplitBatch | None = None
    worker_init: Callable[[int], None] | None = None
    context: Any = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch leaves __len__ out of Dataset

    def to(self, device: torch.device | str) -> "DatasetSource":
        """The same data set, with batches on ``device``."""
        return replace(self, device=torch.device(device))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Any, Any]]:
        """See `Source.batches`."""
        pure, split = _PureDataset(self.dataset, seed), self.split or split_batch
        started = {"worker_init_fn": self.worker_init, "multiprocessing_context": self.context}
        for batch in load_batches(pure, draws, self.collate, self.workers, self.device, **started):
            inputs, targets = split(batch)
            yield move_data_to_device(inputs, self.device), move_data_to_device(targets, self.device)


def split_batch(batch: Any) -> tuple[Any, Any]:
    """(inputs, targets) of a batch: of a pair its parts, of a mapping its entry of `TARGETS` and all others.

    >>> split_batch({"pixels": 1, "size": 2, "label": 3})
    ({'pixels': 1, 'size': 2}, 3)

    Raises:
        UserError: The batch is neither.
    """
    if isinstance(batch, Mapping):
        target = next((name for name in TARGETS if name in batch), None)
        if target is not None:
            return {name: value for name, value in batch.items() if name != target}, batch[target]
        found = f"a mapping of {', '.join(map(str, batch))}"
    elif isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        found = f"a {type(batch).__name__} of {len(batch)}"
    else:
        found = f"a {type(batch).__name__}"
    raise UserError(
        f"a batch is (inputs, targets), or a mapping with {', '.join(TARGETS[:-1])} or {TARGETS[-1]}, not {found}: say "
        "how to split it with Task(batch=lambda batch: (inputs, targets))"
    )


def _numbers(lengths: list[int]) -> str:
    return " or ".join(map(str, lengths)) or "no"


def _blocks(draws: Iterable[Draw], numbers: int) -> Iterator[tuple[list[int], Draw]]:
    """Draws joined to blocks of about `_BLOCK` numbers, a sample having ``numbers``; with the sizes of the parts."""
    remaining = iter(draws)
    for first in remaining:
        further = min(_AHEAD, max(0, _BLOCK // (len(first[1]) * numbers) - 1))
        block = [first, *islice(remaining, further)]
        yield (
            [len(indices) for _, indices in block],
            (
                torch.cat([epochs for epochs, _ in block]),
                torch.cat([indices for _, indices in block]),
            ),
        )


class _PureDataset(Dataset[Any]):
    """Samples by (epoch, index), random transforms included."""

    def __init__(self, dataset: "Dataset[Any]", seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self._own: list[Any] | None = None  # the data set's generators, looked for where samples are made

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        bits = int(random_bits(self.seed, Stream.TRANSFORM, epoch, torch.tensor(index)))
        if self._own is None:
            self._own = generators_of(self.dataset)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        undo = [take(generator) for generator in self._own]
        try:
            for number, generator in enumerate(self._own):
                seed_generator(generator, bits + number & (2**63 - 1))
            random.seed(bits)
            np.random.seed(bits & 0xFFFFFFFF)
            torch.default_generator.manual_seed(bits)  # not torch.manual_seed, which seeds every GPU as well
            return self.dataset[index]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            for put_back in undo:
                put_back()


def load_batches(
    dataset: "Dataset[Any]",
    draws: Iterable[Draw],
    collate: Collate | None,
    workers: int,
    device: torch.device,
    **started: Any,
) -> Iterator[Any]:
    """Collated batches of the samples ``dataset[epoch, index]``, one per draw, made by ``workers`` processes.

    ``started`` says how these are started, in the words of a loader.
    """
    keys: Iterable[list[Any]] = (list(zip(e.tolist(), i.tolist(), strict=True)) for e, i in draws)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        **(started if workers else {}),
        generator=torch.Generator(),  # a loader takes a seed for its workers: not from the global generator
    )
    return iter(loader)
