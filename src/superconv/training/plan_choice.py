"""The choice among timed execution plans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from superconv.recipe import Recipe
from superconv.training.plan import ExecutionPlan

COMPILED_LIMIT = 60.0  # seconds of compiling
COMPILE_AFTER = 20 * COMPILED_LIMIT  # seconds of a run that is worth compiling for
MOST = {"cpu": 8.0, "cuda": 32.0}  # times as fast as plain fp32 that a processor can make any plan
BUSY = 1.5  # times that updates of one plan differ on a machine whose timings say nothing
EVEN = 1.03  # a simpler plan that is no slower than this against the fastest is taken


@dataclass(frozen=True, kw_only=True)
class TimedPlan:
    """One plan, tried."""

    plan: ExecutionPlan
    seconds: float | None
    """Median of an update; none where the plan was refused before it was timed."""
    quartiles: tuple[float, float] | None
    first: float
    """Seconds of the first update, in which a compiled plan makes its kernels."""
    refused: str = ""
    """Why it must not be used."""

    @property
    def pace(self) -> float:
        """Seconds of an update; infinite where the plan must not be used."""
        return inf if self.refused or self.seconds is None else self.seconds


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """The plan to use, and what it was chosen from."""

    plan: ExecutionPlan
    reason: str
    batch_size: int
    """Of the trials: smaller than the run's where that would have taken too long."""
    trials: tuple[TimedPlan, ...] = ()
    compiling_tried: bool = False
    dropped: str = ""
    """Plans under which the network cannot run at all, and the error of the first."""


def updates_of(found: PlanSearch, recipe: Recipe, seconds: float | None) -> float:
    """Of the trials' batches, in a run of the recipe's length or of so many seconds."""
    if seconds is not None:
        return seconds / eager(found.trials).pace
    return recipe.steps * recipe.batch_size / found.batch_size


def chosen(found: PlanSearch, updates: float) -> PlanSearch:
    """The search with the plan that a run of so many updates should take."""
    best, plain = _best(found, updates), found.trials[0]
    taken, why = best, f"{plain.pace / best.pace:.2g} times as fast as plain fp32"
    if doubt := doubtful(found, updates):
        taken, why = plain, f"the machine is busy: {doubt}"
    elif best is plain or _spread(best, plain) >= plain.pace / best.pace:
        taken, why = plain, "no other pays"
    noted = f"; {found.dropped}" if found.dropped else ""
    return replace(found, plan=taken.plan, reason=f"{taken.plan.words}: {why}{noted}")


def doubtful(found: PlanSearch, updates: float) -> str:
    """Why the trials are not to be believed, nor kept; nothing where they are."""
    best, plain = _best(found, updates), found.trials[0]
    if best is plain:  # perhaps only since another's updates differ so much
        best = min((t for t in found.trials if not t.plan.compiled), key=lambda trial: trial.pace)
    gain, spread, most = plain.pace / best.pace, _spread(best, plain), MOST[plain.plan.device.partition(":")[0]]
    measured = f"{best.plan.words} measured {gain:.2g} times as fast as plain fp32"
    if gain > most:
        return f"{measured}, and no plan can be more than {most:g} times"
    if spread >= max(gain, BUSY):
        return f"{measured}, while updates of one plan differ {spread:.2g} times"
    return ""


def _spread(best: TimedPlan, plain: TimedPlan) -> float:
    """How many times as long as the first quartile the third is, for the less steady of two plans."""
    return max(high / low for low, high in (trial.quartiles or (1.0, 1.0) for trial in (best, plain)))


def _best(found: PlanSearch, updates: float) -> TimedPlan:
    """The fastest plan; compiling must save three times what it costs."""
    fastest = eager(found.trials)
    worth = [t for t in found.trials if t.plan.compiled and updates * (fastest.pace - t.pace) > 3 * t.first]
    return min([*worth, fastest], key=lambda trial: trial.pace)


def eager(trials: Sequence[TimedPlan]) -> TimedPlan:
    """The best plan that is not compiled: first whatever the threads, then with fewer of them."""
    first = _simplest([t for t in trials if not t.plan.compiled and not t.plan.threads])
    return _simplest([first, *(t for t in trials if not t.plan.compiled and t.plan.threads)])


def _simplest(trials: Sequence[TimedPlan]) -> TimedPlan:
    """The fastest, or the first that cannot be told from it."""
    best = min(trials, key=lambda trial: trial.pace)
    high = max(EVEN * best.pace, (best.quartiles or (0.0, 0.0))[1])
    return next(trial for trial in trials if trial.pace <= high)


def lasts(trials: Sequence[TimedPlan], updates: float) -> bool:
    """Whether so many updates last long enough to try compiling for them."""
    return updates * eager(trials).pace > COMPILE_AFTER
