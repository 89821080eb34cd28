"""Choosing samples: stratified, seeded, and smaller choices contained in larger ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from superconv.data.randomness import Stream, random_bits
from superconv.errors import UserError

_TEST_FRACTION = 0.1  # of the training images, where a set has no test split

Rows = np.ndarray[Any, np.dtype[np.int64]]


def stratified_order(labels: Rows, *, seed: int, stream: Stream) -> Rows:
    """An order of all samples in which every beginning has the classes in their proportions, up to rounding.

    Within a class the samples are in random order; the r-th of n_c is then placed at (r + 1/2) / n_c of the
    whole.

    Args:
        labels: int64, (n,).
        seed: of the random order.
        stream: what the order is for.

    Returns:
        A permutation of 0 … n-1, int64.
    """
    n = len(labels)
    bits = random_bits(seed, stream, 0, torch.arange(n)).numpy()
    by_class = np.lexsort((bits, labels))
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = (np.arange(n) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    return by_class[np.lexsort((bits[by_class], place))]


def hold_out(labels: Rows, amount: float, *, seed: int, stream: Stream) -> tuple[Rows, Rows]:
    """Split the samples into those kept and those held out, both in ascending order.

    Args:
        labels: int64, (n,).
        amount: below 1 a fraction, else a whole number of samples; 0 holds out none.
        seed: of the choice.
        stream: what is held out.

    Raises:
        UserError: for an amount that is negative, broken, or leaves nothing.
    """
    n = len(labels)
    if isinstance(amount, float) and amount == 1:
        raise UserError("cannot hold out 1.0, which may mean all or one: give 1 for one image, or a fraction below 1")
    if not math.isfinite(amount) or amount < 0 or (amount >= 1 and amount != int(amount)):
        raise UserError(f"cannot hold out {amount}: give a fraction below 1 or a whole number of images")
    count = max(round(amount * n), 1) if 0 < amount < 1 else int(amount)
    if count >= n:
        raise UserError(f"cannot hold out {count} of {n} training images: nothing would be left to train on")
    order = stratified_order(labels, seed=seed, stream=stream)
    return np.sort(order[count:]), np.sort(order[:count])


def subset(labels: Rows, count: int | None, *, seed: int) -> Rows:
    """``count`` of the samples (None: all), ascending; a smaller subset lies within every larger one.

    Raises:
        UserError: if there are not so many.
    """
    if count is None:
        return np.arange(len(labels))
    if not 1 <= count <= len(labels):
        raise UserError(
            f"--train-samples {count} is not possible: {len(labels)} training images are left after the validation "
            f"split, so give 1 to {len(labels)}"
        )
    return np.sort(stratified_order(labels, seed=seed, stream=Stream.TRAIN_SUBSET)[:count])


@dataclass(frozen=True)
class Choice:
    """Which images are for what.

    Attributes:
        rows: for ``train``, ``test`` and, unless nothing is held out, ``validation``: (split of the set, rows
            in it).
        notes: what the user should know about it.
    """

    rows: dict[str, tuple[str, Rows]]
    notes: tuple[str, ...]


def choose(labels: Mapping[str, Rows], validation: float, train_samples: int | None, seed: int) -> Choice:
    """Divide a set: its test split is kept, validation and the training subset are chosen.

    Args:
        labels: int64 (n,) of each split there is: ``train``, perhaps ``validation`` and ``test``.
        validation: as `hold_out` takes it; a validation split beside a test split is used instead, unless
            this is 0.
        train_samples: as `subset` takes it.
        seed: of validation and subset; a test split that has to be made is the same for every seed.

    Raises:
        UserError: for an amount that is not there.
    """
    rows: dict[str, tuple[str, Rows]] = {}
    notes = []
    train = np.arange(len(labels["train"]))
    if test := next((split for split in ("test", "validation") if split in labels), None):
        rows["test"] = (test, np.arange(len(labels[test])))
        if test == "validation":
            notes.append("the set has no labelled test split: its validation split is used as one")
    else:
        kept, held_out = hold_out(labels["train"], _TEST_FRACTION, seed=0, stream=Stream.TEST)
        rows["test"], train = ("train", held_out), kept
        notes.append("the set has no test split: a fixed tenth of the training images is used as one")
    if validation and test == "test" and "validation" in labels:
        rows["validation"] = ("validation", np.arange(len(labels["validation"])))
        notes.append("the set has a validation split: it is used, and nothing is held out of the training images")
    else:
        kept, held_out = hold_out(labels["train"][train], validation, seed=seed, stream=Stream.VALIDATION)
        if len(held_out):
            rows["validation"] = ("train", train[held_out])
        train = train[kept]
    rows["train"] = ("train", train[subset(labels["train"][train], train_samples, seed=seed)])
    return Choice(rows, tuple(notes))
