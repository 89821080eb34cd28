"""Means of few seeds with honest intervals."""

import statistics
from collections.abc import Sequence

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
