"""Makes range tests and whole cycles of settings, each a run of its own, and walks along an axis of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superconv.rates.curve import Curve, merge
from superconv.rates.verdict import judge
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.runs.jobs import Executor, Failure, OnRun, Outcome
from superconv.runs.runner import run_all
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RunSpec
from superconv.specs.studies import Axis, Balancing
from superconv.studies.balance.space import Setting, Trial, following

READINGS = 20  # of the validation split, in a range test
TAIL = 5  # rows of a history, of about a hundred, over which the final training scores are averaged
SHORTEST = 20  # updates of a cycle or a range test

Rows = Sequence[tuple[RunSpec, Outcome]]


@dataclass(frozen=True, kw_only=True)
class Borne:
    """What a short range test says of a setting."""

    lr_max: float | None = None
    """Largest rate it bears; none where it never learned, or failed."""
    lr_edge: float | None = None
    """Rate that was seen to be too much; none where no fall was seen."""
    accuracy: float | None = None
    """Best of the validation split on the way."""
    loss: float | None = None
    """Lowest of the validation split on the way."""
    gap: float | None = None
    """Validation loss less training loss, over the upper half of the rates borne."""
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What all trials share; their settings are the methods' arguments.

    Equal settings are made once, and what is finished in `root` is not made again.
    """

    task: ImageTask
    balancing: Balancing
    centre: Recipe
    """Everything that settings do not vary."""
    root: Path
    plan: str
    device: str
    executor: Executor
    report: OnRun | None = None

    def recipe(self, setting: Setting, *, steps: int | None = None) -> Recipe:
        """The recipe of a setting; the larger its batch, the fewer its updates, so that all see as many images."""
        updates = (self.balancing.steps if steps is None else steps) * self.centre.batch_size / setting.batch_size
        return replace(
            self.centre,
            steps=max(SHORTEST, round(updates)),
            batch_size=setting.batch_size,
            max_lr=setting.max_lr,
            weight_decay=setting.weight_decay,
            momentum=setting.momentum,
            dropout=setting.dropout,
        )

    def task_of(self, setting: Setting) -> ImageTask:
        """The task with the dropout of a setting."""
        if setting.dropout is None:
            return self.task
        others = tuple(pair for pair in self.task.model_args if pair[0] != "dropout")
        return replace(self.task, model_args=(*others, ("dropout", setting.dropout)) if setting.dropout else others)

    def range_tests(self, settings: Sequence[Setting], *, start: float | None = None) -> list[Curve | str]:
        """The range test of each setting, from 0 or exponentially from `start`; in words where one failed."""
        specs = [self._range_test(setting, start) for setting in settings]
        return [
            _failure(rows)
            or merge([Curve.from_dict(outcome["curve"]) for _, outcome in rows if isinstance(outcome, dict)])
            for rows in self._run(specs)
        ]

    def cycles(self, settings: Sequence[Setting]) -> list[Trial]:
        """Whole cycles of each setting."""
        specs = [self._spec(setting, self.recipe(setting), kind="trial", evaluations=0) for setting in settings]
        return [self._trial(setting, rows) for setting, rows in zip(settings, self._run(specs), strict=True)]

    def walk(
        self, axis: Axis, values: Sequence[float], starts: Sequence[Setting], images: int
    ) -> list[dict[float, Trial]]:
        """Cycles along an axis from each start, as `following` says; the starts advance in step."""
        walked: list[dict[float, Trial]] = [{} for _ in starts]
        while True:
            wave = [
                (tried, start.at(axis, value))
                for start, tried in zip(starts, walked, strict=True)
                for value in following(values, start.value(axis), tried, images)
            ]
            if not wave:
                return walked
            for (tried, setting), trial in zip(wave, self.cycles([setting for _, setting in wave]), strict=True):
                tried[setting.value(axis)] = trial

    def _range_test(self, setting: Setting, start: float | None) -> RunSpec:
        recipe = self.recipe(setting, steps=self.balancing.sweep_steps)
        swept = replace(recipe, schedule="constant", ramp=0.0, base_lr=start)
        return self._spec(setting, swept, kind="range_test", evaluations=READINGS)

    def _spec(self, setting: Setting, recipe: Recipe, **fields: Any) -> RunSpec:
        task = self.task_of(setting)
        return RunSpec(task=task, recipe=recipe, plan=self.plan, device=self.device, **fields)

    def _run(self, specs: Sequence[RunSpec]) -> list[Rows]:
        """Each spec from every seed, with its outcome."""
        count = self.balancing.seeds
        seeded = [replace(spec, seed=seed) for spec in specs for seed in range(count)]
        outcomes = run_all(seeded, self.root, executor=self.executor, report=self.report)
        made = list(zip(seeded, outcomes, strict=True))
        return [made[i : i + count] for i in range(0, len(made), count)]

    def _trial(self, setting: Setting, rows: Rows) -> Trial:
        if failure := _failure(rows):
            return Trial(setting=setting, failure=failure)
        ends = [row for spec, _ in rows for row in RunFolder(self.root / spec.hash).history.read()[-TAIL:]]
        scores = [outcome for _, outcome in rows if isinstance(outcome, dict)]
        metric = scores[0]["metric"]
        return Trial(
            setting=setting,
            accuracy=_mean(scores, f"validation_{metric}"),
            loss=_mean(scores, "validation_loss"),
            train_accuracy=_mean(ends, f"train_{metric}"),
            train_loss=_mean(ends, "train_loss"),
        )


def borne(curve: Curve | str) -> Borne:
    """What a range test says; `curve` is the reason where it failed."""
    if isinstance(curve, str):
        return Borne(failure=curve)
    verdict = judge(curve)
    top, gap = verdict.lr_max, None
    if top is not None:
        upper = [i for i, lr in enumerate(curve.lr) if top / 2 < lr <= top]
        seen, trained = (_finite([column[i] for i in upper]) for column in (curve.validation_loss, curve.train_loss))
        gap = statistics.fmean(seen) - statistics.fmean(trained) if seen and trained else None
    return Borne(
        lr_max=top,
        lr_edge=verdict.lr_edge,
        accuracy=max(_finite(curve.validation_metric), default=None),
        loss=min(_finite(curve.validation_loss), default=None),
        gap=gap,
    )


def _failure(rows: Rows) -> str | None:
    """Why a setting has no numbers: that of its first seed which gave none; none if all did."""
    return next((reason for _, outcome in rows if (reason := failure_of(outcome))), None)


def failure_of(outcome: Outcome) -> str | None:
    """Why a run gave no numbers to compare; none if it did."""
    if isinstance(outcome, Failure):
        return outcome.reason
    if outcome.get("stopped"):
        return f"{outcome['stopped']} at update {outcome['steps']}"
    if "curve" not in outcome and outcome.get("validation_loss") is None:
        return "diverged: its validation loss is not finite"
    return None


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and abs(value) < float("inf")]
