"""A training under a peak that was found, which breaks down: told at its end, and made again under a lower one."""

import time
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from superconv.rates.laws import LengthLaw
from superconv.rates.traits import Traits
from superconv.runs.runner import Numbers
from superconv.search.peak import at_peak, of_length
from superconv.search.recipe import Found
from superconv.search.settle import Settled
from superconv.training.breakdown import BreakdownError
from superconv.training.hooks import Hook, RunState
from superconv.training.plan import ExecutionPlan

SETBACK = 0.1  # share of what short cycles learned, with which lost at its end a training has broken down on its way
RETRIES, LOWER = 2, 3.0  # times that a training whose peak was found is made again if it diverges, so much lower


class SetbackHook(Hook):
    """Ends a training that has lost what short cycles learned, at its last update and before the test split is read.

    Args:
        probed: The short cycles, as the run's folder keeps them.
    """

    def __init__(self, probed: Mapping[str, Any]) -> None:
        losses = [probe["loss"] for probe in probed.get("probes", ()) if probe["loss"] is not None]
        best, first = min(losses, default=inf), probed.get("first_loss")
        self.most = inf if first is None else best + SETBACK * max(0.0, first - best)

    def on_log(self, run: RunState, row: Mapping[str, float | None]) -> None:
        """Look at the last row; a validation loss alone may rise because samples are learned by heart."""
        if run.step < run.recipe.steps:
            return
        train_loss, validation_loss = row.get("train_loss"), row.get("validation_loss")
        if train_loss is not None and validation_loss is not None and min(train_loss, validation_loss) > self.most:
            raise BreakdownError("short cycles ended better")


def milder(
    settled: Settled, traits: Traits, found: Found, numbers: Numbers, *, until: float | None, plan: ExecutionPlan
) -> Found:
    """What follows from a training that diverged: a third of its peak, in the time that is left, counted as search."""
    recipe, reached = found.recipe, numbers["steps"]
    reasons = {**recipe.reasons, "max_lr": f"a third of {recipe.max_lr:.3g}, which diverged at update {reached:,}"}
    recipe = at_peak(replace(recipe, reasons=reasons), float(f"{recipe.max_lr / LOWER:.3g}"))
    if until is not None:
        fits = int((until - time.perf_counter()) / (numbers["seconds"] / max(1, reached)))
        fewest = LengthLaw().fewest
        recipe = of_length(recipe, plan.fabric().broadcast(max(fewest, min(recipe.steps, fits))))
    if settled.origin("weight_decay") != "given":
        recipe = settled.balanced(recipe, traits)
    return Found(recipe=recipe, seconds=found.seconds + numbers["seconds"])
