"""The results of the reproduction's runs, thinned, in one file for each scale.

Results stand apart from the runs' folders, under a name that neither plan nor device is part of: a run that is finished
anywhere is not made again, and what is committed stays small.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.history import Row
from superconv.rates.curve import Curve
from superconv.reproduction.evidence import Result
from superconv.reproduction.experiment import identity
from superconv.runs.folder import RunFolder
from superconv.runs.jobs import Failure
from superconv.specs.run import RunSpec

KEPT_ROWS = 120  # of a history
KEPT_ESTIMATES = 150
_NUMBERS = (
    *("test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "steps", "stopped", "seconds"),
    *("images_per_second", "seed", "samples", "plan", "machine", "versions"),
)
_ROW = ("step", "lr", "train_accuracy", "validation_accuracy")
_ESTIMATE = ("step", "lr", "plain", "plain_with_buffers", "corrected", "corrected_l2")


class Store:
    """The results of a scale in their folder: `runs.jsonl` with a line for each, `failures.json`, `claims.json`.

    Results are read once; the process that writes holds the folder's lock.

    Args:
        folder: Where they lie; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs, self._failures, self._claims = (folder / n for n in ("runs.jsonl", "failures.json", "claims.json"))

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """Stored results by the identity of their runs."""
        found: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(files.read_text(self._runs).splitlines() if self._runs.exists() else (), start=1):
            try:
                stored = json.loads(line)
                found[stored["identity"]] = stored
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._runs}: line {number} is no result of a run; restore the file") from error
        return found

    def has(self, spec: RunSpec) -> bool:
        """Whether a run is finished."""
        return identity(spec) in self.results

    def write(self, spec: RunSpec, numbers: Mapping[str, Any], folder: RunFolder) -> None:
        """Thin what a run left in its folder, and keep it."""
        rows = _readings(numbers["curve"]) if spec.kind == "range_test" else folder.history.read()
        read = [row for row in rows if "validation_accuracy" in row]
        rest = [row for row in rows if "validation_accuracy" not in row]
        room = max(0, KEPT_ROWS - len(read))
        kept = sorted((*_spread(read, KEPT_ROWS), *_spread(rest, room)), key=lambda row: row["step"] or 0)
        measured = spec.estimate and folder.estimates.exists()
        estimates = _spread(folder.estimates.read(), KEPT_ESTIMATES) if measured else []
        self.results[identity(spec)] = {
            "identity": identity(spec),
            "spec": replace(spec, plan=None, device="auto").plain(),
            "classes": len(numbers["class_names"]),
            "numbers": {**{name: numbers.get(name) for name in _NUMBERS}, "stopped": _stopped(numbers)},
            "rows": [_rounded(row, _ROW) for row in kept],
            "estimates": [_rounded(row, _ESTIMATE) for row in estimates],
        }
        lines = (json.dumps(self.results[name], allow_nan=False) for name in sorted(self.results))
        files.write_text(self._runs, "".join(f"{line}\n" for line in lines))
        self._note(spec, None)

    def fail(self, spec: RunSpec, failure: Failure) -> None:
        """Note why there is no result of a run."""
        self._note(spec, failure.reason)

    def _note(self, spec: RunSpec, reason: str | None) -> None:
        noted = self.failures()
        changed = {k: v for k, v in noted.items() if k != identity(spec)}
        changed |= {} if reason is None else {identity(spec): reason}
        if changed != noted:
            files.write_json(self._failures, changed)

    def failures(self) -> dict[str, str]:
        """Why runs have no result, by their identity."""
        return dict(files.read_json(self._failures)) if self._failures.exists() else {}

    def write_claims(self, judged: Sequence[Mapping[str, Any]]) -> None:
        """Keep the verdicts on the paper's claims."""
        files.write_json(self._claims, judged)

    def claims(self) -> list[dict[str, Any]] | None:
        """The verdicts on the paper's claims; `None` before any run was asked for."""
        return list(files.read_json(self._claims)) if self._claims.exists() else None

    def read(self, spec: RunSpec) -> Result | None:
        """The result of a run; `None` if it is not finished."""
        if not self.has(spec):
            return None
        stored = self.results[identity(spec)]
        numbers, chance = stored["numbers"], 1 / stored["classes"]
        test = numbers["test_accuracy"]
        test = chance if test is None else test
        validation = numbers["validation_accuracy"]
        return Result(
            test=test,
            validation=test if validation is None else validation,
            chance=chance,
            stopped=numbers["stopped"],
            rows=stored["rows"],
            estimates=stored["estimates"],
            max_lr=spec.recipe.max_lr,
        )

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of all that is stored: what a page and its figures were made from."""
        text = hashlib.sha256()
        for path in (self._runs, self._failures, self._claims):
            text.update(f"{path.name}\0".encode() + (path.read_bytes() if path.exists() else b""))
        return text.hexdigest()[:12]


def _readings(stored: Mapping[str, Any]) -> list[Row]:
    """The rows of a range test as those of a history."""
    curve = Curve.from_dict(stored)
    columns = zip(curve.step, curve.lr, curve.train_metric, curve.validation_metric, strict=True)
    return [
        {"step": step, "lr": lr, "train_accuracy": train} | ({} if read is None else {"validation_accuracy": read})
        for step, lr, train, read in columns
    ]


def _stopped(numbers: Mapping[str, Any]) -> str | None:
    """Why a run ended early, range tests included."""
    curve = numbers.get("curve")
    return numbers.get("stopped") or ("diverged" if curve and Curve.from_dict(curve).stopped else None)


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    if most < 2:
        return list(rows[len(rows) - most :])
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _rounded(row: Row, names: Sequence[str]) -> Row:
    return {
        name: value if value is None else float(f"{value:.5g}") for name in names if (value := row.get(name, "")) != ""
    }
