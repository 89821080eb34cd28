"""Learning-rate and momentum schedules: functions of the update's index, and nothing else.

A schedule maps t = 0, 1, 2, … to the value used by update t. A run of N updates uses t = 0 … N−1: the last value is
reached at N−1 and held from then on, a peak is hit on a step, and phases end at rounded integers. Constructors check
their arguments and return a closure.

>>> from superconv import schedules
>>> cycle = schedules.one_cycle(100, 0.5)
>>> cycle(0), cycle(45), cycle(100)
(0.05, 0.5, 0.0005)
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import pairwise
from math import cos, isfinite, pi, sqrt
from typing import Literal, ParamSpec, get_args

Schedule = Callable[[int], float]
Anneal = Literal["linear", "cosine"]
Cooldown = Literal["linear", "cosine", "sqrt"]
P = ParamSpec("P")


class _Made:
    """A schedule that can be pickled, as a closure cannot: by its factory and that one's arguments."""

    __slots__ = ("_call", "_schedule")

    def __init__(self, schedule: Schedule, call: partial[Schedule]) -> None:
        self._schedule, self._call = schedule, call

    def __call__(self, t: int) -> float:
        return self._schedule(t)

    def __reduce__(self) -> tuple[partial[Schedule], tuple[()]]:
        return self._call, ()


def _picklable(factory: Callable[P, Schedule]) -> Callable[P, Schedule]:
    @wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        return _Made(factory(*args, **kwargs), partial(make, *args, **kwargs))

    return make


def simulate(schedule: Schedule, steps: int) -> list[float]:
    """The values of the first `steps` updates, without an optimizer."""
    return [schedule(t) for t in range(steps)]


@_picklable
def constant(value: float) -> Schedule:
    """The same value always."""
    _check(value=value)
    return lambda t: value


@_picklable
def one_cycle(
    total_steps: int,
    max_lr: float,
    *,
    base_lr: float | None = None,
    final_lr: float | None = None,
    warmup: float = 0.45,
    annihilation: float = 0.1,
    anneal: Anneal = "linear",
) -> Schedule:
    """One cycle up to a very large rate and back, then far below the start (Smith & Topin, arXiv 1708.07120).

    - rise from `base_lr` to `max_lr` over the first `warmup` of the run,
    - fall back to `base_lr` until `annihilation` of the run is left,
    - fall from there to `final_lr`. With `annihilation=0` the cycle falls from `max_lr` straight to `final_lr`.

    The paper gives no fraction for the last phase; its follow-up (1803.09820) uses 4 to 17 % of the run, hence 10 %.

    Args:
        total_steps: Updates of the whole run, N.
        max_lr: Rate of the peak, at update round(N · warmup).
        base_lr: Rate of update 0; a tenth of the peak if not given.
        final_lr: Rate of update N−1; a hundredth of base_lr if not given.
        warmup: Fraction of the run, in [0, 1); 0 starts at the peak.
        annihilation: Fraction of the run, in [0, 1).
        anneal: Straight phases, or half-cosines.

    Raises:
        ValueError: A value is negative or not finite, or the run is too short for its phases.
    """
    base = max_lr / 10 if base_lr is None else base_lr
    final = base / 100 if final_lr is None else final_lr
    _check(max_lr=max_lr, base_lr=base, final_lr=final)
    times = _cycle_times(total_steps, warmup, annihilation)
    values = [base, max_lr, base, final] if len(times) == 4 else [base, max_lr, final]
    return _through(times, values, anneal)


@_picklable
def cyclical_momentum(
    total_steps: int,
    *,
    max_momentum: float = 0.95,
    min_momentum: float = 0.85,
    warmup: float = 0.45,
    annihilation: float = 0.1,
    anneal: Anneal = "linear",
) -> Schedule:
    """Momentum that moves against the rate of `one_cycle` with the same phases (Smith, arXiv 1803.09820, section 4.2).

    It falls while the rate rises, and stays at its maximum in the annihilation.

    Raises:
        ValueError: Momenta outside [0, 1), or a run too short for its phases.
    """
    if not (0 <= min_momentum < 1 and 0 <= max_momentum < 1):
        raise ValueError(f"momentum must be in [0, 1), not {min_momentum} to {max_momentum}")
    times = _cycle_times(total_steps, warmup, annihilation)
    values = [max_momentum, min_momentum, max_momentum, max_momentum]
    return _through(times, values[: len(times)], anneal)


