"""Rules of thumb as data: each constant with its unit, the reason for its value, and the numbers that bear it out."""

from dataclasses import dataclass
from math import log2


@dataclass(frozen=True, kw_only=True)
class LengthLaw:
    """How long a training is to which nobody gave a length, and below which it makes no sense."""

    epochs: int = 12
    """Passes over the data: the length of the README's CIFAR-10 run."""
    least: int = 500
    """Updates at least, so that a small set is seen often enough."""
    fewest: int = 20
    """Updates of any search's training, however short the time: a shorter cycle says nothing of its peak."""


@dataclass(frozen=True, kw_only=True)
class BatchLaw:
    """How many samples an update has."""

    share: float = 1 / 40
    """Of the training samples, rounded to a power of two: some forty updates an epoch."""
    low: int = 32
    """Samples at least: below that a core is idle most of the time."""
    high: int = 256
    """Samples at most: the largest batch of the runs in results/regret."""
    fewest_updates: int = 1000
    """Updates below which a batch is halved where the number of epochs is given (results/regret: cifar10-5k)."""

    def usual(self, samples: int) -> int:
        """The batch for so many training samples.

        >>> BatchLaw().usual(1293), BatchLaw().usual(45_000)
        (32, 256)
        """
        places = round(log2(max(samples, 1) * self.share))
        return int(min(self.high, max(self.low, 2.0**places)))


@dataclass(frozen=True, kw_only=True)
class DecayLaw:
    """How much weight decay a run leaves room for (section 5 of arXiv 1708.07120: large rates regularize).

    Decay shrinks a weight over a whole run to e to the minus Σ decay · rate / (1 − momentum) of itself. That sum,
    rather than the decay itself, stays alike between good runs (docs/regret.md).
    """

    shrinking: float = 0.25
    """That sum for a run of one epoch; it grows with the root of the epochs, as samples seen more often are learned by
    heart."""
    plain: tuple[float, float] = (1e-6, 1e-2)
    """Bounds where decay goes through the gradient."""
    decoupled: tuple[float, float] = (1e-2, 1e-1)
    """Bounds where decay is apart from the gradient, as AdamW's."""


@dataclass(frozen=True, kw_only=True)
class DropoutLaw:
    """How much dropout a run leaves room for: it keeps samples from being learned by heart, which takes passes."""

    most: float = 0.05
    """Rate for a run of one epoch; it grows with the root of the epochs, as the decay's effect does
    (docs/regret.md)."""
