"""What a watched run remembers and decides: plain numbers, shared by its ramp and its cycle."""

from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal

from superconv.rates.laws import RampLaw

Phase = Literal["ramp", "rise", "fall"]
Action = Literal["", "keep", "back"]

KEPT, KEPT_LATER = 3, 2  # networks at most, during the ramp and after it
LOOK_EVERY = 3  # updates between two looks at the outputs, during the ramp


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the policy knows before the run."""

    updates: int
    """Length of the run, lost updates included."""
    start_lr: float
    """Rate of the first update."""
    top_lr: float
    """Rate at which an update is half the weights: the ramp ends there."""
    fallback_lr: float
    """Peak where the ramp says nothing: the rate that the optimizer was made with."""
    heavy_ball: bool
    """Whether updates grow with the gradient, as SGD's."""
    probed: bool
    """Whether a probe's loss is given."""
    momentum: float = 0.9
    """Of a heavy ball, before the cycle moves it."""
    batch_norm: bool = False
    """Whether the network normalises over the batch."""
    law: RampLaw = field(default_factory=RampLaw)

    @property
    def by_probe(self) -> bool:
        """Whether the ramp is watched by the probe."""
        return self.probed and not self.heavy_ball


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that was decided."""

    update: int
    """Number of updates made when it was decided."""
    what: str
    """`peak`, `cap`, `breakdown` or `collapse`."""
    reason: str
    """Why, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Everything that the policy remembers: plain numbers."""

    phase: Phase = "ramp"
    made: int = 0
    """Updates made, lost ones included."""
    line: int = 0
    """Updates in the history of the present weights."""
    lr: float = 0.0
    """Rate of the next update."""
    first: float | None = None
    """Level of the training loss before training: mean of the first losses."""
    seen: int = 0
    """Losses since the smoothed one began."""
    smooth: float | None = None
    variance: float | None = None
    best: float = inf
    """Lowest watched loss of the phase …"""
    best_lr: float = 0.0
    """… and the rate of the update that led there."""
    probe_first: float | None = None
    over: int = 0
    """Updates in a row above the limit."""
    learned: bool = False
    kept: tuple[tuple[int, float], ...] = ((0, 0.0),)
    """Networks that were kept, the oldest first: `line` of each, and the rate of the update before."""
    peak: float | None = None
    from_update: int = 0
    """`made` when the rise began."""
    top: float = 0.0
    """Rate from which the fall goes …"""
    top_at: int = 0
    """… and the update, counted as `made`, at which it begins."""
    scale: float = 1.0
    """Factor of the rate after breakdowns."""
    apart: float = 1.0
    """Lowest share of a batch that was seen to have the same output."""
    fast: float | None = None
    level: float = inf
    """Lowest smoothed training loss of the whole run."""
    breakdowns: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do after an update."""

    watch: Watch
    action: Action = ""
    place: int = -1
    """Which of the kept networks to go back to; the others are then given up."""
    event: Event | None = None


def to_dict(watch: Watch) -> dict[str, Any]:
    """The state as plain values."""
    return asdict(watch)


def from_dict(values: dict[str, Any]) -> Watch:
    """The state that `to_dict` wrote."""
    kept = tuple((line, lr) for line, lr in values["kept"])
    return Watch(**{**values, "kept": kept})


def looks_every(plan: Plan, watch: Watch) -> int:
    """Updates between two looks at whether the network still tells inputs apart; it is kept only after such a look."""
    return LOOK_EVERY if watch.phase == "ramp" else max(5, plan.updates // 60)


def smoothed(watch: Watch, loss: float, weight: float, *, cautious: bool = False) -> tuple[float, float | None]:
    """The smoothed loss with a new one in it, and the variance of losses about it; outliers widen that little."""
    if watch.smooth is None:
        return loss, watch.variance
    squared = (loss - watch.smooth) ** 2
    variance = watch.variance
    if variance is None:
        variance = squared
    elif watch.seen < (20 if cautious else 5) or squared < (25 if cautious else 16) * variance or loss < watch.smooth:
        new = 0.05 if cautious else 0.15
        variance = (1 - new) * variance + new * squared
    return (1 - weight) * watch.smooth + weight * loss, variance


def error(variance: float | None, weight: float) -> float:
    """Standard error of a smoothed loss, whose newest one has this weight."""
    return float(((variance or 0.0) * weight / (2 - weight)) ** 0.5)
