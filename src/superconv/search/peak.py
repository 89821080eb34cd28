"""Which peak a run of a given length wants, from short cycles under several peaks.

A range test says what rates a network bears for a moment. How large a peak pays depends on how long the cycle is: a
ResNet-20 on CIFAR-10 (batch 256) wants 0.1 for 40 updates and 0.35 for 220, a recurrent network on digits 0.26 for 20
and 0.09 for 485. So a few short cycles are trained to their end, all from the same weights through the same batches,
then a few longer ones about the best of them, in smaller steps towards an edge that was seen, and what the best
peak did between the two lengths is carried on to the whole, with caution.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import exp, inf, isfinite, log
from typing import Any

from superconv.errors import UserError
from superconv.rates.traits import Traits
from superconv.recipe import Recipe
from superconv.search.probe import Probe, probe_cycle
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

FACTOR = 3.0  # between two peaks that are tried: a parabola through three then finds the best within a tenth or so
MOST = 12  # probes of a length, however bad the first guess
LEAST, SHARE = 20, 1 / 16  # updates of a short probe: at least, and of those that the search may take
FIRST = 0.45  # of the updates go into short probes, more only until a peak above the best was tried
LONGER = 1.5  # times a short probe, at least, is a longer one
LITTLE = 0.005  # of a loss, by which it is better at a larger peak where both are far too small
NOTHING, ALIKE = 0.05, 0.03  # of the first loss: by less nothing was learned, and two such losses do not differ
STRIDE = 4  # places at most between two peaks that are tried
BROKEN = 4.0  # times its first loss, at which a probe is given up
GROWTH, LEARNED = 1.2, 0.4  # the best peak grows with the length to the power GROWTH · (share of loss left − LEARNED)
BATCH_NORM_GROWTH = 1.5  # in place of GROWTH, as no weight but the last layer's is left without a free scale
ADAPTIVE_FALL = 0.3  # power with which that of adaptive optimizers falls without batch norm
STEEPEST = 0.6  # power that two lengths of probes can speak for
CLEAR = 0.6  # sharpness of a bracket from which the place of its best peak is certain
FARTHEST = 4.0  # times the probes' best peak, or a part of it, at most
AT_THE_EDGE = 0.6  # times it at most, where the next larger peak broke down: a longer stay bears less


@dataclass(frozen=True, kw_only=True)
class PeakSearch:
    """Probes, and the peak that follows from them.

    >>> import superconv
    >>> superconv.find_peak(lambda max_lr, steps: None, total_steps=500).max_lr is None
    True
    """

    max_lr: float | None
    """Peak for the whole run; none where every probe broke down."""
    probes: tuple[Probe, ...]
    reason: str
    first_loss: float | None = None
    """Before any update; none where every probe broke down."""

    @property
    def updates(self) -> int:
        """What the probes cost."""
        return sum(probe.steps for probe in self.probes)


@dataclass(frozen=True)
class _Bracket:
    """Probes of one length by rising peak, a `FACTOR` apart, or less where an edge is looked for."""

    probes: tuple[Probe, ...]
    first: float
    """Loss before any update."""

    @property
    def best(self) -> int | None:
        """The place of the lowest loss; none where all broke down."""
        best = _best([_loss(probe) for probe in self.probes], self.first)
        return best if isfinite(_loss(self.probes[best])) else None

    @property
    def lowest(self) -> Probe:
        """The best, of which there is one."""
        return self.probes[self.best or 0]

    @property
    def updates(self) -> int:
        return sum(probe.steps for probe in self.probes)

    @property
    def edge(self) -> bool:
        """Whether the next peak above the best broke down, at most a `FACTOR` away."""
        above = self.probes[(self.best or 0) + 1 :]
        return bool(above) and above[0].loss is None and above[0].max_lr < 1.1 * FACTOR * self.lowest.max_lr

    @property
    def open(self) -> bool:
        """Whether the best is the largest that was tried."""
        return self.best == len(self.probes) - 1

    @property
    def closed(self) -> bool:
        """Whether the best lies between two others that are at most a `FACTOR` away."""
        if self.best is None or not 0 < self.best < len(self.probes) - 1:
            return False
        below, best, above = (probe.max_lr for probe in self.probes[self.best - 1 : self.best + 2])
        return max(above / best, best / below) < 1.1 * FACTOR

    @property
    def peak(self) -> float:
        """Where the parabola through the best and its neighbours is lowest; the best itself if a neighbour lacks."""
        best = self.best or 0
        if not self.closed:
            return self.probes[best].max_lr
        tried = self.probes[best - 1 : best + 2]
        (low, middle, high), (below, lowest, above) = [log(p.max_lr) for p in tried], map(_loss, tried)
        falls, rises = (lowest - below) / (middle - low), (above - lowest) / (high - middle)
        if not isfinite(rises - falls) or rises <= falls:
            return self.probes[best].max_lr
        return exp((low + middle - falls * (high - low) / (rises - falls)) / 2)

    @property
    def sharpness(self) -> float:
        """Of the valley about the best: by how much neighbours at most a `FACTOR` away are worse, as logarithms."""
        at, lowest = self.best or 0, _loss(self.lowest)
        beside = (*self.probes[max(0, at - 1) : at], *self.probes[at + 1 : at + 2])
        near = [_loss(p) for p in beside if abs(log(p.max_lr / self.lowest.max_lr)) < log(1.1 * FACTOR)]
        worse = [log(loss / lowest) for loss in near if isfinite(loss)] if lowest > 0 else []
        return max(0.0, 2 * sum(worse) / len(worse)) if worse else 0.0

    def __str__(self) -> str:
        tried = ", ".join(f"{p.max_lr:.2g}: {'broke down' if p.loss is None else f'{p.loss:.3g}'}" for p in self.probes)
        return f"{self.peak:.2g} is best of cycles of {self.probes[0].length} updates (loss after each peak: {tried})"


def search_peak(
    task: Task,
    recipe: Recipe,
    *,
    start: float,
    updates: int,
    plan: ExecutionPlan,
    traits: Traits | None = None,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
) -> PeakSearch:
    """Find the peak for a recipe's whole length.

    Args:
        task: What is trained.
        recipe: All but the peak.
        start: First peak to try.
        updates: What all probes may cost; a bracket that is not closed then counts as it is.
        plan: Where it runs.
        traits: Traits of the task's network and optimizers; read from fresh ones, if not given.
        seed: Of weights, order and augmentation, the same for every probe.
        hooks: Look on.
    """
    first_loss = [inf]

    def cycle(length: int, max_lr: float, broken: float) -> Probe:
        tried = at_peak(of_length(recipe, length), max_lr)
        return probe_cycle(task, tried, plan=plan, seed=seed, hooks=hooks, first_loss=first_loss, broken=broken)

    return search_by(
        cycle,
        steps=recipe.steps,
        start=start,
        updates=updates,
        traits=traits or task.traits(recipe),
        first_loss=first_loss,
    )


def search_by(
    cycle: Callable[[int, float, float], Probe],
    *,
    steps: int,
    start: float,
    updates: int,
    traits: Traits,
    first_loss: Sequence[float] = (inf,),
) -> PeakSearch:
    """Find the peak for a run of `steps` updates by cycles that anybody trains.

    Args:
        cycle: (length, peak, times the first loss at which it may be given up) → the cycle, trained from a fresh start.
        steps: Length of the run.
        start: First peak to try.
        updates: Updates that all cycles may cost.
        traits: Traits of the training.
        first_loss: Loss before any update, once a cycle has been trained; infinite where nobody knows it.
    """
    broken = BROKEN

    def bracket(start: float, length: int, updates: float, most: float, **options: Any) -> _Bracket:
        def probe(k: int) -> Probe:
            return cycle(length, start * FACTOR ** (k / options.get("parts", 1)), broken)

        return _bracket(probe, length, updates, most, first_loss=first_loss, **options)

    def grows(loss: float) -> bool:
        return _usual_power(loss, first_loss[0], traits) > 0

    length = min(steps, max(LEAST, round(SHARE * updates)))
    short = bracket(start, length, max(FIRST * updates, 3 * length), updates)
    spent = short.probes
    if short.best is None and updates - short.updates >= length and isfinite(first_loss[0]):
        broken = inf  # the first loss of what is all but learned is near 0, and no measure
        short = bracket(start, length, updates - short.updates, updates - short.updates)
        spent += short.probes
    if short.best is None:
        raised = next((f" ({probe.error})" for probe in spent if probe.error), "")
        reason = f"every probe of {length} updates broke down{raised}"
        return PeakSearch(max_lr=None, probes=spent, reason=reason)
    left = updates - sum(probe.steps for probe in spent)
    longer = min(steps, left // (3 if left >= 3 * LONGER * length else 2))
    options: dict[str, Any] = {"parts": 2 if short.edge else 1, "upwards": grows}
    long = bracket(short.peak, longer, left, left, **options) if longer >= LONGER * length else None
    carried = long if long and long.best is not None else None
    peak, reason = _carried(short, carried, steps, first_loss[0], traits=traits)
    probes = spent + (long.probes if long else ())
    return PeakSearch(max_lr=peak, probes=probes, reason=reason, first_loss=first_loss[0])


def of_length(recipe: Recipe, steps: int) -> Recipe:
    """The same cycle in so many updates; phases that these have no room for are left out, or take their usual share."""
    shorter: list[dict[str, Any]] = [{}, {"annihilation": 0.0}]
    for changes in shorter:
        with suppress(UserError):
            return replace(recipe, steps=steps, **changes)
    return replace(recipe, steps=steps, annihilation=0.0, warmup=Recipe.warmup)


def at_peak(recipe: Recipe, max_lr: float) -> Recipe:
    """The same cycle to another peak."""
    times = max_lr / recipe.max_lr
    low, final = (rate and rate * times for rate in (recipe.base_lr, recipe.final_lr))
    return replace(recipe, max_lr=max_lr, base_lr=low, final_lr=final)


def _bracket(
    probe: Callable[[int], Probe],
    length: int,
    updates: float,
    most: float,
    *,
    first_loss: Sequence[float] = (inf,),
    parts: int = 1,
    upwards: Callable[[float], bool] = lambda _: False,
) -> _Bracket:
    """Probes until the best lies between two others, or the updates are used up; `probe(0)` is always made.

    `first_loss` holds the loss before any update once that was made.

    Their places are `parts` of a `FACTOR`, a whole one of which may lie between the best and what did not break down.
    They may use up `most` until the peak next above the best was tried. Where the largest has hardly learned more than
    the one below, all were far too small, as they were far too large where all broke down: the next is twice as many
    places away each time, at most `STRIDE`, and a gap above the best is halved until it is closed. The peak above is
    tried before the one below where `upwards` says so of the first loss.
    """
    known = {0: probe(0)}
    up = upwards(_loss(known[0]))

    def loss(k: int) -> float:
        return _loss(known[k])

    best, stride = 0, 1
    while len(known) < MOST:
        below = max((k for k in known if k < best), default=None)
        above = min((k for k in known if k > best), default=None)
        broken = not isfinite(loss(best))
        if sum(p.steps for p in known.values()) + length > (updates if above == best + 1 and not broken else most):
            break
        flat = below is not None and loss(below) - loss(best) < LITTLE * abs(loss(best))
        stride = min(2 * stride, STRIDE) if broken or (above is None and flat) else 1
        if broken:
            place = min(known) - stride
        elif above is not None and above > best + (parts if isfinite(loss(above)) else 1):
            place = (best + above) // 2
        elif above is None and (up or below is not None):
            place = best + stride
        elif below is None or below < best - parts:
            place = best - parts
        else:
            break
        known[place] = probe(place)
        best = sorted(known)[_best([loss(k) for k in sorted(known)], first_loss[0])]
    return _Bracket(tuple(known[k] for k in sorted(known)), first_loss[0])


def _carried(short: _Bracket, long: _Bracket | None, steps: int, first: float, *, traits: Traits) -> tuple[float, str]:
    """The best peak of the longest probes, carried over to the length of the run, and why.

    While a network that normalises has learned little, its best peak grows with the length; later, and without, it
    stays, or falls where the optimizer adapts and no batch norm frees the weights' scale. What the probes of two
    lengths say counts half, and less where probes hardly differ, of the longer ones alone if their best is a whole
    `FACTOR` lower. That the peak grows faster than is usual is not believed: growth slows down, and too large a peak
    harms more than too small a one. So a peak next to one that broke down is lowered; that of longer probes is averaged
    with that of the short ones where no larger one was tried at either length, and lowered where no smaller one was.
    None grows where short probes broke down at the next larger peak, or are alone and tried none.
    """
    last = long or short
    length, lowest = last.lowest.length, _loss(last.lowest)
    usual = _usual_power(lowest, first, traits)
    power, why = usual, f"{_remaining(lowest, first):.0%} of the loss is left"
    fell = long is not None and short.lowest.max_lr > 0.9 * FACTOR * long.lowest.max_lr
    if long and short.closed and (long.closed or fell):
        seen = max(-STEEPEST, log(long.peak / short.peak) / log(length / short.probes[0].length))
        clear = long.sharpness if fell else min(short.sharpness, long.sharpness)
        power = min(usual, usual + (seen - usual) / 2 * min(1.0, clear / CLEAR))
        why += f" and the best peak went from {short.peak:.2g} to {long.peak:.2g}"
    factor = min(FARTHEST, max(1 / FARTHEST, (steps / length) ** power))
    reason, peak = "; ".join(map(str, (short, long) if long else (short,))), last.peak
    if long and long.open and long.peak > short.peak and not short.edge:
        peak = (short.peak * long.peak) ** 0.5
        reason += f"; no larger one was tried, so between the two: {peak:.2g}"
    if long and long.best == 0 and not last.edge and usual <= 0:
        peak /= FACTOR**0.5
        reason += f"; no smaller one was tried, so below: {peak:.2g}"
    if short.edge or (last.open and not long):
        factor = min(factor, 1.0)
    if (last.edge or (short.edge and last.open)) and steps > length and factor > AT_THE_EDGE:
        factor, why = AT_THE_EDGE, "a longer stay bears less, and the next larger peak broke down"
    if abs(factor - 1) > 0.005:
        reason += f"; {factor:.2g} times that for {steps} updates, as {why}"
    return peak * factor, reason


def _usual_power(loss: float, first: float, traits: Traits) -> float:
    """Of the length, with which the best peak grows from probes that end with this loss."""
    usual = 0.0 if traits.heavy_ball or traits.batch_norm else -ADAPTIVE_FALL
    if traits.normalises:
        growth = BATCH_NORM_GROWTH if traits.batch_norm else GROWTH
        usual += growth * max(0.0, _remaining(loss, first) - LEARNED)
    return usual


def _remaining(loss: float, first: float) -> float:
    """Share of the first loss; 0 where that is not above 0, so that nothing can be told of it."""
    return min(1.0, max(0.0, loss / first)) if first > 0 and isfinite(first) else 0.0


def _best(losses: Sequence[float], first: float) -> int:
    """The place of the lowest loss; where nothing was learned, of the last as low as that, as large rates begin."""
    lowest = min(losses)
    if 0 < (1 - NOTHING) * first < lowest < inf:
        return max(place for place, loss in enumerate(losses) if loss <= lowest + ALIKE * first)
    return losses.index(lowest)


def _loss(probe: Probe) -> float:
    return inf if probe.loss is None else probe.loss
