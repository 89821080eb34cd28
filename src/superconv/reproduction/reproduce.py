"""The paper's experiments, made and judged: which runs are left, and the verdicts on what is there."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from superconv.reproduction import claims
from superconv.reproduction.evidence import Evidence, Result
from superconv.reproduction.experiment import Arm, Experiment, identity
from superconv.reproduction.experiments import experiments
from superconv.reproduction.scales import Scale
from superconv.reproduction.store import Store
from superconv.runs.folder import RunFolder
from superconv.runs.jobs import Executor, Failure, InProcess, OnRun, Outcome
from superconv.runs.runner import run_all
from superconv.specs.run import RunSpec

MOST_SEEDS = 20  # that are looked for


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
    report: OnRun | None = None,
) -> list[RunSpec]:
    """Make the runs that experiments still lack, and judge all claims of the scale by what is there.

    Args:
        scale: How large.
        asked: Its experiments.
        folder: Of the scale's results, a `Store`.
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
    clock, failed = _TimeLimit(scale, minutes, slots=executor.slots), set[str]()

    def made(spec: RunSpec, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            store.fail(spec, outcome)
            failed.add(identity(spec))
        else:
            store.write(spec, outcome, RunFolder(runs / spec.hash))
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
        store.write_claims(claims.judge(scale, evidence(scale, store)))


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


class _TimeLimit:
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


def _seeded(spec: RunSpec, seeds: Iterable[int]) -> list[RunSpec]:
    return [replace(spec, seed=seed) for seed in seeds]
