"""Which samples make up the batch of a step: a pure function of (seed, step) for any number of processes."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from superconv.data.randomness import Stream, random_bits

Draw = tuple[Tensor, Tensor]
"""(epochs, indices), int64 of shape (b,): which sample in which epoch."""

_KEPT_EPOCHS = 2  # a batch usually touches one epoch, or two where they meet
_BLOCK = 4096  # samples drawn at once: a small batch costs little more than its share


class Order:
    """The order in which training visits the samples: one continuous stream, cut into batches.

    The sample at global position ``s = step * batch_size + j`` belongs to epoch ``s // n``, and each epoch is
    a permutation made from (seed, epoch) alone. A batch may thus span two epochs, or several when it is
    larger than the set; no sample is dropped.

    Args:
        n: number of samples.
        batch_size: samples per step over all processes together.
        seed: of the permutations.
        shuffle: False gives the samples in their own order.
        rank: this process, 0 to ``world - 1``; it takes the ``rank``-th contiguous slice of each batch.
        world: number of processes.

    Raises:
        ValueError: for no samples, an empty batch, a rank outside the world, or a batch that ``world`` does
            not divide.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, *, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        _check(n, batch_size, rank, world)
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} samples cannot be shared equally by {world} processes")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.shuffle, self.rank, self.world = shuffle, rank, world
        self._permutations: dict[int, Tensor] = {}

    def draw(self, step: int) -> Draw:
        """This process's (epochs, indices) at ``step`` (0-based), int64 of shape (batch_size / world,)."""
        return self._block(step, 1)[0]

    def draws(self, step: int) -> Iterator[Draw]:
        """The draws of ``step``, ``step + 1`` and so on, without end; equal to those of `draw`."""
        length = max(1, _BLOCK // self.batch_size)
        for start in count(step, length):
            yield from self._block(start, length)

    def _block(self, step: int, steps: int) -> list[Draw]:
        if step < 0:
            raise ValueError(f"steps count from 0, got {step}")
        local = self.batch_size // self.world
        positions = torch.arange(step * self.batch_size, (step + steps) * self.batch_size)
        positions = positions.view(steps, self.world, local)[:, self.rank].flatten()
        epochs, indices = positions // self.n, positions % self.n
        if self.shuffle:
            parts = [
                self._permutation(epoch)[indices[epochs == epoch]]
                for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
            ]
            indices = torch.cat(parts)
        return list(zip(torch.split(epochs, local), torch.split(indices, local), strict=True))

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            bits = random_bits(self.seed, Stream.ORDER, epoch, torch.arange(self.n))
            while len(self._permutations) >= _KEPT_EPOCHS:
                del self._permutations[next(iter(self._permutations))]
            self._permutations[epoch] = bits.argsort(stable=True)
        return self._permutations[epoch]


def in_order(n: int, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Draw]:
    """Draws for an evaluation: each sample exactly once, in its own order, in epoch 0.

    The set is cut into batches of ``batch_size``, the last one short, and each batch into ``world``
    contiguous slices, of which this process gets the ``rank``-th. Slices differ by at most one sample; empty
    ones are left out, so processes may get a different number of batches: sum first, reduce over the
    processes once.

    No slice has one sample where two could be had, as some networks refuse a batch of one, or give it another shape:
    a last batch that is too short for that is joined to the one before, or shared by fewer processes.

    Raises:
        ValueError: for no samples, an empty batch or a rank outside the world.
    """
    _check(n, batch_size, rank, world)
    return _in_order(n, batch_size, rank, world)


def _in_order(n: int, batch_size: int, rank: int, world: int) -> Iterator[Draw]:
    ends = [*range(batch_size, n, batch_size), n]
    if batch_size > 1 and len(ends) > 1 and ends[-1] - ends[-2] < 2 * world:
        del ends[-2]
    start = 0
    for end in ends:
        size = end - start
        sharing = min(world, max(1, size // 2)) if batch_size > 1 else world
        first, last = (start + size * min(at, sharing) // sharing for at in (rank, rank + 1))
        if last > first:
            indices = torch.arange(first, last)
            yield torch.zeros_like(indices), indices
        start = end


def _check(n: int, batch_size: int, rank: int, world: int) -> None:
    if n < 1 or batch_size < 1:
        raise ValueError(f"need at least one sample and one per batch, got n={n}, batch_size={batch_size}")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} processes")
