"""What a benchmark's JSON says beside its numbers, and how rows are told apart where a broken-off benchmark goes on."""

import argparse
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from superconv.training.plan import machine, versions

PEERS = ("pytorch-lightning", "torch-lr-finder", "schedulefree", "prodigyopt")

Facts = dict[str, Any]


def parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks of a training have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i, of superconv and its peers alike")
    return made


def place(device: str) -> Facts:
    """Where rows are made: the machine, and the versions of all that is measured."""
    found = versions()
    for package in PEERS:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {"machine": machine(device), "versions": found}


def command() -> str:
    """The command that runs this benchmark, from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def having(rows: Iterable[Facts], facts: Mapping[str, object]) -> list[Facts]:
    """The rows that agree with all of these facts; a row that lacks one does not."""
    return [row for row in rows if all(key in row and row[key] == value for key, value in facts.items())]


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median and extremes in words."""
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) < 2 else f"{middle} ({min(values):{form}} to {max(values):{form}})"
