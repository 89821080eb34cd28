"""Packages that only some uses need: imported where they are used, named with their installation where they lack."""

from collections.abc import Iterator
from contextlib import contextmanager

from superconv.errors import UserError


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn a failing import of the block into one line that says how to install the extra.

    Args:
        extra: Name of the extra that brings the package.
        what: Subject of the sentence: what needs it.

    Raises:
        UserError: The block's import failed.

    >>> with needs("data", "this data set"):
    ...     import superconv_has_no_such_extra
    Traceback (most recent call last):
    superconv.errors.UserError: this data set needs superconv_has_no_such_extra: pip install 'superconv[data]'
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "a package").split(".")[0]
        raise UserError(f"{what} needs {missing}: pip install 'superconv[{extra}]'") from error
