"""Whether the curvature estimate and the range test say the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from superconv.rates.verdict import Verdict

FACTOR = (
    3.0  # the estimate may lie this far above lr_max: a stable rate is up to twice the optimal one, and it is noisy
)


@dataclass(frozen=True)
class Agreement:
    """The two methods of the paper, combined.

    Attributes:
        estimate: Median of the smoothed estimate over the sweep's plateau; None where there is none.
        agrees: Whether it lies within [lr_min, 3·lr_max]; None where there is nothing to compare.
        sentence: That in words.
    """

    estimate: float | None
    agrees: bool | None
    sentence: str


def compare_estimate(verdict: Verdict, lrs: Sequence[float], estimates: Sequence[float | None]) -> Agreement:
    """Compare a range test with the Hessian-free estimate that was measured during the same sweep.

    Args:
        verdict: Of the range test.
        lrs: Rate of each update of the sweep.
        estimates: Smoothed estimate after it; None where there was none.
    """
    if verdict.lr_min is None or verdict.lr_max is None:
        return Agreement(
            None, None, "The range test found no plateau, so there is nothing to compare the estimate with."
        )
    low, high = verdict.lr_min, verdict.lr_max
    seen = [e for lr, e in zip(lrs, estimates, strict=True) if low <= lr <= high and e is not None and isfinite(e)]
    if not seen:
        return Agreement(
            None, None, "No curvature estimate was measured on the plateau, so there is nothing to compare."
        )
    middle = median(seen)
    agrees = low <= middle <= FACTOR * high
    relation = "within" if agrees else "below" if middle < low else "above"
    sentence = (
        f"Over the plateau the curvature estimate has a median of {middle:.2g}, {relation} the {low:.2g} to "
        f"{FACTOR * high:.2g} that the range test lets expect: they {'agree' if agrees else 'do not agree'}."
    )
    return Agreement(middle, agrees, sentence)
