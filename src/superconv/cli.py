"""The command line: reads the options, runs one command, and says in one line what could not be done."""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from superconv.commands import COMMANDS, options
from superconv.errors import Interrupted, UserError, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 where the input is unusable, 130 interrupted, 141 for unread help."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        command: Any = tyro.cli(
            options.Command,
            prog="superconv",
            description="Train PyTorch networks in far fewer steps.",
            args=given,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except BrokenPipeError:  # who reads the help, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    sys.path.insert(0, "")  # --model mynet:callable finds mynet.py here, as with python -m
    try:
        COMMANDS[type(command)](command, shlex.join(["superconv", *given]))
    except UserError as error:
        print(f"superconv: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk is full, a path is no folder, a file may not be read
        print(f"superconv: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"superconv: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("superconv: interrupted", file=sys.stderr)
        return 130
    return 0
