"""What lies in a run's folder, read and checked; any part of it may still be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.history import Row
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.training.sweep import RateSearch


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not."""

    folder: Path
    spec: Mapping[str, Any]
    """What was asked for; empty if that is not known."""
    recipe: Recipe | None
    sweeps: RateSearch | None
    """None where the largest rate was given."""
    rows: Sequence[Row]
    estimates: Sequence[Row]
    """Curvature estimates; empty if there are none."""
    numbers: Mapping[str, Any]
    """Final numbers; empty while the run is not finished."""
    source: str
    """Where the numbers stand, for errors."""

    @property
    def metric(self) -> str:
        """Name of the metric; ``"loss"`` where there is only a loss."""
        if "metric" in self.numbers:
            return str(self.numbers["metric"])
        names = {key.partition("_")[2] for row in self.rows for key in row if key.startswith("train_")} - {"loss"}
        if names:
            return min(names)
        return self.sweeps.curve.metric if self.sweeps else "loss"

    @property
    def task(self) -> Mapping[str, Any]:
        """The task's options, as far as they are known."""
        task = self.numbers.get("task") or self.spec.get("task")
        return task if isinstance(task, dict) else {}

    @property
    def title(self) -> str:
        """What was trained."""
        name = self.numbers.get("name") or ", ".join(str(self.task[k]) for k in ("data", "model") if self.task.get(k))
        return str(name or self.folder.resolve().name)

    @property
    def seed(self) -> int | None:
        """Seed of the run, as far as it is known."""
        seed = self.numbers.get("seed", self.spec.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def updates(self) -> int:
        """Updates that are in the history."""
        return int(self.rows[-1]["step"] or 0) if self.rows else 0

    def number(self, name: str) -> float | None:
        """A final number, `None` if it is absent or null.

        Raises:
            UserError: It is no number.
        """
        value = self.numbers.get(name)
        # To mypy a union is no type[T].
        return files.checked(float | None, value, source=f"{self.source}: {name}")  # type: ignore[arg-type]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A mapping among the final numbers, empty if it is absent.

        Raises:
            UserError: It is no mapping.
        """
        value = self.numbers.get(name) or {}
        return files.checked(dict[str, Any], value, source=f"{self.source}: {name}")

    def evaluated(self, split: str) -> float | None:
        """Number of samples that the final numbers of a split were read on, if it is known."""
        found = self.mapping("evaluated").get(split)
        return files.checked(float | None, found, source=f"{self.source}: evaluated")  # type: ignore[arg-type]

    def measured(self, quantity: str) -> bool:
        """Whether the history holds that quantity of the training or the validation split."""
        names = (f"train_{quantity}", f"validation_{quantity}")
        return any(row.get(name) is not None for row in self.rows for name in names)


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        UserError: There is no such folder, nothing in it to report, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a run, such as runs/digits-1")
    run = RunFolder(folder)
    recipe, sweeps, numbers = run.recipe, run.range_test, run.numbers
    if not recipe.exists() and not sweeps.exists():
        names = f"neither {recipe.path.name} nor {sweeps.path.name}"
        raise UserError(f"{folder} has nothing to report yet: it holds {names}")
    rows = run.history.found() or []
    return RunRecord(
        folder=folder,
        spec=run.spec.found() or {},
        recipe=recipe.found(),
        sweeps=sweeps.found(),
        rows=files.checked(list[dict[str, float | None]], rows, source=run.history.path),
        estimates=run.estimates.found() or [],
        numbers=numbers.found() or {},
        source=str(numbers.path),
    )
