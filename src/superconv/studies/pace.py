"""How long an update of a task takes, for runs whose length is given in minutes."""

import time
from dataclasses import dataclass

from superconv.recipe import Recipe
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.sweeps import range_test
from superconv.training.task import Task
from superconv.training.trainer import Trainer

WARMING, TIMED = 10, 10  # updates: the first ones compile and fill caches
FORWARD = 1 / 3  # of the time of an update's sample that an evaluation's takes
FEWEST = 20  # updates of a run, however short the time


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a training."""

    start: float
    """Until its first update is made: a network, a batch, a compilation."""
    update: float
    """Of every further one."""
    readings: float
    """Of all evaluations, in updates."""

    def updates(self, seconds: float, plan: ExecutionPlan) -> int:
        """Updates of a whole training in so many seconds; as many in all processes."""
        room = int((seconds - self.start) / self.update - self.readings)
        updates: int = plan.fabric().broadcast(max(FEWEST, room))
        return updates


class _Clock(Hook):
    def __init__(self) -> None:
        self.marks = [time.perf_counter()]

    def on_update(self, trainer: Trainer) -> None:
        self.marks.append(time.perf_counter())


def measure_pace(task: Task, recipe: Recipe, plan: ExecutionPlan, *, evaluations: int) -> Pace:
    """Time a few updates of a task, and what comes before them.

    Args:
        task: What is trained.
        recipe: How; its rate and length do not count.
        plan: Where.
        evaluations: How often the training will read the validation split, the final reading apart.
    """
    clock = _Clock()
    range_test(task, recipe, max_lr=1e-3, steps=WARMING + TIMED, stop=False, plan=plan, hooks=[clock])
    began, first, *_ = clock.marks
    timed = clock.marks[-1 - TIMED :]
    read = (evaluations + 1) * len(task.validation or ()) + len(task.test or ())
    return Pace(
        start=first - began,
        update=(timed[-1] - timed[0]) / (len(timed) - 1),
        readings=FORWARD * read / recipe.batch_size,
    )
