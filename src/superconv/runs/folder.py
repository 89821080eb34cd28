"""The folder of a run: the only place that knows the names of its files."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from superconv import files, history
from superconv.errors import UserError, one_line
from superconv.history import Row
from superconv.recipe import Recipe
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import RateSearch

T = TypeVar("T")
Values = dict[str, Any]


@dataclass(frozen=True)
class Stored(Generic[T]):
    """One file of a run, with the type of what it holds."""

    path: Path
    _read: Callable[[Path], T]
    _write: Callable[[Path, T], None]

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    def read(self) -> T:
        """Read the file.

        Raises:
            UserError: It is absent or damaged; the message names it.
        """
        return self._read(self.path)

    def found(self) -> T | None:
        """The file's content, `None` if there is no such file.

        Raises:
            UserError: It is damaged.
        """
        return self.read() if self.exists() else None

    def write(self, value: T) -> None:
        """Write the file whole or not at all; of several processes the one that writes does so."""
        if files.writes():
            self._write(self.path, value)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, each by its meaning.

    >>> RunFolder(Path("runs/digits-1")).recipe.path.as_posix()
    'runs/digits-1/recipe.yaml'
    """

    path: Path

    @property
    def spec(self) -> Stored[Values]:
        """What was asked for; a resume with other options is refused."""
        return self._json("spec.json")

    @property
    def task(self) -> Stored[Values]:
        """Fingerprints of model, loss, metric, optimizer and data; a run of others is refused."""
        return self._json("task.json")

    @property
    def range_test(self) -> Stored[RateSearch]:
        """Both curves of the range test and the verdict."""
        return Stored(self.path / "range_test.json", RateSearch.load, lambda path, search: search.save(path))

    @property
    def probes(self) -> Stored[Values]:
        """The short cycles: each with its peak, length and loss; the loss before any update; seconds of the search."""
        return self._json("probes.json")

    @property
    def recipe(self) -> Stored[Recipe]:
        """The recipe with its reasons."""
        return Stored(
            self.path / "recipe.yaml", Recipe.load, lambda path, recipe: files.write_text(path, recipe.to_yaml())
        )

    @property
    def plan(self) -> Stored[ExecutionPlan]:
        """The execution plan; a resume keeps it. A study keeps that of all its runs in their root."""
        return Stored(
            self.path / "plan.json",
            lambda path: files.checked(ExecutionPlan, files.read_json(path), source=path),
            lambda path, plan: files.write_json(path, vars(plan)),
        )

    @property
    def history(self) -> Stored[list[Row]]:
        """A row for each logged update; the training appends to it."""
        return Stored(self.path / "history.jsonl", history.read, history.write)

    @property
    def estimates(self) -> Stored[list[Row]]:
        """Curvature estimates and 2/λ; an `EstimateHook` appends to it."""
        return Stored(self.path / "estimate.jsonl", history.read, history.write)

    @property
    def estimate_summary(self) -> Stored[Values]:
        """Medians of the estimates, of `superconv estimate`."""
        return self._json("estimate.json")

    @property
    def checkpoint(self) -> Path:
        """The whole state of an unfinished training; gone when it is finished."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Stored[dict[str, Tensor]]:
        """Weights and buffers of a finished training."""
        return Stored(self.path / "model.safetensors", _read_weights, _write_weights)

    @property
    def numbers(self) -> Stored[Values]:
        """Final numbers, versions, machine, class names, how images were read; a run that has them is finished."""
        return self._json("run.json")

    @property
    def error(self) -> Stored[str]:
        """The traceback of a study's run that failed."""
        return Stored(self.path / "error.txt", files.read_text, files.write_text)

    @property
    def report(self) -> Path:
        """The page; its figures lie beside it."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """Folder of event files."""
        return self.path / "tensorboard"

    @property
    def finished(self) -> bool:
        """Whether the run has ended, by its last update or by divergence."""
        return self.numbers.exists()

    @property
    def began_well(self) -> bool:
        """Whether the run is worth keeping: it has a checkpoint, is finished, or began again after a divergence."""
        return self.checkpoint.exists() or self.finished or bool(self.diverged)

    @property
    def diverged(self) -> list["RunFolder"]:
        """Trainings that were put aside because they diverged, in their order."""
        return [RunFolder(path) for path in sorted(self.path.glob("diverged-*"))]

    def put_aside(self) -> None:
        """Keep the record of a diverged training, but for its weights, and make room for the next one.

        The steps have an order that may end anywhere: the record is whole before anything is removed.
        """
        making = RunFolder(self.path / ".diverged")
        making.path.mkdir(exist_ok=True)
        for name in ("recipe", "history", "estimates", "numbers"):
            kept: Stored[Any] = getattr(self, name)
            if kept.exists():
                shutil.copy2(kept.path, getattr(making, name).path)
        making.path.rename(self.path / f"diverged-{1 + len(self.diverged)}")

    def make_room(self) -> None:
        """Remove the files of the training that was put aside."""
        self.numbers.remove()
        self.checkpoint.unlink(missing_ok=True)
        for stored in (self.weights, self.history, self.estimates):
            stored.remove()

    def _json(self, name: str) -> Stored[Values]:
        return Stored(self.path / name, _read_mapping, files.write_json)


def existing(folders: Sequence[Path]) -> list[RunFolder]:
    """Folders that are there, as those of runs.

    Raises:
        UserError: None was named, or one is no folder.
    """
    if not folders:
        raise UserError("there is no run to report: give the folder of one, such as runs/digits-1")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folder of a run, such as runs/digits-1")
    return [RunFolder(folder) for folder in folders]


def _read_mapping(path: Path) -> Values:
    return files.checked(dict[str, Any], files.read_json(path), source=path)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # of safetensors, which has errors of its own
        raise UserError(f"{path} cannot be read: {one_line(error, most=200)}") from error


def _write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    # Tied weights are one tensor under two names, which the format refuses.
    apart = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    with files.whole(path) as temporary:
        save_file(apart, temporary)
