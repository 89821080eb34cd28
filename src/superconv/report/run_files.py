"""What lies in a run's folder, read and checked; any part of it may still be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superconv import files, history
from superconv.errors import UserError
from superconv.history import Row
from superconv.rates.curve import Curve
from superconv.rates.verdict import Verdict
from superconv.recipe import Recipe


@dataclass(frozen=True)
class RangeTestFile:
    """`range_test.json`."""

    exploration: Curve | None
    curve: Curve
    verdict: Verdict


@dataclass(frozen=True)
class RunFiles:
    """A run, finished or not."""

    folder: Path
    spec: Mapping[str, Any]
    """`spec.json`; empty if absent."""
    recipe: Recipe | None
    sweeps: RangeTestFile | None
    """None where the largest rate was given."""
    rows: Sequence[Row]
    estimates: Sequence[Row]
    """`estimate.jsonl`; empty if there is none."""
    numbers: Mapping[str, Any]
    """`run.json`; empty while the run is not finished."""

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
        """A number of `run.json`, None if it is absent or null.

        Raises:
            UserError: It is no number.
        """
        value = self.numbers.get(name)
        # To mypy a union is no type[T].
        return files.checked(float | None, value, source=f"{self.folder / 'run.json'}: {name}")  # type: ignore[arg-type]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A mapping of `run.json`, empty if it is absent.

        Raises:
            UserError: It is no mapping.
        """
        value = self.numbers.get(name) or {}
        return files.checked(dict[str, Any], value, source=f"{self.folder / 'run.json'}: {name}")

    def measured(self, quantity: str) -> bool:
        """Whether the history holds that quantity of the training or the validation split."""
        names = (f"train_{quantity}", f"validation_{quantity}")
        return any(row.get(name) is not None for row in self.rows for name in names)


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder.

    Raises:
        UserError: There is no such folder, nothing in it to report, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a run, such as runs/digits-1")
    recipe_file, sweeps_file, history_file = (folder / n for n in ("recipe.yaml", "range_test.json", "history.jsonl"))
    if not recipe_file.exists() and not sweeps_file.exists():
        raise UserError(f"{folder} has nothing to report yet: it holds neither recipe.yaml nor range_test.json")
    rows = history.read(history_file) if history_file.exists() else []
    return RunFiles(
        folder=folder,
        spec=_mapping(folder / "spec.json"),
        recipe=Recipe.load(recipe_file) if recipe_file.exists() else None,
        sweeps=_read_sweeps(sweeps_file) if sweeps_file.exists() else None,
        rows=files.checked(list[dict[str, float | None]], rows, source=history_file),
        estimates=history.read(estimates) if (estimates := folder / "estimate.jsonl").exists() else [],
        numbers=_mapping(folder / "run.json"),
    )


def _mapping(path: Path) -> Mapping[str, Any]:
    return files.checked(dict[str, Any], files.read_json(path), source=path) if path.exists() else {}


def _read_sweeps(path: Path) -> RangeTestFile:
    value = files.checked(dict[str, Any], files.read_json(path), source=path)
    if missing := {"curve", "verdict"} - value.keys():
        raise UserError(f"{path} holds no range test: {' and '.join(sorted(missing))} is missing")
    exploration = value.get("exploration")
    return RangeTestFile(
        exploration=None if exploration is None else Curve.from_dict(exploration, source=path),
        curve=Curve.from_dict(value["curve"], source=path),
        verdict=files.checked(Verdict, value["verdict"], source=path),
    )
