"""The command line: reads the options, runs one command, and says in one line what could not be done."""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

INTERRUPTED, UNREAD, UNUSABLE = 130, 141, 2  # exit statuses, as shells have them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 where the input is unusable, 130 interrupted, 141 for unread output."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


def _run(given: list[str]) -> int:
    import tyro  # imports take a while, in which Ctrl-C is one line too

    from superconv.commands import COMMANDS, options
    from superconv.errors import Interrupted, UserError, one_line

    command: Any = tyro.cli(
        options.Command,
        prog="superconv",
        description="Train PyTorch networks in far fewer steps.",
        args=given,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if _needs_own_code(command):
        sys.path.append(os.getcwd())  # mynet:callable is mynet.py here; behind all that is installed
    try:
        COMMANDS[type(command)](command, shlex.join(["superconv", *given]))
        sys.stdout.flush()
    except UserError as error:
        return _say(one_line(error), UNUSABLE)
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk is full, a path is no folder, a file may not be read
        return _say(str(error), UNUSABLE)
    except Interrupted as error:
        return _say(str(error), INTERRUPTED)
    except Exception as error:
        if "torch" in sys.modules and "WORLD_SIZE" in os.environ:
            from superconv.training.world import give_up, lost

            if words := lost(error):
                give_up(words, UNUSABLE)
        raise
    return 0


def _needs_own_code(command: Any) -> bool:
    """Whether a command asks for code of the user's, which may lie in the working folder."""
    model = getattr(getattr(command, "task", None), "model", None) or getattr(command, "model", None)
    return bool(getattr(command, "trust", False)) or ":" in (model or "")


def _say(text: str, status: int) -> int:
    print(f"superconv: {text}", file=sys.stderr)
    return status
