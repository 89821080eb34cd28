"""What a sweep's training losses say by themselves: where they were lowest, and from where on they rose."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superconv.rates.curve import Array, Curve

ROSE = 1.5  # times the first training loss, where a sweep has harmed the network
MOVED = 3.0  # typical jumps of the training loss, by which its running median differs where it has clearly moved
BOX_POINTS = 5  # below that not even a box can be told from noise


@dataclass(frozen=True)
class LossLevels:
    """A sweep's training loss, smoothed.

    A minibatch's loss is far less noisy than its accuracy, so this says something of sweeps too short for a verdict.

    Attributes:
        lr: Rates above 0, (k,) ascending, up to the first loss that is not finite.
        loss: Running median there, (k,).
        start: Level before training: the median of the first five losses.
        noise: Typical jump of the loss from update to update, as long as the level fell.
    """

    lr: Array
    loss: Array
    start: float
    noise: float

    @property
    def lowest(self) -> float:
        """Rate of the lowest level."""
        return float(self.lr[self.loss.argmin()])

    @property
    def fell(self) -> bool:
        """Whether the level clearly fell."""
        return bool(self.start - self.loss.min() > MOVED * self.noise)

    @property
    def risen(self) -> NDArray[np.bool_]:
        """At which rates the level is clearly above that before training, (k,)."""
        risen: NDArray[np.bool_] = self.loss > self.start + MOVED * self.noise
        return risen

    @property
    def borne(self) -> float:
        """The largest rate below the first rise: a normalised network that has died comes down again to chance."""
        return float(self.lr[max(0, int(self.risen.argmax()) - 1) if self.risen.any() else -1])


def loss_levels(curve: Curve) -> LossLevels | None:
    """The levels of a curve's training loss, seeds averaged; None with fewer than `BOX_POINTS` finite losses."""
    lr, losses = curve.signal(column="train_loss")
    lr, losses = lr[lr > 0], losses[lr > 0]
    finite = np.isfinite(losses)
    end = len(lr) if finite.all() else int(finite.argmin())
    if end < BOX_POINTS:
        return None
    level = smoothed(losses[:end])
    falling = losses[: min(end, max(2 * BOX_POINTS, int(level.argmin()) + 1))]
    noise = float(np.median(np.abs(np.diff(falling))))
    return LossLevels(lr[:end], level, float(np.median(losses[:BOX_POINTS])), noise)


def defended(curve: Curve, levels: LossLevels) -> tuple[float | None, float]:
    """Rate of the lowest training loss, `None` where it never clearly fell, and the largest before any harm was done.

    Where the first losses already span a hundredth of all rates, as in linear sweeps, both are told from the very first
    one: such a sweep may break a network in its first updates, begins high then, and has learned nothing when the loss
    comes back to chance.
    """
    first, harmed = levels.start, levels.risen
    if levels.lr[BOX_POINTS - 1] > levels.lr[-1] / 100:
        first = min(first, float(curve.signal(column="train_loss")[1][0]))
        harmed = harmed | (levels.loss > first + (ROSE - 1) * abs(first))
    end = int(harmed.argmax()) if harmed.any() else len(harmed)
    fell = end > 0 and first - levels.loss[:end].min() > MOVED * levels.noise
    lowest = float(levels.lr[levels.loss[:end].argmin()]) if fell else None
    return lowest, float(levels.lr[max(0, end - 1)])


def smoothed(values: Array) -> Array:
    """Running median over a tenth of the points; narrower at the start, where linear sweeps rise."""
    half = max(1, len(values) // 20)
    rows, offsets = np.arange(len(values)), np.arange(-half, half + 1)
    at = rows[:, None] + offsets
    inside = (abs(offsets) <= rows[:, None]) & (at < len(values))
    window = np.sort(np.where(inside, values[np.minimum(at, len(values) - 1)], np.inf), axis=1)
    count = inside.sum(axis=1)
    smooth: Array = (window[rows, (count - 1) // 2] + window[rows, count // 2]) / 2
    return smooth
