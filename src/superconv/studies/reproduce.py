"""The paper's experiments, made and judged: which runs are left, their thinned results, the verdicts.

Results stand apart from the runs' folders, under a name that neither plan nor device is part of: a run that is finished
anywhere is not made again, and what is committed stays small.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superconv import files, history
from superconv.history import Row
from superconv.paper import claims
from superconv.paper.arms import Arm, Experiment, identity
from superconv.paper.evidence import Evidence, Result
from superconv.paper.experiments import experiments
from superconv.paper.scales import Scale
from superconv.rates.curve import Curve
from superconv.specs import RunSpec
from superconv.studies.runner import run_all
from superconv.studies.sweep import Executor, Failure, InProcess, Outcome

KEPT_ROWS = 120  # of a history
KEPT_ESTIMATES = 150
MOST_SEEDS = 20  # that are looked for
FAILURES, CLAIMS = "failures.json", "claims.json"
_NUMBERS = (
    *("test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "steps", "stopped", "seconds"),
    *("images_per_second", "seed", "samples", "plan", "machine", "versions"),
)
_ROW = ("step", "lr", "train_accuracy", "validation_accuracy")
_ESTIMATE = ("step", "lr", "plain", "plain_with_buffers", "corrected", "corrected_l2")

Report = Callable[[RunSpec, Outcome], None]


@dataclass(frozen=True)
class Store:
    """The results of a scale in their folder: `<identity>.json` for each run, `failures.json`, `claims.json`."""

    folder: Path

    def path(self, spec: RunSpec) -> Path:
        """Where the result of a run is, or will be."""
        return self.folder / f"{identity(spec)}.json"

    def has(self, spec: RunSpec) -> bool:
        """Whether a run is finished."""
        return self.path(spec).exists()

    def write(self, spec: RunSpec, numbers: Mapping[str, Any], folder: Path) -> None:
        """Thin what a run left in its folder."""
        rows = _readings(numbers["curve"]) if spec.kind == "range_test" else history.read(folder / "history.jsonl")
        read, rest = (
            [r for r in rows if "validation_accuracy" in r],
            [r for r in rows if "validation_accuracy" not in r],
        )
        room = max(0, KEPT_ROWS - len(read))
        kept = sorted((*_spread(read, KEPT_ROWS), *_spread(rest, room)), key=lambda row: row["step"] or 0)
        measured = folder / "estimate.jsonl"
        estimates = _spread(history.read(measured), KEPT_ESTIMATES) if spec.estimate and measured.exists() else []
        files.write_json(
            self.path(spec),
            {
                "spec": replace(spec, plan=None, device="auto").plain(),
                "classes": len(numbers["class_names"]),
                "numbers": {**{name: numbers.get(name) for name in _NUMBERS}, "stopped": _stopped(numbers)},
                "rows": [_rounded(row, _ROW) for row in kept],
                "estimates": [_rounded(row, _ESTIMATE) for row in estimates],
            },
        )
        self._fail(spec, None)

    def fail(self, spec: RunSpec, failure: Failure) -> None:
        """Note why there is no result of a run."""
        self._fail(spec, failure.reason)

    def _fail(self, spec: RunSpec, reason: str | None) -> None:
        noted = self.failures()
        changed = {k: v for k, v in noted.items() if k != identity(spec)}
        changed |= {} if reason is None else {identity(spec): reason}
        if changed != noted:
            files.write_json(self.folder / FAILURES, changed)

    def failures(self) -> dict[str, str]:
        """Why runs have no result, by their identity."""
        path = self.folder / FAILURES
        return dict(files.read_json(path)) if path.exists() else {}

    def read(self, spec: RunSpec) -> Result | None:
        """The result of a run; none if it is not finished."""
        if not self.has(spec):
            return None
        stored = files.read_json(self.path(spec))
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
        """Twelve hexadecimal digits of all the JSON in the folder: what a page and its figures were made from."""
        text = hashlib.sha256()
        for path in sorted(self.folder.glob("*.json")):
            text.update(f"{path.name}\0".encode() + path.read_bytes())
        return text.hexdigest()[:12]


def reproduce(
    scale: Scale,
    asked: Iterable[Experiment],
    folder: Path,
    runs: Path,
    *,
    plan: str | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    minutes: float | None = None,
    report: Report | None = None,
) -> list[RunSpec]:
    """Make the runs that experiments still lack, and judge all claims of the scale by what is there.

    Args:
        scale: How large.
        asked: Its experiments.
        folder: Of the scale's results; gets a JSON file for each run and `claims.json`.
        runs: Of the runs themselves; interrupted ones go on from their checkpoints.
        plan: Words of the execution plan; none lets each run search its own.
        device: Where to run.
        executor: Makes the runs.
        minutes: Start no run that, by the scale's pace and what runs have taken so far, would end later.
        report: Told of each run as it ends.

    Returns:
        The runs that are left for want of time; failed ones are in `failures.json`.
    """
    executor, store = executor or InProcess(), Store(folder)
    clock, failed = _Clock(scale, minutes, slots=executor.slots), set[str]()

    def made(spec: RunSpec, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            store.fail(spec, outcome)
            failed.add(identity(spec))
        else:
            store.write(spec, outcome, runs / spec.hash)
            clock.took(spec, float(outcome["seconds"] or 0.0))
        if report:
            report(spec, outcome)

    def make(wanted: Iterable[RunSpec]) -> list[RunSpec]:
        distinct = {identity(spec): replace(spec, plan=plan, device=device) for spec in wanted}
        left = [spec for name, spec in distinct.items() if not store.has(spec) and name not in failed]
        while left and (part := clock.next(left)):
            run_all(part, runs, executor=executor, report=made)
            left = [spec for spec in left if spec not in part]
        return left

    arms = [(arm, range(experiment.seeds)) for experiment in asked for arm in experiment.arms.values()]
    try:
        left = make(spec for arm, seeds in arms for spec in _first(arm, seeds))
        further = make(spec for arm, seeds in arms if (best := best_of(arm, store)) for spec in _seeded(best, seeds))
        return left + [spec for spec in further if spec not in left]
    finally:
        files.write_json(folder / CLAIMS, claims.judge(scale, evidence(scale, store)))


def evidence(scale: Scale, store: Store) -> Evidence:
    """All results of a scale that there are, also of more or fewer seeds than are usual, and why others are not."""
    results: dict[str, dict[str, dict[int, Result]]] = {}
    reasons, failures = {}, store.failures()
    for name, experiment in experiments(scale).items():
        for key, arm in experiment.arms.items():
            if best := best_of(arm, store):
                found = ((spec.seed, store.read(spec)) for spec in _seeded(best, range(MOST_SEEDS)))
                results.setdefault(name, {})[key] = {seed: r for seed, r in found if r is not None}
        if not experiment.arms:
            reasons[name] = experiment.note
        elif failed := [failures[identity(spec)] for spec in experiment.runs if identity(spec) in failures]:
            reasons[name] = failed[0]
        else:
            reasons[name] = f"`superconv reproduce {name} --scale {scale.name}` makes its runs"
    return Evidence(results, reasons)


def best_of(arm: Arm, store: Store) -> RunSpec | None:
    """The spec of an arm, of candidates the best by seed 0's validation accuracy; none before all have been run."""
    if len(arm.specs) == 1:
        return arm.specs[0]
    tried = [(spec, store.read(spec)) for spec in arm.specs]
    scored = [(result.validation, spec) for spec, result in tried if result is not None]
    return max(scored, key=lambda pair: pair[0])[1] if len(scored) == len(tried) else None


