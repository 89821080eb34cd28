"""What was measured, run by run, and the statistics that claims are decided by."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from superconv.history import Row
from superconv.stats import mean_interval, speed_up

Verdict = Literal["holds", "does not hold", "inconclusive", "not run"]
FEWEST_SEEDS = 3  # of a verdict
Key = tuple[str, str]
"""An experiment and the key of one of its arms."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run."""

    test: float
    """Final accuracy on the whole test split; chance where the run diverged."""
    validation: float
    """The same on the images held out; on the test split where none are."""
    chance: float
    stopped: str | None
    rows: Sequence[Row]
    """Of the history, thinned: `step`, `lr`, `train_accuracy`, `validation_accuracy`."""
    estimates: Sequence[Row] = ()
    """Curvature estimates, where they were measured."""
    max_lr: float = 0.0

    @property
    def train(self) -> float:
        """Training accuracy over the last updates."""
        seen = [row["train_accuracy"] for row in self.rows if row.get("train_accuracy") is not None]
        return float(seen[-1] or 0.0) if seen and self.stopped is None else self.chance

    @property
    def readings(self) -> list[tuple[float, float]]:
        """(rate, accuracy) at each evaluation; chance at those that a sweep did not reach."""
        read = [(r["lr"] or 0.0, float(r["validation_accuracy"] or 0)) for r in self.rows if "validation_accuracy" in r]
        if self.stopped is None:
            return read
        reached = read[-1][0] if read else 0.0
        spacing = reached / len(read) if reached else self.max_lr
        missing = max(1, round((self.max_lr - reached) / spacing))
        return [*read, *((self.max_lr - spacing * i, self.chance) for i in reversed(range(missing)))]


class NotRunError(Exception):
    """Why a claim cannot be decided."""


@dataclass(frozen=True)
class Evidence:
    """All results of a scale."""

    results: Mapping[str, Mapping[str, Mapping[int, Result]]]
    """Experiment → arm → seed → result."""
    reasons: Mapping[str, str]
    """Experiment → why runs of it are missing."""

    def of(self, key: Key) -> Mapping[int, Result]:
        """The results of an arm by seed.

        Raises:
            NotRunError: There are none.
        """
        experiment, arm = key
        found = self.results.get(experiment, {}).get(arm, {})
        if not found:
            raise NotRunError(self.reasons.get(experiment, "not made yet"))
        return found


@dataclass(frozen=True)
class Measured:
    """A number with the 95 % interval of its mean, and the values of the seeds; one value has no interval."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


Measure = Callable[[Evidence], Measured]


def decide(measured: Measured, above: float) -> tuple[Verdict, str]:
    """Whether a number is above a bound, and why that is said."""
    if measured.low is None or measured.high is None or len(measured.values) < FEWEST_SEEDS:
        return "inconclusive", f"fewer than {FEWEST_SEEDS} seeds: {len(measured.values)}"
    interval = f"the 95 % interval, {measured.low:.3g} to {measured.high:.3g}, of {len(measured.values)} seeds"
    if measured.low > above:
        return "holds", f"{interval} lies above {above:g}"
    if measured.high < above:
        return "does not hold", f"{interval} lies below {above:g}"
    return "inconclusive", f"{interval} covers {above:g}"


def combination(*terms: tuple[float, Key], of: Callable[[Result], float] = lambda result: result.test) -> Measure:
    """A weighted sum of accuracies in points, seed by seed."""

    def measure(evidence: Evidence) -> Measured:
        arms = [(weight, evidence.of(key)) for weight, key in terms]
        return _over_seeds([arm for _, arm in arms], lambda seed: sum(100 * w * of(arm[seed]) for w, arm in arms))

    return measure


def difference(first: Key, second: Key) -> Measure:
    """Test accuracy of the first less that of the second, in points."""
    return combination((1, first), (-1, second))


def over_best(first: Key, others: Sequence[Key]) -> Measure:
    """Test accuracy of the first less that of the others' best by validation accuracy, in points."""

    def measure(evidence: Evidence) -> Measured:
        def mean(key: Key) -> float:
            return statistics.fmean(result.validation for result in evidence.of(key).values())

        return difference(first, max(others, key=mean))(evidence)

    return measure


def gap(result: Result) -> float:
    """Training accuracy less test accuracy."""
    return result.train - result.test


