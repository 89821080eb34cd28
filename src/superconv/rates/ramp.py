"""The watched ramp: a pure policy that reads the peak of a run from the run's own rising rate.

Numbers in, decisions out: after each update the policy is told the training loss, and the loss of the batch that is set
aside (the probe) where there is one; it answers with the rate of the next update, and with what to do to the network:
nothing, keep it, or go back to a network that was kept. It knows no optimizer and no tensor, so made curves test it and
stored ramps replay it.

**Ramp.** The rate rises by a constant factor from where an update is far too small to harm. Until it ends, the
network is kept wherever the watched loss is lower than ever. SGD is watched by the smoothed training losses: momentum's
overshoot makes a probe rise early and fall again. Adaptive optimizers are watched by the probe: their training losses
read the peak of a transformer or of a fine-tuning three to four times too high.

**Rise.** From the network that was best the rate rises again, slowly, to the peak: a second range test. Where the slow
training loss leaves its best behind, the fall begins, from half of the rate that was best.

**Fall.** Linearly to a tenth of the top at 90 % of the run, then to a thousandth. Where training breaks down, it goes
back to a network that was kept and on at a third of the rate.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Literal

from superconv.rates.laws import RampLaw

Phase = Literal["ramp", "rise", "fall"]
Slot = Literal["start", "safe", "best"]
Action = Literal["", "keep", "back"]


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
    kept_line: tuple[int, int, int] = (0, 0, 0)
    """`line` of the networks that were kept: start, safe, best."""
    kept_at: int = 0
    """`made` when the best network was kept."""
    peak: float | None = None
    from_update: int = 0
    """`made` when the rise began."""
    top: float = 0.0
    """Rate from which the fall goes …"""
    top_at: int = 0
    """… and the update, counted as `made`, at which it begins."""
    scale: float = 1.0
    """Factor of the rate after breakdowns."""
    fast: float | None = None
    level: float = inf
    """Lowest smoothed training loss of the whole run."""
    breakdowns: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do after an update."""

    watch: Watch
    action: Action = ""
    slot: Slot = "best"
    """Network to keep or to go back to."""
    event: Event | None = None


def begin(plan: Plan, *, probe: float | None = None) -> Watch:
    """The state before the first update; `probe` is the loss of the batch that is set aside there."""
    return Watch(lr=min(plan.start_lr, plan.top_lr), probe_first=probe)


def advance(plan: Plan, watch: Watch, loss: float, probe: float | None = None, *, collapsed: bool = False) -> Decision:
    """Take in an update.

    Args:
        plan: The run.
        watch: State before the update.
        loss: Training loss of the update; not finite where it broke down.
        probe: Loss of the batch that is set aside after the update, where the ramp is watched by it.
        collapsed: Whether the network has come to give all inputs the same output.

    Returns:
        The next state, what to do to the network, and an event where something was decided.
    """
    watch = replace(watch, made=watch.made + 1, line=watch.line + 1)
    if watch.phase == "ramp":
        return _ramp(plan, watch, loss, probe, collapsed)
    return _cycle(plan, watch, loss, collapsed)


def momentum_share(plan: Plan, watch: Watch) -> float:
    """Place of the next update's momentum between its feet (0) and the peak of the cycle (1): against the rate."""
    if watch.phase == "ramp" or not watch.peak:
        return 0.5
    feet = plan.law.feet
    return min(1.0, max(0.0, (watch.lr / watch.peak - feet) / (1 - feet)))


def to_dict(watch: Watch) -> dict[str, Any]:
    """The state as plain values."""
    return asdict(watch)


def from_dict(values: dict[str, Any]) -> Watch:
    """The state that `to_dict` wrote."""
    known = {f.name for f in fields(Watch)}
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return Watch(**plain)


def replay(
    plan: Plan, losses: Sequence[float], probes: Sequence[float | None] | None = None
) -> tuple[Watch, list[Event]]:
    """What the policy would have decided during the ramp of a stored run, whose losses hold for the same rates.

    Args:
        plan: The run.
        losses: Training losses of the ramp, update by update.
        probes: Losses of the probe, where the ramp was watched by it.
    """
    watch, events = begin(plan), []
    for i, loss in enumerate(losses):
        decision = advance(plan, watch, loss, probes[i] if probes else None)
        watch = decision.watch
        events += [decision.event] if decision.event else []
        if watch.phase != "ramp":
            break
    return watch, events