def wanted(experiment: Experiment, store: Store) -> dict[str, RunSpec]:
    """An experiment's runs by their identity: all candidates of its arms, and further seeds of the best."""
    specs = [
        spec
        for arm in experiment.arms.values()
        for best in [best_of(arm, store) or arm.specs[0]]
        for spec in (*arm.specs, *_seeded(best, range(1, experiment.seeds)))
    ]
    return {identity(spec): spec for spec in specs}


def finished(experiment: Experiment, store: Store) -> int:
    """How many of an experiment's runs are finished."""
    return sum(store.has(spec) for spec in wanted(experiment, store).values())


class _Clock:
    """Which runs still fit into the time."""

    def __init__(self, scale: Scale, minutes: float | None, *, slots: int) -> None:
        self._scale, self._minutes, self._slots = scale, minutes, slots
        self._began = time.monotonic()
        self._told = self._taken = 0.0  # minutes of finished runs, by the pace and by the clock

    def took(self, spec: RunSpec, seconds: float) -> None:
        self._told += self._scale.minutes(spec)
        self._taken += seconds / 60

    def next(self, left: Sequence[RunSpec]) -> list[RunSpec]:
        """The runs to make next: all of them, or with a limit as many of those that fit as are made at a time."""
        if self._minutes is None:
            return list(left)
        slower = max(1.0, self._taken / self._told) if self._told else 1.0
        rest = self._minutes - (time.monotonic() - self._began) / 60
        return [spec for spec in left if slower * self._scale.minutes(spec) <= rest][: self._slots]


def _first(arm: Arm, seeds: Iterable[int]) -> list[RunSpec]:
    """What of an arm can be made at once: all seeds, or seed 0 of each candidate."""
    return _seeded(arm.specs[0], seeds) if len(arm.specs) == 1 else list(arm.specs)


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


def _seeded(spec: RunSpec, seeds: Iterable[int]) -> list[RunSpec]:
    return [replace(spec, seed=seed) for seed in seeds]


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