@_picklable
def triangular(base_lr: float, max_lr: float, step_size: int) -> Schedule:
    """Up and down for ever, base at t = 0, 2·step_size, …, as Caffe's policy of that name (Smith, arXiv 1506.01186).

    Args:
        base_lr: Lowest rate.
        max_lr: Highest rate, at t = step_size, 3·step_size, …
        step_size: Updates of half a cycle.
    """
    return _cyclical(base_lr, max_lr, step_size, lambda cycle, t: 1.0)


@_picklable
def triangular2(base_lr: float, max_lr: float, step_size: int) -> Schedule:
    """`triangular` whose height is halved after every cycle (arXiv 1506.01186, section 3.1)."""
    return _cyclical(base_lr, max_lr, step_size, lambda cycle, t: 0.5**cycle)


@_picklable
def exp_range(base_lr: float, max_lr: float, step_size: int, *, gamma: float) -> Schedule:
    """`triangular` whose height shrinks by `gamma` with every update (arXiv 1506.01186, section 3.1)."""
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], not {gamma}")
    return _cyclical(base_lr, max_lr, step_size, lambda cycle, t: gamma**t)


@_picklable
def linear_range(total_steps: int, max_lr: float, *, start_lr: float = 0.0) -> Schedule:
    """The LR range test's sweep: straight from `start_lr` at update 0 to `max_lr` at update N−1 (arXiv 1708.07120)."""
    _check(start_lr=start_lr, max_lr=max_lr)
    return _through([0, _last(total_steps)], [start_lr, max_lr], "linear")


@_picklable
def exponential_range(total_steps: int, max_lr: float, *, start_lr: float) -> Schedule:
    """A sweep by a constant factor, from `start_lr` at update 0 to `max_lr` at update N−1."""
    _check(start_lr=start_lr, max_lr=max_lr)
    if start_lr == 0 or max_lr == 0:
        raise ValueError("an exponential sweep cannot start or end at rate 0: give a small rate, or sweep linearly")
    last = _last(total_steps)

    def schedule(t: int) -> float:
        return max_lr if t >= last else start_lr * (max_lr / start_lr) ** (t / last)

    return schedule


@_picklable
def piecewise_constant(lr: float, boundaries: Sequence[int], *, gamma: float = 0.1) -> Schedule:
    """`lr`, times `gamma` from each boundary on: Caffe's `multistep`, the paper's baseline."""
    _check(lr=lr, gamma=gamma)
    marks = list(boundaries)
    if any(b <= a for a, b in pairwise([0, *marks])):
        raise ValueError(f"boundaries must be rising updates above 0, not {marks}")
    return lambda t: lr * gamma ** bisect_right(marks, t)


@_picklable
def cosine(total_steps: int, max_lr: float, *, final_lr: float = 0.0, warmup: float = 0.0) -> Schedule:
    """A linear rise from 0 over the first `warmup` of the run, then half a cosine to `final_lr` (arXiv 1608.03983).

    Raises:
        ValueError: A value is negative or not finite, `warmup` is no fraction below 1, or the run too short for it.
    """
    return _decay(total_steps, max_lr, final_lr, warmup, "cosine")


@_picklable
def linear(total_steps: int, max_lr: float, *, final_lr: float = 0.0, warmup: float = 0.0) -> Schedule:
    """A linear rise from 0 over the first `warmup` of the run, then a straight fall to `final_lr`.

    Raises:
        ValueError: As `cosine`.
    """
    return _decay(total_steps, max_lr, final_lr, warmup, "linear")


@_picklable
def warmed_up(schedule: Schedule, steps: int) -> Schedule:
    """The same schedule, times a linear rise from 0 over its first `steps` updates."""
    if steps < 1:
        raise ValueError(f"a rise takes at least 1 update, not {steps}")
    return lambda t: schedule(t) * min(1.0, t / steps)