def _ramp(plan: Plan, watch: Watch, loss: float, probe: float | None, collapsed: bool) -> Decision:
    law = plan.law
    lr, number = watch.lr, watch.made
    value: float | None
    first: float | None
    broken = not isfinite(loss) or (plan.by_probe and (probe is None or not isfinite(probe)))
    if broken or collapsed:
        why = "the network gave all inputs the same output" if collapsed else "the loss was not finite"
        return _found(plan, watch, f"{why} at a rate of {lr:.2g}", rose=True, collapsed=collapsed)
    watch = _smoothed(watch, loss, law.smoothing)
    if watch.first is None or number <= law.settle:
        mean = loss if watch.first is None else watch.first + (loss - watch.first) / number
        watch = replace(watch, first=mean)
    if plan.by_probe and watch.probe_first is None:
        watch = replace(watch, probe_first=probe)
    value, first = (probe, watch.probe_first) if plan.by_probe else (watch.smooth, watch.first)
    assert value is not None
    assert first is not None
    action: Action = ""
    if number > (0 if plan.by_probe else law.settle):
        noise = 0.0 if plan.by_probe else _error(watch, law.smoothing)
        if value < watch.best:
            action = "keep"
            watch = replace(
                watch,
                best=value,
                best_lr=lr,
                kept_at=number,
                kept_line=(watch.kept_line[0], watch.kept_line[2], watch.line),
            )
        span = max(first - watch.best, 0.0)
        enough = law.learned_probe if plan.by_probe else law.learned
        watch = replace(watch, learned=watch.learned or span > max(enough * abs(first), 2.5 * noise))
        if watch.learned:
            limit = watch.best + max(law.rise * span, law.rise_floor * abs(first), law.sigmas * noise)
        else:
            limit = first + max(law.chance * abs(first) / (1 if plan.by_probe else 3), 4 * noise)
        watch = replace(watch, over=watch.over + 1 if value > limit else 0)
        if number > law.settle and watch.over >= (law.patience if plan.by_probe else 1):
            watched = "loss of the probe" if plan.by_probe else "smoothed training loss"
            reason = f"the {watched} had risen from {watch.best:.3g} to {value:.3g} at a rate of {lr:.2g}"
            return _found(plan, watch, reason, rose=True)
    if lr * law.growth > plan.top_lr:
        reason = f"an update had come to half the size of the weights at a rate of {lr:.2g}, without a rise of the loss"
        return _found(plan, replace(watch, best_lr=watch.best_lr or lr), reason)
    if number >= max(law.fewest, round(law.longest * plan.updates)) or number >= plan.updates // 2:
        return _found(plan, watch, f"the ramp had reached {lr:.2g} without a rise of the loss")
    return Decision(replace(watch, lr=lr * law.growth), action)


def _found(plan: Plan, watch: Watch, reason: str, *, rose: bool = False, collapsed: bool = False) -> Decision:
    """End the ramp: take the peak, go back to the network that was best, and begin the rise."""
    law, known = plan.law, watch.learned
    if plan.by_probe:
        first = watch.probe_first or 0.0
        known = first - watch.best > law.told * abs(first)
    share = law.probed if plan.probed else law.blind
    if plan.heavy_ball:
        share = law.batch_norm if plan.batch_norm else law.heavy_ball
    if known and watch.best_lr > 0:
        peak, why = share * watch.best_lr, f"{share:g} times {watch.best_lr:.3g}, the rate of the lowest loss: {reason}"
    elif rose:
        peak = share * law.unlearned * watch.lr
        why = f"{share * law.unlearned:.2g} times {watch.lr:.3g}, before which nothing was learned: {reason}"
    else:
        edge = watch.lr / 4  # nothing was learned: far enough below where it ended
        peak = min(plan.fallback_lr, edge) if plan.fallback_lr > 0 else edge
        told = (
            "the rate that the optimizer was made with" if peak == plan.fallback_lr else "a quarter of where it ended"
        )
        why = f"{told}, as the ramp learned nothing that its losses show: {reason}"
    slot: Slot = "start" if collapsed or not known else "best"
    line = watch.kept_line[0 if slot == "start" else 2]
    watch = replace(
        watch,
        phase="rise",
        line=line,
        peak=peak,
        from_update=watch.made,
        top=peak,
        level=min(watch.best if not plan.by_probe else inf, watch.first if watch.first is not None else inf),
        best=inf,
        best_lr=0.0,
        seen=0,
        smooth=None,
        variance=None,
        fast=None,
        over=0,
        kept_line=(watch.kept_line[0], line, line),
        kept_at=watch.made,
    )
    left = plan.updates - watch.made
    watch = replace(watch, top_at=watch.made + max(1, round(law.warm * left)))
    watch = replace(watch, lr=_rate(plan, watch))
    return Decision(
        watch, "back", slot, Event(update=watch.made, what="peak", reason=f"The peak is {peak:.3g}: {why}.")
    )


def _rate(plan: Plan, watch: Watch) -> float:
    """The rate of the next update of the cycle."""
    law = plan.law
    assert watch.peak is not None
    t, end = watch.made, plan.updates - 1
    feet_at = end - round(law.annihilation * (plan.updates - watch.from_update))
    if t < watch.top_at:
        rise_end = watch.from_update + max(1, round(law.warm * (plan.updates - watch.from_update)))
        share = (t - watch.from_update) / (rise_end - watch.from_update)
        return watch.scale * watch.peak * (law.feet + (1 - law.feet) * min(1.0, share))
    if t < feet_at:
        share = (t - watch.top_at) / max(1, feet_at - watch.top_at)
        return watch.scale * watch.top * (1 - (1 - law.feet) * share)
    share = min(1.0, (t - feet_at) / max(1, end - feet_at))
    return watch.scale * watch.top * law.feet * (1 - 0.99 * share)