def retention(readings: Sequence[tuple[float, float]], *, chance: float = 0.1) -> float:
    """Share of a sweep's best accuracy above chance that is left over its last third of rates.

    The best is the largest mean of three readings in a row. 1 is a flat range test, 0 one that has fallen to chance.
    """
    values = [value for _, value in readings]
    best = max(statistics.fmean(values[i : i + 3]) for i in range(max(1, len(values) - 2)))
    end = 2 / 3 * max(rate for rate, _ in readings)
    late = statistics.fmean(value for rate, value in readings if rate >= end)
    return (late - chance) / (best - chance) if best > chance else 0.0


def retained(key: Key, *, less: Key | None = None) -> Measure:
    """The retention of a range test, or how much more it is than another's."""

    def measure(evidence: Evidence) -> Measured:
        arms = [evidence.of(k) for k in (key, less) if k]

        def value(seed: int) -> float:
            first, *rest = (retention(arm[seed].readings, chance=arm[seed].chance) for arm in arms)
            return first - sum(rest)

        return _over_seeds(arms, value)

    return measure


def between(key: Key, less: Key, low: float, high: float) -> Measure:
    """Mean accuracy of a range test over a stretch of rates less another's, in points."""

    def measure(evidence: Evidence) -> Measured:
        arms = [evidence.of(key), evidence.of(less)]

        def level(result: Result) -> float:
            seen = [value for rate, value in result.readings if low <= rate <= high]
            return 100 * (statistics.fmean(seen) if seen else result.chance)

        return _over_seeds(arms, lambda seed: level(arms[0][seed]) - level(arms[1][seed]))

    return measure


def lost(key: Key) -> Measure:
    """What is missing from the retention of a range test."""

    def measure(evidence: Evidence) -> Measured:
        arm = evidence.of(key)
        return _over_seeds([arm], lambda seed: 1 - retention(arm[seed].readings, chance=arm[seed].chance))

    return measure


def estimate_ratio(key: Key, over: Key) -> Measure:
    """How many times larger the median estimate of one arm is, each in units of its rate; the mean is geometric."""

    def measure(evidence: Evidence) -> Measured:
        arms = [evidence.of(key), evidence.of(over)]
        found = _over_seeds(arms, lambda seed: log(allowed(arms[0][seed]) / allowed(arms[1][seed])))
        low, high = (None if end is None else exp(end) for end in (found.low, found.high))
        return Measured(exp(found.mean), low, high, tuple(map(exp, found.values)))

    return measure


def allowed(result: Result) -> float:
    """The median curvature estimate as a multiple of the rate in use, to which every such estimate is proportional.

    Raises:
        NotRunError: None was measured.
    """
    seen = [value / rate for row in result.estimates if (value := row.get("plain")) and (rate := row.get("lr"))]
    if not seen:
        raise NotRunError("no estimate was measured")
    return statistics.median(seen)


def updates_saved(cycles: Mapping[int, Key], baseline: tuple[int, Key]) -> Measure:
    """How many times fewer updates the shortest cycle needs that reaches the baseline; 0 where none does.

    Means are compared, and the interval is that of `speed_up`; the values compare seed by seed.
    """

    def measure(evidence: Evidence) -> Measured:
        arms = {n: evidence.of(key) for n, key in sorted(cycles.items())}
        steps, key = baseline
        reached = evidence.of(key)
        scores = {n: [result.test for result in arm.values()] for n, arm in arms.items()}
        (found,) = speed_up(scores, {steps: [result.test for result in reached.values()]}, name="piecewise")

        def ratio(seed: int) -> float:
            enough = (n for n, arm in arms.items() if arm[seed].test >= reached[seed].test)
            return steps / shortest if (shortest := next(enough, None)) else 0.0

        paired = _over_seeds([*arms.values(), reached], ratio)
        low, high = (found.low or 0.0, found.high or 0.0) if len(paired.values) > 1 else (None, None)
        return Measured(found.ratio or 0.0, low, high, paired.values)

    return measure


def _over_seeds(arms: Sequence[Mapping[int, Result]], value: Callable[[int], float]) -> Measured:
    """The mean over the seeds that all arms have."""
    seeds = sorted(set.intersection(*(set(arm) for arm in arms)))
    if not seeds:
        raise NotRunError("its arms have no seed in common yet")
    values = tuple(map(value, seeds))
    return Measured(*mean_interval(values), values)
