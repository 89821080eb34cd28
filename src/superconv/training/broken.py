"""Trainings that end with an error: a result, where it was the rate that broke them."""

from collections.abc import Iterator
from contextlib import contextmanager

from superconv.errors import Interrupted, UserError
from superconv.training.trainer import Trainer


class BreakdownError(Exception):
    """A training under too large a rate could not go on; the message says why, in one line."""


@contextmanager
def breakdowns(trainer: Trainer, *, first: bool) -> Iterator[None]:
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
    except Exception as error:
        if first or trainer.fabric.world_size > 1:
            raise
        reason = " ".join(str(error).split())[:200]
        raise BreakdownError(f"{type(error).__name__}: {reason}" if reason else type(error).__name__) from error