def _cycle(plan: Plan, watch: Watch, loss: float, collapsed: bool) -> Decision:
    law, lr = plan.law, watch.lr
    first = watch.first if watch.first is not None else 0.0
    if not isfinite(loss) or collapsed:
        return _retreat(plan, watch, "collapse" if collapsed else "breakdown", "start" if collapsed else "safe")
    seen = watch.seen + 1
    weight = max(law.slow, 1 / (seen + 1))
    watch = _smoothed(watch, loss, weight, cautious=True)
    fast = loss if watch.fast is None else 0.8 * watch.fast + 0.2 * loss
    watch = replace(watch, fast=fast)
    slow, noise = watch.smooth, _error(watch, law.slow)
    assert slow is not None
    deviation = (watch.variance or 0.0) ** 0.5
    action: Action = ""
    slot: Slot = "best"
    if seen > 10:
        if slow < watch.best:
            watch = replace(watch, best=slow, best_lr=lr, level=min(watch.level, slow))
        reference = min(watch.best, first)
        span = max(first - min(reference, watch.level), 0.0)
        if fast > reference + law.bad * span + 0.05 * abs(first) + 1.3 * deviation:
            return _retreat(plan, watch, "breakdown", "safe")
        limit = watch.best + law.cap * span + law.sigmas * noise
        if span < law.learned * abs(first):  # little was learned yet, so that a rise may be chance
            limit = max(limit, first + law.chance / 3 * abs(first) + law.sigmas * noise)
        late = watch.made < watch.top_at and lr > law.cap_from * (watch.peak or 0.0) * watch.scale
        if late and slow > limit and watch.best_lr > 0:
            return _capped(plan, watch)
        gap = max(5, (plan.updates - watch.from_update) // 60)
        if seen % gap == 0 and slow <= watch.best + 0.1 * span + noise:
            action = "keep"
            lines = watch.kept_line
            watch = replace(watch, kept_line=(lines[0], lines[2], watch.line), kept_at=watch.made)
    phase: Phase = "fall" if watch.made >= watch.top_at else "rise"
    watch = replace(watch, phase=phase)
    return Decision(replace(watch, lr=_rate(plan, watch)), action, slot)


def _capped(plan: Plan, watch: Watch) -> Decision:
    """End the rise where its loss has left its best behind, and fall from half of the best rate."""
    top = plan.law.cut * watch.best_lr / watch.scale
    reason = (
        f"The rise ended at a rate of {watch.lr:.3g} instead of {watch.peak:.3g}: its loss was {watch.smooth:.3g}, "
        f"after {watch.best:.3g} at {watch.best_lr:.3g}; it falls from half of that rate."
    )
    line = watch.kept_line[2]
    watch = replace(
        watch, phase="fall", top=top, top_at=watch.made, line=line, smooth=None, fast=None, variance=None, seen=0
    )
    event = Event(update=watch.made, what="cap", reason=reason)
    return Decision(replace(watch, lr=_rate(plan, watch)), "back", "best", event)


def _retreat(plan: Plan, watch: Watch, what: str, slot: Slot) -> Decision:
    """Go back to a network that was kept, and on at a third of the rate."""
    law = plan.law
    words = "The network gave all inputs the same output" if what == "collapse" else "Training broke down"
    tired = watch.breakdowns >= law.tries
    reason = f"{words} at a rate of {watch.lr:.3g}; it goes back, and on at a third of the rate."
    watch = replace(
        watch,
        scale=watch.scale if tired else watch.scale * law.retreat,
        breakdowns=watch.breakdowns + 1,
        line=watch.kept_line[("start", "safe", "best").index(slot)],
        smooth=None,
        fast=None,
        variance=None,
        seen=0,
    )
    return Decision(
        replace(watch, lr=_rate(plan, watch)), "back", slot, Event(update=watch.made, what=what, reason=reason)
    )


def _smoothed(watch: Watch, loss: float, weight: float, *, cautious: bool = False) -> Watch:
    """With the loss in the smoothed one, and its squared distance in the variance; outliers widen it little."""
    if watch.smooth is None:
        return replace(watch, smooth=loss, seen=watch.seen + 1)
    squared = (loss - watch.smooth) ** 2
    variance = watch.variance
    if variance is None:
        variance = squared
    elif watch.seen < (20 if cautious else 5) or squared < (25 if cautious else 16) * variance or loss < watch.smooth:
        new = 0.05 if cautious else 0.15
        variance = (1 - new) * variance + new * squared
    smooth = (1 - weight) * watch.smooth + weight * loss
    return replace(watch, smooth=smooth, variance=variance, seen=watch.seen + 1)


def _error(watch: Watch, weight: float) -> float:
    """Standard error of the smoothed loss."""
    return float(((watch.variance or 0.0) * weight / (2 - weight)) ** 0.5)
