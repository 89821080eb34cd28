"""Averaged weights: what a hook can do to a run, kept out of the loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from superconv.training.hooks import Hook, RunState


class Lookahead(Hook):
    """Lookahead with a rising average, as the CIFAR-10 records have it (arXiv 2404.00498, section 3.4).

    Every few updates an average of weights and buffers moves towards the network, which then goes on from the average.
    How much of the average is kept grows with the cube of the position in the run: free at first, nearly still at the
    end. The run ends with it.

    Args:
        start: Fraction of the run before which nothing is averaged.
        every: Updates between two moves.
        decay: Of the average per update, at the end of the run.
    """

    def __init__(self, *, start: float = 0.3, every: int = 5, decay: float = 0.95) -> None:
        self._start, self._every, self._decay = start, every, decay
        self._average: list[Tensor] | None = None

    def on_start(self, run: RunState) -> None:
        """Bring a checkpoint's average to where the network is."""
        if self._average is not None:
            self._average = [t.to(run.device) for t in self._average]

    @torch.no_grad()
    def on_update(self, run: RunState) -> None:
        """Move the average, and the network to it."""
        step, steps = run.step, run.recipe.steps
        if step < self._start * steps or (step % self._every and step < steps):
            return
        tensors = [t for t in run.module.state_dict().values() if t.is_floating_point()]
        if self._average is None:
            self._average = [t.clone() for t in tensors]
            return
        kept = 1.0 if step % self._every else self._decay**self._every * (step / steps) ** 3
        torch._foreach_lerp_(self._average, tensors, 1 - kept)
        torch._foreach_copy_(tensors, self._average)

    def state_dict(self) -> dict[str, Any]:
        """The average, as far as there is one."""
        return {"average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._average = state["average"]
