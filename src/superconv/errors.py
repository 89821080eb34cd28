"""What is the user's business and not a bug."""

from math import inf


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do, in one line.

    The command line prints it without a traceback and exits with status 2.

    >>> import superconv
    >>> try:
    ...     superconv.Recipe(steps=0, batch_size=32, max_lr=0.1)
    ... except superconv.UserError as error:
    ...     print(error)
    steps must be a number of at least 1, not 0
    """


def one_line(error: BaseException, *, most: int | None = None) -> str:
    """The message of an error without line breaks, at `most` so many characters of it."""
    return " ".join(str(error).split())[:most]


def at_least(low: float, **values: float | None) -> None:
    """Refuse numbers below `low`, infinite ones and NaN; none is no number.

    Raises:
        UserError: Names the first such value.
    """
    for name, value in values.items():
        if value is not None and not low <= value < inf:
            raise UserError(f"{name} must be a number of at least {low}, not {value}")


def above(low: float, **values: float | None) -> None:
    """Refuse numbers that do not exceed `low`, as `at_least` does those below it."""
    for name, value in values.items():
        if value is not None and not low < value < inf:
            raise UserError(f"{name} must be a number above {low}, not {value}")


class Interrupted(Exception):  # noqa: N818  (it is no error: a run was asked to stop and left a checkpoint)
    """A run was asked to stop; the message says where it stands and how it goes on."""
