"""A hook that ends trainings whose network has collapsed."""

from collections.abc import Mapping
from typing import Any

import torch

from superconv.rates.collapse import CollapseWatch, tells_apart
from superconv.training.breakdown import BreakdownError, breakdowns
from superconv.training.hooks import Hook, RunState

LOOKED_AT = 64  # samples of a look


class CollapseHook(Hook):
    """Ends a training whose network has come to give all samples the same output."""

    def __init__(self) -> None:
        self._resumed: Mapping[str, Any] = {}

    def on_start(self, run: RunState) -> None:
        """See whether the network tells samples apart: one that never did is left alone."""
        samples = min(LOOKED_AT, run.recipe.batch_size // run.recipe.accumulate)
        self._inputs, _ = run.fixed_batch(samples)  # kept, as workers may have to start to read it
        apart = self._resumed.get("apart") or self._look(run)
        self._watch = CollapseWatch(steps=run.recipe.steps, apart=apart, seen=self._resumed.get("seen", run.step))
        self._resumed = {}

    def on_log(self, run: RunState, row: Mapping[str, float | None]) -> None:
        """Look again, where a tenth of the training has passed since.

        Raises:
            BreakdownError: All samples have the same output.
        """
        if not self._watch.due(run.step):
            return
        self._watch = self._watch.looked(run.step)
        with breakdowns(alone=run.alone, first=False):
            if not self._look(run):
                raise BreakdownError("the network gives all samples the same output")

    def state_dict(self) -> dict[str, Any]:
        """Whether the network ever told samples apart, and the update of the last look."""
        return {"apart": self._watch.apart, "seen": self._watch.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep them for the start."""
        self._resumed = state

    def _look(self, run: RunState) -> bool:
        """Whether the network tells samples apart in any process."""
        # Full precision, as rounding makes outputs equal; no inference mode, as a model's caches must serve training.
        with run.evaluating(), torch.no_grad():
            return run.any(tells_apart(run.forward(self._inputs)))
