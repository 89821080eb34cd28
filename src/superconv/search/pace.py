"""How long an update of a task takes, for runs whose length is given in minutes."""

import time
from dataclasses import dataclass

from superconv.rates.laws import LengthLaw
from superconv.recipe import Recipe
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.hooks import Hook, RunState
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import sweep_rates
from superconv.training.task import Task

WARMING, TIMED = 10, 10  # updates: the first ones compile and fill caches
PROBES = 5  # of the curvature's largest eigenvalue, in a fit that estimates
FORWARD = 1 / 3  # of the time of an update's sample that an evaluation's takes
TINY = 1e-12  # a rate that breaks no training


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a training."""

    start: float
    """Until its first update is made, a network, a batch, a compilation; and all probes of the curvature."""
    update: float
    """Of every further one."""
    readings: float
    """Of all evaluations, in updates."""

    def updates(self, seconds: float, plan: ExecutionPlan) -> int:
        """Updates of a whole training in so many seconds; as many in all processes."""
        room = int((seconds - self.start) / self.update - self.readings)
        updates: int = plan.fabric().broadcast(max(LengthLaw().fewest, room))
        return updates


class _UpdateTimes(Hook):
    def __init__(self) -> None:
        self.marks = [time.perf_counter()]

    def on_update(self, run: RunState) -> None:
        self.marks.append(time.perf_counter())


def measure_pace(task: Task, recipe: Recipe, plan: ExecutionPlan, *, evaluations: int, estimated: bool = False) -> Pace:
    """Time a few updates of a task, and what comes before them.

    Args:
        task: What is trained.
        recipe: How; its rate and length do not count.
        plan: Where.
        evaluations: How often the training will read the validation split, the final reading apart.
        estimated: Whether the curvature is measured while training.
    """
    clock = _UpdateTimes()
    hooks: list[Hook] = [clock]
    if estimated:  # as in a fit, but for a single probe, behind the last update
        forms = {"estimate": {"norm": "l2"}}
        hooks.append(EstimateHook(Estimation(forms=forms, every=TIMED, probe_every=WARMING + TIMED)))
    sweep_rates(task, recipe, max_lr=TINY, steps=WARMING + TIMED, stop=False, plan=plan, hooks=hooks)
    probes = PROBES * (time.perf_counter() - clock.marks[-1]) if estimated else 0.0
    began, first, *_ = clock.marks
    timed = clock.marks[1:][-1 - TIMED :]
    read = (evaluations + 1) * len(task.validation or ()) + len(task.test or ())
    return Pace(
        start=first - began + probes,
        update=(timed[-1] - timed[0]) / max(1, len(timed) - 1) or first - began,
        readings=FORWARD * read / recipe.batch_size,
    )
