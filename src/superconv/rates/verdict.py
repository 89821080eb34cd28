"""The verdict: from a range-test curve to the bounds of a cycle, and whether super-convergence is likely.

A normal network's curve rises to a peak and falls within a small factor of the rate. Super-convergence was
seen where it stays high up to very large rates (Smith & Topin, arXiv 1708.07120, section 3). So the question
is how wide the plateau is, as a ratio of rates, and the answer must not hang on single points: those of the
author's good curves jump between 0.62 and 0.80.

**Method.** Values are put on a scale where 0 is the level before training and 1 that of the plateau, and cut
off there, so accuracies, losses and blow-ups are treated alike. The plateau is the stretch of the sweep that
maximises ``sum(value - 0.7)``: a box fitted to the curve, in which a short dip costs little and which a
lasting fall ends. Its level is the median of its own points. All of this counts points of the sweep, so
linear and exponential sweeps need no distinction. ``lr_min`` is where the running median first has 90 % of
that level, and ``lr_max`` where it last has, but at most the edge / 1.5: a divergence takes updates to show,
so the edge is seen late. Short cycles of small MLPs and CNNs trained up to that rate, and most of them broke
down at the edge.

**Calibration** on the author's logs (test accuracy), ``width`` = (edge or end of the sweep) / ``lr_min``:

=============================================  ================  =============
sweep                                          fall              width
=============================================  ================  =============
ResNet-56, 0-3 in 5k and 20k iterations        none              9.8, 20
ResNet-56 with dropout, 0-3 in 20k             none              25
ResNet-20 and ResNet-56 (two), 0-2 in 80k      none              31, 27, 27
bottleneck ResNet-56, 0-3 in 20k, clip 2       at 0.72           6.9
ResNeXt-56, 0-3 in 20k, clip 5 and 10          at 0.57, 0.48     5.4, 4.0
=============================================  ================  =============

The width alone depends on the length of a sweep (a slower one reaches its plateau at a smaller rate), so the
fall counts too. A plateau whose fall was seen is called wide from 30 on, over four times the widest of the
second group. One without a fall is only known to be wider than seen: it is enough that it is 3 wide, a third
of the narrowest of the first group and the least a cycle needs (max/3 to max), if it reaches a rate of 1,
where the second group had long fallen; below that the sweep was too short to tell.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from superconv.rates.curve import Array, Curve
from superconv.rates.curve_file import MIN_POINTS
from superconv.rates.loss_levels import BOX_POINTS, MOVED, defended, smoothed
from superconv.rates.loss_levels import loss_levels as loss_levels

WIDE = 30.0  # width from which a plateau is no usual peak, whatever follows
OPEN_WIDE, OPEN_LR = 3.0, 1.0  # width and last rate that suffice where no fall was seen
PLATEAU, FALLEN = 0.9, 0.7  # relative levels: on the plateau; outside of it
SAFETY = 1.5  # lr_max stays this factor below the edge
LEARNING = 100  # updates before which a network has had no time: a plateau that begins there may be wider than it looks
CLEAR = 5.0  # standard errors between the plateau and the rest; pure noise gets there once in 100 curves
AGREED = 0.5  # share of resamples that must agree with a verdict of `likely`
FAR = 10.0  # times the rate of the lowest loss, from which no rate is called good where the loss has clearly risen
MOST_BINS = 200  # longer sweeps are binned by medians: nothing is lost, and time is bounded
RESAMPLES = 200


@dataclass(frozen=True)
class Verdict:
    """What a range test says about a network.

    The bounds follow the papers. The largest rate of a cycle is where the curve's peak or plateau ends,
    before the fall (arXiv 1506.01186; 1708.07120, section 3). The smallest is ``max / 10`` (`base_lr`) to
    ``max / 20`` for a single cycle and ``max / 3`` to ``max / 4`` for many (1803.09820).

    Attributes:
        outcome: Whether super-convergence is to be expected.
        lr_min: Rate at which the plateau is reached; None if nothing was learned, as are the next three.
        lr_max: Largest rate on the plateau; the end of the sweep where no fall was seen.
        lr_edge: Rate at which the curve has fallen or training broke down; None where no fall was seen.
        width: Edge (or end of the sweep) over `lr_min`.
        confidence: Share of block-bootstrap resamples of the curve with the same verdict, 0 to 1. A verdict that fewer
            than half of them share is `inconclusive`.
        reason: Why, in one sentence or two.
        suggested_lr: Peak of a cycle that the sweep can defend, whatever the outcome. It is half of `lr_max`, because a
            short sweep passes by rates that a longer stay would not tolerate, and without super-convergence at most the
            rate of the lowest training loss. Where no plateau was seen, it is half of that rate; where nothing was
            learned, half of the largest rate at which the loss had not risen. The smallest rate of a sweep that broke
            down at once. `None` only if no rate was above 0.

    >>> import superconv
    >>> verdict = superconv.Verdict("likely", 0.1, 2.0, None, 30.0, 0.9, "The plateau is wide.")
    >>> verdict.headline, verdict.base_lr
    ('likely (confidence 90%)', 0.2)
    """

    outcome: Literal["likely", "unlikely", "inconclusive"]
    lr_min: float | None
    lr_max: float | None
    lr_edge: float | None
    width: float | None
    confidence: float
    reason: str
    suggested_lr: float | None = None

    @property
    def headline(self) -> str:
        """The verdict, with its confidence where it is one."""
        return self.outcome if self.outcome == "inconclusive" else f"{self.outcome} (confidence {self.confidence:.0%})"

    @property
    def base_lr(self) -> float | None:
        """Lower rate of a single cycle: a tenth of `lr_max`."""
        return None if self.lr_max is None else self.lr_max / 10


@dataclass(frozen=True)
class _Sweep:
    """All seeds as one series, higher values better."""

    lr: Array  # (n,) ascending
    value: Array  # (n,) never below floor
    floor: float  # level before training
    noise: float  # standard deviation of a point, estimated from neighbours as if normal
    learned: float  # rate at update LEARNING of a sweep whose updates are known, else 0
    broke: bool  # the last rate is where training broke down
    loss: bool  # values are losses, turned round


@dataclass(frozen=True)
class _Plateau:
    lr_min: float
    lr_max: float
    lr_edge: float | None
    lr_end: float  # last rate of the sweep

    @property
    def width(self) -> float:
        return (self.lr_edge or self.lr_end) / self.lr_min


def judge(curve: Curve, *, seed: int = 0) -> Verdict:
    """Judge a range test from its curve alone (method and calibration: the module's docstring).

    Several seeds are averaged; one that stopped early counts as fallen from its last rate on, and so does a
    value that is not finite.

    Args:
        curve: At least 10 points with a value say something, hundreds say more.
        seed: Of the bootstrap.

    Returns:
        The verdict. `lr_max` is a number whenever anything was learned.

    >>> import superconv
    >>> lr = tuple(0.03 * (1 + i) for i in range(100))
    >>> accuracy = tuple(min(0.9, 3 * rate) for rate in lr)
    >>> nothing = (None,) * 100
    >>> curve = superconv.Curve(lr, tuple(range(100)), (0,) * 100, nothing, accuracy, nothing, nothing)
    >>> verdict = superconv.judge(curve)
    >>> verdict.outcome, verdict.lr_edge, verdict.lr_max
    ('likely', None, 3.0)
    """
    sweep = _sweep(curve)
    found = None if sweep is None else _plateau(sweep)
    verdict = _decide(found, sweep.learned if sweep else 0.0)
    confidence = 1.0 if sweep is None else _confidence(sweep, found, verdict, seed)
    reason = _reason(found, verdict, curve.label, fell="has risen" if not curve.rising_is_better else "has fallen")
    if verdict == "likely" and confidence < AGREED:
        verdict = "inconclusive"
        reason += f" But only {confidence:.0%} of resamples of the curve say so: measure more often, or more seeds."
    return Verdict(
        outcome=verdict,
        lr_min=found.lr_min if found else None,
        lr_max=found.lr_max if found else None,
        lr_edge=found.lr_edge if found else None,
        width=found.width if found else None,
        confidence=confidence,
        reason=reason,
        suggested_lr=_suggested(curve, sweep, found, verdict),
    )


def _suggested(curve: Curve, sweep: _Sweep | None, found: _Plateau | None, verdict: str) -> float | None:
    """See `Verdict.suggested_lr`."""
    rates = [rate for rate in curve.lr if rate > 0]
    if len(rates) < MIN_POINTS:  # it broke down at once
        return min(rates, default=None)
    levels = loss_levels(curve)
    lowest, unharmed = (None, None) if levels is None else defended(curve, levels)
    if found:
        half = found.lr_max / 2
        return half if verdict == "likely" or lowest is None else min(half, lowest)
    if unharmed:
        return (lowest or unharmed) / 2
    if sweep and (smooth := smoothed(sweep.value)).max() > sweep.floor:
        return float(sweep.lr[smooth.argmax()]) / 2 or None
    return min(rates)


def _sweep(curve: Curve) -> _Sweep | None:
    """Turn losses round, cut at the level before training, average the seeds, bin; None: too few points."""
    sign = 1.0 if curve.rising_is_better else -1.0
    series = {seed: curve.signal(seed=seed) for seed in curve.seeds}
    series = {seed: (lr, sign * values) for seed, (lr, values) in series.items() if np.isfinite(values).any()}
    if not series or max(len(lr) for lr, _ in series.values()) < BOX_POINTS:
        return None
    bounded = sign > 0 and all(np.nanmin(values) >= 0 for _, values in series.values())  # as R² is not
    floor = float(np.mean([_start(v[np.isfinite(v)], bounded=bounded) for _, v in series.values()]))
    stopped = {seed for seed, _ in curve.stopped}
    grid = max((lr for lr, _ in series.values()), key=lambda lr: float(lr[-1]))
    rows = []
    for seed, (lr, values) in series.items():
        usable = np.maximum(np.where(np.isfinite(values), values, floor), floor)
        rows.append(np.interp(grid, lr, usable, right=floor if seed in stopped else np.nan))
    value = np.nanmean(rows, axis=0)
    width = -(-len(grid) // MOST_BINS)
    if width > 1:
        parts = [slice(i, i + width) for i in range(0, len(grid), width)]
        value = np.array([np.median(value[part]) for part in parts])
        grid = np.array([np.mean(grid[part]) for part in parts])
    jumps = np.abs(np.diff(value))[np.maximum(value[1:], value[:-1]) > floor]  # those cut off say nothing
    noise = 1.05 * float(np.median(jumps)) if len(jumps) else 0.0
    return _Sweep(grid, value, floor, noise, _learned(curve), broke=stopped >= set(series), loss=sign < 0)


def _learned(curve: Curve) -> float:
    if curve.total_steps is None:
        return 0.0
    return max((rate for rate, step in zip(curve.lr, curve.step, strict=True) if step <= LEARNING), default=0.0)


def _start(values: Array, *, bounded: bool) -> float:
    """Level before training: the worst of the first three values, for accuracies of the smoothed curve too.

    A first loss over ten times the second is left out: Caffe tests without batch-norm statistics to 87.3.
    """
    if bounded:
        return float(min(values[:3].min(), smoothed(values).min()))
    skip = int(len(values) > 3 and values[0] < 10 * values[1] < 0)
    return float(values[skip : skip + 3].min())


def _plateau(sweep: _Sweep) -> _Plateau | None:
    """The box that fits the curve best, or None where no rise is clear."""
    lr, value, floor = sweep.lr, sweep.value, sweep.floor
    smooth = smoothed(value)
    level = float(smooth.max())
    for _ in range(3):  # the level is that of the box, the box depends on the level; two rounds settle it
        if level <= floor:
            return None
        gain = np.clip((value - floor) / (level - floor), 0, 1) - FALLEN
        total = np.concatenate([[0.0], np.cumsum(gain)])
        last = int(np.argmax(total[1:] - np.minimum.accumulate(total[:-1])))
        first = int(np.argmin(total[: last + 1]))
        level = float(np.median(value[first : last + 1]))
    inside = np.arange(first, last + 1)
    outside = np.delete(value, inside)
    if len(outside) == 0 or level - floor <= 0.02 * max(abs(level), abs(floor)):
        return None
    error = sweep.noise * (1 / len(inside) + 1 / len(outside)) ** 0.5
    if level - float(outside.mean()) <= CLEAR * error:
        return None
    lost = total[last + 1] - total[-1]  # how far below FALLEN the rest of the sweep lies, in points
    fell = sweep.broke or lost >= max(0.5, len(lr) / 100)
    on = first + np.flatnonzero(smooth[first : last + 1] >= floor + PLATEAU * (level - floor))
    begin, end = (int(on[0]), int(on[-1])) if len(on) else (first, last)
    lr_edge = float(lr[min(last + 1, len(lr) - 1)]) if fell else None
    if sweep.loss and (past := _far_past_the_lowest(sweep, smooth)) and past < (lr_edge or np.inf):
        lr_edge = past
    lr_min = float(lr[begin] or lr[lr > 0][0])  # the paper's sweep starts at 0
    lr_max = float(lr[-1]) if lr_edge is None else max(lr_min, min(float(lr[end]), lr_edge / SAFETY))
    return _Plateau(lr_min, lr_max, lr_edge, float(lr[-1]))


def _far_past_the_lowest(sweep: _Sweep, smooth: Array) -> float | None:
    """Rate `FAR` times that of the lowest loss, where the loss is clearly above it from there on; else None.

    A loss far above its lowest may still be nearer to that than to the first one, and so on the plateau.
    """
    lowest = int(smooth.argmax())
    if not (
        far := np.flatnonzero(sweep.lr > FAR * max(float(sweep.lr[lowest]), float(sweep.lr[sweep.lr > 0][0])))
    ).size:
        return None
    return float(sweep.lr[far[0]]) if smooth[far].max() < smooth[lowest] - MOVED * sweep.noise else None


def _decide(found: _Plateau | None, learned: float) -> Literal["likely", "unlikely", "inconclusive"]:
    if found is None:
        return "inconclusive"
    if found.width >= WIDE:
        return "likely"
    if found.lr_edge is not None:
        return "unlikely" if found.lr_min > learned else "inconclusive"
    return "likely" if found.width >= OPEN_WIDE and found.lr_end >= OPEN_LR else "inconclusive"


def _reason(found: _Plateau | None, verdict: str, label: str, *, fell: str) -> str:
    fall, moved = ("rise", "fell clearly below") if fell == "has risen" else ("fall", "rose clearly above")
    if found is None:
        return (
            f"The {label} has too few points or never {moved} where it began, so the sweep says nothing "
            "about rates: check data and model, sweep other rates, or take more steps."
        )
    begin, end, width = f"{found.lr_min:.2g}", f"{found.lr_end:.2g}", f"{float(f'{found.width:.2g}'):g}"
    if found.lr_edge is not None:
        edge = f"The {label} is on its plateau from a rate of {begin} and {fell} at {found.lr_edge:.2g}"
        if verdict == "likely":
            return f"{edge}, {width} times that: far wider than the usual peak."
        if verdict == "inconclusive":
            return (
                f"{edge}, {width} times that; but the sweep had passed the first rate before it was {LEARNING} updates "
                "old, so how early the plateau begins cannot be seen: take more steps to know."
            )
        return f"{edge}, {width} times that: a usual peak and {fall}, not the wide plateau of super-convergence."
    if verdict == "likely":
        held = f"The {label} holds its plateau from a rate of {begin} to the end of the sweep at {end}"
        return f"{held}, {width} times that; no {fall} was seen, so lr_max is the end of the sweep."
    return (
        f"The {label} reaches its plateau at a rate of {begin} and no {fall} was seen up to the end of the sweep at "
        f"{end} (taken as lr_max), which is too early to tell: extend the sweep to larger rates."
    )


def _confidence(sweep: _Sweep, found: _Plateau | None, verdict: str, seed: int) -> float:
    """Share of resamples with the same verdict: blocks of neighbours, drawn with replacement, put in order.

    Blocks of n^(1/3) points keep the correlation of neighbours, which come from one training run. The points before the
    plateau stay, the first one always: where a linear sweep rises at once, few show the level before training.
    """
    rng = np.random.default_rng(seed)
    n = len(sweep.lr)
    size = max(1, round(n ** (1 / 3)))
    before = np.arange(max(1, int(np.searchsorted(sweep.lr, found.lr_min)) if found else 1))
    same = 0
    for _ in range(RESAMPLES):
        starts = rng.integers(0, n - size + 1, size=-(-n // size))
        drawn = (starts[:, None] + np.arange(size)).ravel()[: n - 1]
        rows = np.sort(np.append(drawn[drawn >= len(before)] if found else drawn, before))
        sample = replace(sweep, lr=sweep.lr[rows], value=sweep.value[rows])
        same += _decide(_plateau(sample), sweep.learned) == verdict
    return same / RESAMPLES
