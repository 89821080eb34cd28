"""Which files a peak passes on its way from the command line to the optimizer: `python benchmarks/walk.py`.

A fit of the digits is run with a peak that is found nowhere else. A file is on the way if one of its functions is being
called when the optimizer makes its first update, if one was called with the number before and gave something back, or
if one asks the schedule for the number while training. The ends are not counted (`cli.py`, torch's optimizer), nor are
functions that only refuse, write or print.
"""

import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import superconv
from superconv import cli

ROOT = Path(superconv.__file__).parent
PEAK = 0.40625  # exact in binary, and in no preset


def walk(command: list[str]) -> list[str]:
    """The files on the way, in the order in which the number enters them."""
    entered: dict[str, None] = {}
    calling: set[str] = set()
    handed: set[str] = set()

    def inside(frame: FrameType) -> str | None:
        path = Path(frame.f_code.co_filename)
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else None

    def look(frame: FrameType, event: str, value: Any) -> None:
        code, name = frame.f_code, inside(frame)
        if event == "call" and code is torch.optim.SGD.step.__wrapped__.__code__ and not calling:
            above = frame.f_back
            while above is not None:
                calling.update(filter(None, [inside(above)]))
                above = above.f_back
        if name is None:
            return
        if calling:  # the schedule gives the peak to who sets the optimizer
            if event == "return" and type(value) is float and value == PEAK and frame.f_back is not None:
                handed.update(filter(None, [inside(frame.f_back)]))
            return
        if event == "call":
            entered.setdefault(name)
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = (frame.f_locals.get(argument) for argument in arguments)
        if event == "return" and value is not None and any(type(v) is float and v == PEAK for v in given):
            handed.add(name)

    sys.setprofile(look)
    try:
        cli.main(command)
    finally:
        sys.setprofile(None)
    on_the_way = {name for name in calling | handed if not name.startswith(("cli", "report"))}
    return [name for name in entered if name in on_the_way]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        length = ["--steps", "20", "--plan", "fp32,eager", "--out", f"{folder}/run"]
        files = walk(["fit", "digits", "--max-lr", str(PEAK), *length])
    print(*files, f"{len(files)} files", sep="\n")
