"""The one exception that is the user's business and not a bug."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do, in one line.

    The command line prints it without a traceback and exits with status 2.
    """
