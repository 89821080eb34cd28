"""Errors under too large a rate, told from errors of the user's: the former end a training, the latter are shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from superconv.errors import Interrupted, UserError, one_line
from superconv.nested import tensors


class BreakdownError(Exception):
    """A training under too large a rate could not go on; the message says why, in one line."""


@contextmanager
def breakdowns(*, alone: bool, first: bool) -> Iterator[None]:
    """Turn what a block raises into `BreakdownError`: a loss may refuse NaN, memory may run out.

    Args:
        alone: Whether there is one process only. Of several, one that gave up would leave the others waiting, so
            nothing is turned there.
        first: Whether nothing has gone well so far, so that the error is the user's to see.

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
        if first or not alone:
            raise
        raise BreakdownError(_line(error)) from error


@contextmanager
def refusals(output: Any, *, alone: bool) -> Iterator[None]:
    """Turn what a loss raises into `BreakdownError` where the output that it was given is not finite.

    Args:
        output: Output of the model, in any structure.
        alone: Whether there is one process only; see `breakdowns`.

    Raises:
        BreakdownError: The loss refused such an output.
    """
    try:
        yield
    except Exception as error:
        if alone and not all(tensor.isfinite().all() for tensor in tensors(output)):
            raise BreakdownError(_line(error)) from error
        raise


def _line(error: Exception) -> str:
    reason = one_line(error, most=200)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
