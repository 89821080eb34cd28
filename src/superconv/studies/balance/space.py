"""Settings of a balance, what trials of them gave, and which to try next: pure functions of plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log10
from typing import Any

from superconv.specs.studies import Axis

CLEARLY = 3.0  # standard errors of a difference between two shares of the validation images


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is varied between trials."""

    max_lr: float
    """Peak of the cycle, or end of the range test."""
    weight_decay: float
    batch_size: int
    momentum: float
    dropout: float | None = None
    """None where the network takes none."""

    def value(self, axis: Axis) -> float:
        """What the setting has on an axis."""
        value: float | None = getattr(self, axis)
        assert value is not None, "an axis is varied only where settings have it"
        return value

    def at(self, axis: Axis, value: float) -> "Setting":
        """The same elsewhere on an axis."""
        changed: dict[str, Any] = {axis: int(value) if axis == "batch_size" else value}
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Whole cycles of a setting, one from each seed: means over the seeds at their end."""

    setting: Setting
    accuracy: float | None = None
    """Of the validation split; none where a cycle failed, as the others."""
    loss: float | None = None
    train_accuracy: float | None = None
    """Mean over the last twentieth of the training."""
    train_loss: float | None = None
    failure: str | None = None
    """Why there are no numbers: diverged, out of memory, killed, …"""

    @property
    def gap(self) -> float | None:
        """Validation loss less training loss: what large rates and other regularization make smaller."""
        return None if self.loss is None or self.train_loss is None else self.loss - self.train_loss

    @property
    def merit(self) -> tuple[float, float]:
        """By which trials are compared: accuracy, and among equal ones the loss; a failed one has the least."""
        return (-inf if self.accuracy is None else self.accuracy, -inf if self.loss is None else -self.loss)


def best_of(tried: Mapping[float, Trial]) -> Trial:
    """The best of trials along an axis."""
    return max(tried.values(), key=lambda trial: trial.merit)


def margin(best: Trial, images: int) -> float:
    """By how much an accuracy may lie below the best one by chance: `CLEARLY` standard errors of the difference.

    The error is that of two independent choices of validation images, which is on the safe side: all trials see the
    same. What another seed would change is not in it.
    """
    share = min(max(best.accuracy or 0.0, 1 / images), 1 - 1 / images)
    return CLEARLY * float((2 * share * (1 - share) / images) ** 0.5)


def clearly_worse(trial: Trial, best: Trial, images: int) -> bool:
    """Whether a trial failed, or lies below the best by more than the margin."""
    if trial.accuracy is None or best.accuracy is None:
        return trial.accuracy is None
    return best.accuracy - trial.accuracy > margin(best, images)


def following(values: Sequence[float], start: float, tried: Mapping[float, Trial], images: int) -> list[float]:
    """The values of an axis to try next: `start` and its neighbours, then outwards to either side.

    A side ends where its outermost trial is clearly worse than the best: too much regularization only gets worse with
    more of it, and too little with less. Neighbours of the best are never left out, and all trials have the whole
    length, because short ones rank decays differently.

    Args:
        values: All of the axis, ascending.
        start: One of them.
        tried: Trials so far.
        images: Of the validation split.
    """
    at = values.index(start)
    if not tried:
        return list(values[max(0, at - 1) : at + 2])
    best = best_of(tried)
    known = [i for i, value in enumerate(values) if value in tried]
    ends = {known[0]: known[0] - 1, known[-1]: known[-1] + 1}
    return [
        values[further]
        for end, further in ends.items()
        if 0 <= further < len(values) and not clearly_worse(tried[values[end]], best, images)
    ]


def near_the_best(trials: Sequence[Trial], images: int) -> list[Trial]:
    """Those that are not clearly worse than the best of them."""
    best = max(trials, key=lambda trial: trial.merit)
    return [trial for trial in trials if not clearly_worse(trial, best, images)]


def halfway(tried: Mapping[float, Trial]) -> float | None:
    """The decay between the best one and its better neighbour, half of the way by ratio, to one digit.

    None where nothing lies between them, none was trained, or one of the two is 0, from which there is no half decade.
    """
    values = sorted(tried)
    best = max(values, key=lambda value: tried[value].merit, default=None)
    if best is None or tried[best].accuracy is None:
        return None
    at = values.index(best)
    beside = [values[i] for i in (at - 1, at + 1) if 0 <= i < len(values) and tried[values[i]].accuracy is not None]
    neighbour = max(beside, key=lambda value: tried[value].merit, default=0.0)
    between = float(f"{(best * neighbour) ** 0.5:.0e}")
    return between if min(best, neighbour) < between < max(best, neighbour) else None


def nearest(values: Sequence[float], wanted: float) -> float:
    """The value whose ratio to the wanted one is nearest to 1; 0 only where there is no other."""
    return min(values, key=lambda value: abs(log10(value / wanted)) if value else inf)
