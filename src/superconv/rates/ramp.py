"""The watched ramp: a pure policy that reads the peak of a run from the run's own rising rate.

Numbers in, decisions out: after each update the policy is told the training loss, and the loss of the batch that is set
aside (the probe) where there is one; it answers with the rate of the next update, and with what to do to the network:
nothing, keep it, or go back to a network that was kept. It knows no optimizer and no tensor, so made curves test it and
stored ramps replay it.

**Ramp.** The rate rises by a constant factor from where an update is far too small to harm. While nothing looks bad,
the network is kept every few updates, the last three of them. SGD is watched by the smoothed training losses:
momentum's overshoot makes a probe rise early and fall again. Adaptive optimizers are watched by the probe: their
training losses read the peak of a transformer or of a fine-tuning three to four times too high.

**Rise** (`rise_and_fall`). From the last network that has seen no rate above the peak, the rate rises again, slowly, to
that: a second range test. Where the slow training loss leaves its best behind, the fall begins, from half of the rate
that was best.

**Fall.** Linearly to a tenth of the top at 90 % of the run, then to a thousandth. Where training breaks down, it goes
back to a network that was kept and on at a third of the rate.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite

from superconv.rates.rise_and_fall import cycle, rate
from superconv.rates.watch import KEPT, Action, Decision, Event, Plan, Watch, error, smoothed


def begin(plan: Plan, *, probe: float | None = None) -> Watch:
    """The state before the first update; `probe` is the loss of the batch that is set aside there."""
    return Watch(lr=min(plan.start_lr, plan.top_lr), probe_first=probe)


def advance(
    plan: Plan, watch: Watch, loss: float, probe: float | None = None, *, alike: float | None = None
) -> Decision:
    """Take in an update.

    Args:
        plan: The run.
        watch: State before the update.
        loss: Training loss of the update; not finite where it broke down.
        probe: Loss of the batch that is set aside after the update, where the ramp is watched by it.
        alike: Share of a batch that has the same output, where outputs were looked at. A network that never told inputs
            apart is left alone.

    Returns:
        The next state, what to do to the network, and an event where something was decided.
    """
    watch = replace(watch, made=watch.made + 1, line=watch.line + 1)
    if watch.phase == "ramp":
        return _ramp(plan, watch, loss, probe, alike)
    return cycle(plan, watch, loss, alike)


def momentum_share(plan: Plan, watch: Watch) -> float:
    """Place of the next update's momentum between its feet (0) and the peak of the cycle (1): against the rate."""
    if watch.phase == "ramp" or not watch.peak:
        return 0.5
    feet = plan.law.feet
    return min(1.0, max(0.0, (watch.lr / watch.peak - feet) / (1 - feet)))


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


def _ramp(plan: Plan, watch: Watch, loss: float, probe: float | None, alike: float | None) -> Decision:
    law = plan.law
    collapsed = watch.learned and alike is not None and alike > watch.apart + law.alike * (1 - watch.apart)
    watch = watch if alike is None else replace(watch, apart=min(watch.apart, alike))
    lr, number = watch.lr, watch.made
    value: float | None
    first: float | None
    broken = not isfinite(loss) or (plan.by_probe and (probe is None or not isfinite(probe)))
    if broken or collapsed:
        why = f"{alike:.0%} of a batch had the same output" if collapsed else "the loss was not finite"
        return _found(plan, watch, f"{why} at a rate of {lr:.2g}", rose=True, collapsed=collapsed)
    smooth, variance = smoothed(watch, loss, law.smoothing)
    watch = replace(watch, smooth=smooth, variance=variance, seen=watch.seen + 1)
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
        noise = 0.0 if plan.by_probe else error(watch.variance, law.smoothing)
        if value < watch.best:
            watch = replace(watch, best=value, best_lr=lr)
        span = max(first - watch.best, 0.0)
        enough = law.learned_probe if plan.by_probe else law.learned
        watch = replace(watch, learned=watch.learned or span > max(enough * abs(first), 2.5 * noise))
        if watch.learned:
            rise = law.rise_probe if plan.by_probe else law.rise
            limit = watch.best + max(rise * span, law.rise_floor * abs(first), law.sigmas * noise)
        else:
            limit = first + max(law.chance * abs(first) / (1 if plan.by_probe else 3), 4 * noise)
        high = plan.by_probe or loss > limit  # a smoothed loss stays high for a while after a single one
        watch = replace(watch, over=watch.over + high if value > limit else 0)
        if number > law.settle and watch.over >= (law.patience if plan.by_probe else law.patience_training):
            watched = "loss of the probe" if plan.by_probe else "smoothed training loss"
            reason = f"the {watched} had risen from {watch.best:.3g} to {value:.3g} at a rate of {lr:.2g}"
            return _found(plan, watch, reason, rose=True)
    if lr * law.growth > plan.top_lr:
        reason = f"an update had come to half the size of the weights at a rate of {lr:.2g}, without a rise of the loss"
        return _found(plan, replace(watch, best_lr=watch.best_lr or lr), reason)
    if number >= max(law.fewest, round(law.longest * plan.updates)) or number >= plan.updates // 2:
        return _found(plan, watch, f"the ramp had reached {lr:.2g} without a rise of the loss")
    if number % law.spacing == 0 and not watch.over:
        action, watch = "keep", replace(watch, kept=(*watch.kept, (watch.line, lr))[-KEPT:])
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
        share *= law.plain - (law.plain - 1) * min(1.0, plan.momentum / 0.9)
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
    early = [place for place, (_, lr) in enumerate(watch.kept) if lr <= law.back * peak]
    place = 0 if collapsed or not known or not early else early[-1]
    line = watch.kept[place][0]
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
        kept=(watch.kept[place],),
    )
    left = plan.updates - watch.made
    watch = replace(watch, top_at=watch.made + max(1, round(law.warm * left)))
    watch = replace(watch, lr=rate(plan, watch))
    return Decision(
        watch, "back", place, Event(update=watch.made, what="peak", reason=f"The peak is {peak:.3g}: {why}.")
    )
