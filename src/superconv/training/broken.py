"""Trainings that end with an error: a result, where it was the rate that broke them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from superconv.errors import Interrupted, UserError, one_line
from superconv.training.hooks import Hook

if TYPE_CHECKING:
    from superconv.training.trainer import Trainer

LOOKS, LOOKED_AT = 10, 64  # how often a training is looked at, and samples of a look


class BreakdownError(Exception):
    """A training under too large a rate could not go on; the message says why, in one line."""


class CollapseHook(Hook):
    """Ends a training whose network has come to give all samples the same output, as where every unit is dead.

    Nothing revives it, but its loss is finite: it knows how often each answer is right, which may be more than what
    a smaller rate has learned so far.
    """

    def __init__(self) -> None:
        self._resumed: Mapping[str, Any] = {}

    def on_start(self, trainer: "Trainer") -> None:
        """See whether the network tells samples apart: one that never did is left alone."""
        samples = min(LOOKED_AT, trainer.recipe.batch_size // trainer.recipe.accumulate)
        self._inputs, _ = trainer.fixed_batch(samples)  # kept, as workers may have to start to read it
        self._apart = self._resumed.get("apart") or _tells_apart(trainer, self._inputs)
        self._seen, self._resumed = self._resumed.get("seen", trainer.step), {}

    def on_log(self, trainer: "Trainer", row: Mapping[str, float | None]) -> None:
        """Look again, where a tenth of the training has passed since.

        Raises:
            BreakdownError: All samples have the same output.
        """
        steps = trainer.recipe.steps
        if not self._apart or (trainer.step < self._seen + steps / LOOKS and trainer.step < steps):
            return
        self._seen = trainer.step
        with breakdowns(trainer, first=False):
            if not _tells_apart(trainer, self._inputs):
                raise BreakdownError("the network gives all samples the same output")

    def state_dict(self) -> dict[str, Any]:
        """Whether the network ever told samples apart, and the update of the last look."""
        return {"apart": self._apart, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep them for the start."""
        self._resumed = state


def _tells_apart(trainer: "Trainer", inputs: Tensor) -> bool:
    """Whether not all samples have the same output to the last digit, in any process."""
    # Full precision, as rounding makes outputs equal; no inference mode, as what a model caches must serve training.
    with trainer.evaluating() as model, torch.no_grad():
        output = model.forward(inputs)  # `forward` is not compiled once more for it
    whole = not isinstance(output, Tensor) or output.ndim == 0
    return trainer.any(whole or not torch.equal(output, output[:1].expand_as(output)))


@contextmanager
def breakdowns(trainer: "Trainer", *, first: bool) -> Iterator[None]:
    """Turn what a block raises into `BreakdownError`: a loss may refuse NaN, memory may run out.

    Args:
        trainer: Of several processes one that gave up would leave the others waiting, so nothing is turned there.
        first: Nothing has gone well so far, so that the error is the user's to see.

    Raises:
        BreakdownError: The block failed.
    """
    try:
        yield
    except (UserError, Interrupted):
        raise
    except BreakdownError as error:
        if first and error.__cause__:
            raise error.__cause__ from None
        raise
    except Exception as error:
        if first or trainer.fabric.world_size > 1:
            raise
        raise BreakdownError(_line(error)) from error


@contextmanager
def refusals(output: Tensor, *, alone: bool) -> Iterator[None]:
    """Turn what a loss raises into `BreakdownError` where the output that it was given is not finite.

    Args:
        output: Of the model.
        alone: Whether there is one process only; see `breakdowns`.

    Raises:
        BreakdownError: The loss refused such an output.
    """
    try:
        yield
    except Exception as error:
        if isinstance(output, Tensor) and alone and not output.isfinite().all():
            raise BreakdownError(_line(error)) from error
        raise


def _line(error: Exception) -> str:
    reason = one_line(error, most=200)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
