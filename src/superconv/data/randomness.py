"""Random numbers as pure functions of (seed, epoch, sample index).

A generator has a state, so what it gives depends on what was asked before: on the batch a sample falls into,
on the number of processes, on where a run was resumed. A hash has none. The mixing function is the finaliser
of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), in
wrapping int64 arithmetic, vectorised over samples.
"""

from enum import IntEnum

import torch
from torch import Tensor

FIELD_BITS = 15  # four fields of 15 bits fit in the lower 60 bits of a hash; 2^15 values are enough for pixels


class Stream(IntEnum):
    """Independent families of random numbers under one seed."""

    ORDER = 1
    AUGMENTATION = 2
    FIRST_FLIP = 3
    CROP = 4
    TRAIN_SUBSET = 5
    VALIDATION = 6
    TEST = 7
    TRANSFORM = 8


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits as ``value``."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_STREAMS = 64  # room for more streams: seeds and streams must never share a key
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts copy the sign: mask it away


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def random_bits(seed: int, stream: Stream, epochs: Tensor | int, indices: Tensor) -> Tensor:
    """64 random bits for each sample.

    Args:
        seed: any integer.
        stream: what the bits are for; different streams are independent.
        epochs: int64 of the shape of ``indices``, or one epoch for all.
        indices: int64, the samples' indices.

    Returns:
        int64 of the shape of ``indices``, on its device.
    """
    key = _mix(torch.tensor(_signed(seed * _STREAMS + stream)) + _GOLDEN).item()
    x = _mix(torch.as_tensor(epochs) * _GOLDEN + int(key))  # one number is mixed on the CPU: no GPU waits for it
    return _mix(indices * _GOLDEN + x)


def field(bits: Tensor, position: int, high: int) -> Tensor:
    """Integers in [0, high) from the ``position``-th 15 bits (0 to 3) of ``bits``; high is far below 2^15."""
    return ((bits >> (FIELD_BITS * position)) & ((1 << FIELD_BITS) - 1)) * high >> FIELD_BITS


def coin(bits: Tensor) -> Tensor:
    """0 or 1 from a bit of ``bits`` that no field uses."""
    return (bits >> (4 * FIELD_BITS)) & 1
