"""Where batches come from: sources that turn draws into (inputs, targets) on a device.

A source keeps no position. Which samples make a batch is said by the draws, how they are varied by the seed,
so two sources made alike give equal batches, in any process, whether the run was resumed or not.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from superconv.data.augment import ImageTransform
from superconv.data.randomness import Stream, random_bits
from superconv.data.sampling import Draw

Collate = Callable[[list[Any]], Any]
_CPU = torch.device("cpu")
_BLOCK = 2**19  # numbers of input that are made at once: what a call costs is then shared by many small batches


class Source(Protocol):
    """Samples that can be drawn in batches."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same samples, with batches on ``device``."""
        ...

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """One (inputs, targets) on the device for each draw, in their order.

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
        inputs: (n, ...).
        targets: (n, ...).

    Raises:
        ValueError: if the numbers of samples differ or are zero.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs and {len(self.targets)} targets make no data set")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> "TensorSource":
        """The same tensors, held on ``device``."""
        return TensorSource(self.inputs.to(device), self.targets.to(device))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.batches`; ``seed`` and ``augment`` change nothing."""
        for sizes, (_, indices) in _blocks(draws, self.inputs[0].numel()):
            indices = indices.to(self.inputs.device, non_blocking=True)
            inputs, targets = self.inputs.index_select(0, indices), self.targets.index_select(0, indices)
            yield from zip(torch.split(inputs, sizes), torch.split(targets, sizes), strict=True)


@dataclass(frozen=True)
class DatasetSource:
    """Any map-style torch data set.

    Its random transforms are made pure too: the generators of Python, NumPy and torch are set from (seed,
    epoch, index) while a sample is made, and put back after. ``augment`` changes nothing: a data set knows
    its own transforms.

    Attributes:
        dataset: gives one sample per index, and has a length.
        collate: makes (inputs, targets) of a list of samples; torch's default stacks pairs.
        workers: processes that make samples; 0 makes them here.
        device: of the batches.
    """

    dataset: "Dataset[Any]"
    collate: Collate | None = None
    workers: int = 0
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch leaves __len__ out of Dataset

    def to(self, device: torch.device | str) -> "DatasetSource":
        """The same data set, with batches on ``device``."""
        return replace(self, device=torch.device(device))

    def batches(self, draws: Iterable[Draw], *, seed: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.batches`."""
        pure = _PureDataset(self.dataset, seed)
        for inputs, targets in load_batches(pure, draws, self.collate, self.workers, self.device):
            yield (
                inputs.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
            )


def _blocks(draws: Iterable[Draw], numbers: int) -> Iterator[tuple[list[int], Draw]]:
    """Draws joined to blocks of about `_BLOCK` numbers, a sample having ``numbers``; with the sizes of the parts."""
    remaining = iter(draws)
    for first in remaining:
        further = max(0, _BLOCK // (len(first[1]) * numbers) - 1)
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

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        bits = int(random_bits(self.seed, Stream.TRANSFORM, epoch, torch.tensor(index)))
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(bits)
            np.random.seed(bits & 0xFFFFFFFF)
            torch.default_generator.manual_seed(bits)  # not torch.manual_seed, which seeds every GPU as well
            return self.dataset[index]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def load_batches(
    dataset: "Dataset[Any]",
    draws: Iterable[Draw],
    collate: Collate | None,
    workers: int,
    device: torch.device,
) -> Iterator[Any]:
    """Collated batches of the samples ``dataset[epoch, index]``, one per draw, made by ``workers`` processes."""
    keys: Iterable[list[Any]] = (list(zip(e.tolist(), i.tolist(), strict=True)) for e, i in draws)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader takes a seed for its workers: not from the global generator
    )
    return iter(loader)
