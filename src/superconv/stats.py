"""Means of few seeds with honest intervals, and the speed-up that two sets of them speak for."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

DRAWS = 100_000  # so many that the ends of an interval are not their chance

Scores = Mapping[int, Sequence[float]]  # steps → final validation score of each seed

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and the ends of its 95 % interval by Student's t; one value has no interval."""
    mean = statistics.fmean(values)
    n = len(values)
    if n < 2:
        return mean, None, None
    half = student(n - 1) * statistics.stdev(values) / n**0.5
    return mean, mean - half, mean + half


def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; that of the next whole degrees of freedom below, which is larger."""
    whole = max(1, int(freedom))
    return _T[whole - 1] if whole <= len(_T) else statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times shorter a one-cycle run may be than a baseline's of `baseline_steps` updates, at its accuracy."""

    baseline: str
    baseline_steps: int
    one_cycle_steps: int | None
    """Shortest one-cycle run whose mean final validation score reaches the baseline's; none if no run does."""
    ratio: float | None
    low: float | None
    high: float | None
    """95 % interval of the ratio under means drawn by Student's t around those of the seeds; none where that end is a
    draw that no run reaches, or where there is one seed."""
    reason: str
    seeds: int
    """The fewest that a mean is of: with one there is no interval."""


def speed_up(one_cycle: Scores, baseline: Scores, *, name: str, higher_is_better: bool = True) -> list[SpeedUp]:
    """The speed-up over a baseline at each of its lengths.

    Within one long run a cycle is only good at its end, so whole runs of different lengths are compared.
    """
    sign = 1.0 if higher_is_better else -1.0
    cycles = {n: sign * statistics.fmean(one_cycle[n]) for n in sorted(one_cycle)}
    results = []
    for steps in sorted(baseline):
        seeds = min(map(len, [baseline[steps], *one_cycle.values()]))
        draw = np.random.default_rng(steps)
        reached = next((n for n in cycles if cycles[n] >= sign * statistics.fmean(baseline[steps])), None)
        target, ratios = _likely_means(baseline[steps], draw), np.zeros(DRAWS)
        for n in reversed(cycles):
            ratios[sign * _likely_means(one_cycle[n], draw) >= sign * target] = steps / n
        low, high = map(float, np.quantile(ratios, (0.025, 0.975), method="inverted_cdf"))
        results.append(
            SpeedUp(
                baseline=name,
                baseline_steps=steps,
                one_cycle_steps=reached,
                ratio=reached and steps / reached,
                low=low or None if seeds > 1 else None,
                high=high or None if seeds > 1 else None,
                reason=_words(name, steps, reached, one_cycle),
                seeds=seeds,
            )
        )
    return results


def _likely_means(values: Sequence[float], draw: np.random.Generator) -> NDArray[np.float64]:
    """(draws,) means that could be behind the values: by Student's t around theirs, as resampling few is too narrow."""
    if len(values) == 1:
        return np.full(DRAWS, values[0])
    spread = statistics.stdev(values) / sqrt(len(values))
    return statistics.fmean(values) + spread * draw.standard_t(len(values) - 1, DRAWS)


def _words(name: str, steps: int, reached: int | None, cycle: Scores) -> str:
    if reached is None:
        return f"no one-cycle run of up to {max(cycle)} updates reaches {name} at {steps}"
    return f"one cycle of {reached} updates reaches {name} at {steps}"