@_picklable
def warmup_stable_decay(
    total_steps: int,
    max_lr: float,
    *,
    warmup: float = 0.05,
    decay: float = 0.2,
    final_lr: float = 0.0,
    anneal: Cooldown = "linear",
) -> Schedule:
    """A linear rise from 0, a plateau, a fall (arXiv 2405.18392).

    Args:
        total_steps: Updates of the whole run, N.
        max_lr: Rate of the plateau.
        warmup: Fraction of the run that rises.
        decay: Fraction of the run that falls.
        final_lr: Rate of update N−1, if there is a decay.
        anneal: Shape of the fall: straight, half a cosine, or `"sqrt"`: 1 − √x, which that paper found best.

    Raises:
        ValueError: Fractions outside [0, 1] or above 1 together, or a run too short for them.
    """
    _check(max_lr=max_lr, final_lr=final_lr, warmup=warmup, decay=decay)
    if warmup + decay > 1:
        raise ValueError(f"warmup {warmup} and decay {decay} must not exceed 1 together")
    last = _last(total_steps)
    times = [0, *(min(last, round(total_steps * share)) for share in (warmup, 1 - decay)), last]
    if times[1] > times[2] or (warmup and times[1] == 0) or (decay and times[2] == last):
        raise ValueError(f"{total_steps} updates are too few for phases that end at updates {times}: take more")
    fall = _through([0, last - times[2]], [max_lr, final_lr if decay else max_lr], anneal)
    rise = _through([0, times[1]], [0.0 if times[1] else max_lr, max_lr], "linear")
    return lambda t: rise(t) if t < times[2] else fall(t - times[2])


@_picklable
def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other: from `boundaries[i]` on `schedules[i + 1]` rules, counting from there.

    Raises:
        ValueError: There is not one boundary fewer than schedules, or they do not rise.
    """
    starts = [0, *boundaries]
    if len(starts) != len(schedules) or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} rising boundaries above 0")

    def schedule(t: int) -> float:
        i = bisect_right(boundaries, t)
        return schedules[i](t - starts[i])

    return schedule


def _decay(total_steps: int, max_lr: float, final_lr: float, warmup: float, anneal: Anneal) -> Schedule:
    _check(max_lr=max_lr, final_lr=final_lr, warmup=warmup)
    last, peak = _last(total_steps), round(total_steps * warmup)
    if peak >= last or (warmup and peak == 0):
        raise ValueError(f"{total_steps} updates are too few for a fall after a rise of {warmup:.0%} (warmup) of them")
    fall = _through([0, last - peak], [max_lr, final_lr], anneal)
    return lambda t: max_lr * t / peak if t < peak else fall(t - peak)


def _through(times: Sequence[int], values: Sequence[float], anneal: Cooldown) -> Schedule:
    """Values hit exactly at their times, annealed between them, held outside."""
    if anneal not in get_args(Cooldown):
        raise ValueError(f"anneal must be one of {', '.join(get_args(Cooldown))}, not {anneal!r}")

    def schedule(t: int) -> float:
        i = bisect_right(times, t) - 1
        if i < 0 or i >= len(times) - 1 or t == times[i]:
            return values[max(i, 0)]
        x = (t - times[i]) / (times[i + 1] - times[i])
        share = x if anneal == "linear" else (1 - cos(pi * x)) / 2 if anneal == "cosine" else sqrt(x)
        return values[i] + (values[i + 1] - values[i]) * share

    return schedule


def _cycle_times(total_steps: int, warmup: float, annihilation: float) -> list[int]:
    """Updates of the first foot, the peak, the second foot (if the cycle has one) and the end."""
    for name, fraction in (("warmup", warmup), ("annihilation", annihilation)):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name} is a fraction of the run, in [0, 1), not {fraction}")
    last = _last(total_steps)
    peak, foot = round(total_steps * warmup), round(total_steps * (1 - annihilation))
    times = [0, peak, foot, last] if annihilation else [0, peak, last]
    rising = times[1:] if warmup == 0 else times
    if any(b <= a for a, b in pairwise(rising)):
        raise ValueError(
            f"{total_steps} updates are too few for a cycle whose phases end at updates {times}: "
            f"take more updates, or change warmup ({warmup}) and annihilation ({annihilation})"
        )
    return times


def _cyclical(base_lr: float, max_lr: float, step_size: int, height: Callable[[int, int], float]) -> Schedule:
    _check(base_lr=base_lr, max_lr=max_lr)
    if step_size < 1:
        raise ValueError(f"step_size must be at least 1 update, not {step_size}")

    def schedule(t: int) -> float:
        cycle = t // (2 * step_size)
        distance = abs(t / step_size - 2 * cycle - 1)
        return base_lr + (max_lr - base_lr) * max(0.0, 1 - distance) * height(cycle, t)

    return schedule


def _last(total_steps: int) -> int:
    if total_steps != int(total_steps):
        raise ValueError(f"total_steps must be a whole number of updates, not {total_steps}")
    if total_steps < 2:
        raise ValueError(f"total_steps must be at least 2 updates, not {total_steps}")
    return total_steps - 1


def _check(**values: float) -> None:
    for name, value in values.items():
        if not isfinite(value) or value < 0:
            raise ValueError(f"{name} must be a finite number that is not negative, not {value}")
