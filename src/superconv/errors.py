"""What is the user's business and not a bug."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do, in one line.

    The command line prints it without a traceback and exits with status 2.
    """


class Interrupted(Exception):  # noqa: N818  (it is no error: a run was asked to stop and left a checkpoint)
    """A run was asked to stop; the message says where it stands and how it goes on."""
