"""The cycle after the ramp: it rises slowly to the peak under watch, and falls; trouble goes back to a kept network."""

from dataclasses import replace
from math import isfinite

from superconv.rates.watch import KEPT_LATER, Action, Decision, Event, Plan, Watch, error, smoothed


def rate(plan: Plan, watch: Watch) -> float:
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


def cycle(plan: Plan, watch: Watch, loss: float, alike: float | None) -> Decision:
    """Take in an update of the rise or the fall; arguments as of `ramp.advance`."""
    law, lr = plan.law, watch.lr
    apart = watch.apart if alike is None else min(watch.apart, alike)
    first = watch.first if watch.first is not None else 0.0
    if not isfinite(loss) or (alike == 1 and apart < 1):
        return _retreat(plan, watch, "collapse" if isfinite(loss) else "breakdown")
    weight = max(law.slow, 1 / (watch.seen + 2))
    slow, variance = smoothed(watch, loss, weight, cautious=True)
    fast = loss if watch.fast is None else 0.8 * watch.fast + 0.2 * loss
    best, best_lr, level, kept = watch.best, watch.best_lr, watch.level, watch.kept
    noise, deviation = error(variance, law.slow), (variance or 0.0) ** 0.5
    action: Action = ""
    if watch.seen >= 10:
        if slow < best:
            best, best_lr, level = slow, lr, min(level, slow)
        reference = min(best, first)
        span = max(first - min(reference, level), 0.0)
        if fast > reference + law.bad * span + 0.05 * abs(first) + 1.3 * deviation:
            return _retreat(plan, watch, "breakdown")
        limit = best + law.cap * span + law.sigmas * noise
        if span < law.learned * abs(first):  # little was learned yet, so that a rise may be chance
            limit = max(limit, first + law.chance / 3 * abs(first) + law.sigmas * noise)
        late = watch.made < watch.top_at and lr > law.cap_from * (watch.peak or 0.0) * watch.scale
        if late and slow > limit and best_lr > 0:
            return _capped(plan, replace(watch, smooth=slow, best=best, best_lr=best_lr, level=level))
        sound = alike is not None and alike <= apart + law.alike * (1 - apart)
        if sound and slow <= best + 0.1 * span + noise:
            action, kept = "keep", (*kept, (watch.line, lr))[-KEPT_LATER:]
    watch = replace(  # one, as this is made in every update
        watch,
        phase="fall" if watch.made >= watch.top_at else "rise",
        lr=rate(plan, watch),
        seen=watch.seen + 1,
        smooth=slow,
        variance=variance,
        fast=fast,
        best=best,
        best_lr=best_lr,
        level=level,
        kept=kept,
        apart=apart,
    )
    return Decision(watch, action)


def _capped(plan: Plan, watch: Watch) -> Decision:
    """End the rise where its loss has left its best behind, and fall from half of the best rate."""
    top = plan.law.cut * watch.best_lr / watch.scale
    reason = (
        f"The rise ended at a rate of {watch.lr:.3g} instead of {watch.peak:.3g}: its loss was {watch.smooth:.3g}, "
        f"after {watch.best:.3g} at {watch.best_lr:.3g}; it falls from half of that rate."
    )
    line = watch.kept[-1][0]
    watch = replace(
        watch,
        phase="fall",
        top=top,
        top_at=watch.made,
        line=line,
        kept=watch.kept[-1:],
        smooth=None,
        fast=None,
        variance=None,
        seen=0,
    )
    event = Event(update=watch.made, what="cap", reason=reason)
    return Decision(replace(watch, lr=rate(plan, watch)), "back", -1, event)


def _retreat(plan: Plan, watch: Watch, what: str) -> Decision:
    """Go back to the older of the networks that were kept, and on at a third of the rate."""
    law = plan.law
    words = "The network gave all inputs the same output" if what == "collapse" else "Training broke down"
    tired = watch.breakdowns >= law.tries
    reason = f"{words} at a rate of {watch.lr:.3g}; it goes back, and on at a third of the rate."
    watch = replace(
        watch,
        scale=watch.scale if tired else watch.scale * law.retreat,
        breakdowns=watch.breakdowns + 1,
        line=watch.kept[0][0],
        kept=watch.kept[:1],
        smooth=None,
        fast=None,
        variance=None,
        seen=0,
    )
    return Decision(replace(watch, lr=rate(plan, watch)), "back", 0, Event(update=watch.made, what=what, reason=reason))
