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


@dataclass(frozen=True, kw_only=True)
class RampLaw:
    """Constants of the policy. Those of prototypes were chosen on some twenty small tasks (docs/log.md)."""

    start: float = 1e-3
    """Update, as a share of the weights' median RMS, at which the ramp begins: far below any harm. SGD's momentum makes
    ten updates of one, and so the first is by that smaller."""
    growth: float = 1.2
    """Factor of the rate from update to update. A transformer ended 25 % worse with 1.3."""
    top: float = 0.5
    """Update, as a share of the weights' median RMS, at which the ramp ends at the latest: a bound, no peak."""
    longest: float = 0.2
    """Share of the run that the ramp may take before it ends without an answer."""
    fewest: int = 60
    """Updates that a ramp may take, however short the run."""
    smoothing: float = 0.25
    """Weight of the newest training loss in the smoothed one, during the ramp."""
    settle: int = 4
    """Updates before a level is believed."""
    rise: float = 0.25
    """Share of what was learned by which the smoothed loss may rise before the ramp ends …"""
    rise_probe: float = 1.0
    """That share for a probe: early rises pass, as where Adam's momentum overshoots the mean of a regression's targets.
    With 0.25 `second` got a tenth of the peak that it wants."""
    rise_floor: float = 0.03
    """… or this share of the first loss …"""
    sigmas: float = 3.0
    """… or so many standard errors of the smoothed loss, whichever is most."""
    learned: float = 0.05
    """Share of the first loss by which it must have fallen for anything to be learned. Before that, only a clear rise
    above the first loss ends the ramp."""
    learned_probe: float = 0.2
    """The same for a probe, whose early rises pass; its reading is the rate of its lowest loss, whenever it ends."""
    told: float = 0.002
    """Share of the first loss by which a probe must have fallen for its lowest loss to say anything."""
    chance: float = 0.3
    """That rise, as a share of the first loss, of a probe; a third of it of smoothed training losses."""
    alike: float = 0.25
    """Share of a batch, beyond what was usual, that has come to have the same output to the last digit: units are dying
    (`hundreds`), which lowers the loss to chance, so that it looks learned. It ends the ramp, and no such network is
    kept."""
    patience: int = 3
    """Updates in a row with a probe above its limit that end the ramp."""
    patience_training: int = 2
    """Training losses above the limit, while the smoothed one stays there, that end the ramp: one may be chance."""
    spacing: int = 6
    """Updates between two networks that are kept during the ramp: a factor of 3 in the rate."""
    back: float = 1.0
    """Largest rate, as a share of the peak, at which the network was kept that the rise begins from. The network of the
    lowest loss has been at rates that the run does not tolerate: `second` then loses 74 %, with 1 it wins 17. Earlier
    ones, at 0.3 or an eighth of the peak, were no better and cost more."""
    heavy_ball: float = 0.5
    """Peak of SGD as a share of the rate at the lowest smoothed training loss. Of 0.175, 0.35, 0.5, 0.7 and
    1.4, 0.5 had the lowest regret of accuracy on half of the tasks of results/ramps, and 0.7 of loss."""
    batch_norm: float = 1.5
    """That share under batch norm, which frees the weights' scale."""
    plain: float = 1.5
    """Factor of both without momentum, which delays what the ramp shows by some updates (benchmarks/plain_loop.py);
    in proportion up to a momentum of 0.9."""
    unlearned: float = 0.45
    """Rate taken for the lowest loss's, as a share of where the loss rose, where nothing was learned before: on a
    plateau (`sigmoids`, `forecast`) a quarter was far too low, and with 0.8 a run in five had to go back."""
    probed: float = 0.5
    """Peak of an adaptive optimizer as a share of the rate at the lowest probe. With 0.85 a character model lost 9 % of
    its loss, with 0.5 2 %; six other tasks hardly tell the two apart."""
    blind: float = 0.35
    """Peak of an adaptive optimizer without a probe, whose training losses read three to four times too high."""
    warm: float = 0.45
    """Share of the remaining updates in which the rate rises to the peak."""
    feet: float = 0.1
    """Rate at the beginning of the rise, and at the beginning of the last fall, as a share of the peak."""
    annihilation: float = 0.1
    """Share of the remaining updates, at their end, in which the rate falls to a hundredth of its foot."""
    slow: float = 0.05
    """Weight of the newest loss in the slow one, by which the rise is watched."""
    cap: float = 0.05
    """Share of what was learned by which the slow loss may rise above its best; plus `sigmas` standard errors."""
    cap_from: float = 0.25
    """Share of the peak below which no rise of the loss is believed: the ramp has passed such rates without harm."""
    cut: float = 0.5
    """Top of the fall, as a share of the rate at the best slow loss, where the rise was cut short."""
    bad: float = 0.5
    """Share of what was learned whose loss is a breakdown."""
    retreat: float = 1 / 3
    """Factor of the rate after a breakdown."""
    tries: int = 8
    """Breakdowns after which the rate stays as low as it is."""
