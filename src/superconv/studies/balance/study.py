"""How much other regularization a large rate leaves room for (arXiv 1708.07120, section 5; 1803.09820, section 4).

A large rate regularizes. So weight decay, dropout, momentum and a small batch, which do so too, must shrink until the
total is right. First every setting goes through a short range test: how large a rate it bears, and how far validation
lies from training there. Then whole cycles are trained on a grid of decay × peak, and from its best cell on along the
other axes, one after the other; the best trial on the validation split is the recipe. Every setting starts from the
same weights and sees the same batches, augmented alike, as order and noise are functions of seed and position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superconv import models
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.report.words import shown
from superconv.runs.jobs import Executor, InProcess, OnRun
from superconv.runs.runner import common_plan
from superconv.search.decay import balanced_decay
from superconv.specs.image_task import ImageTask
from superconv.specs.studies import Axis, Balancing
from superconv.studies.balance.space import Setting, Trial, best_of, halfway, margin, nearest
from superconv.studies.balance.trials import Borne, Trials, borne
from superconv.training.plan import machine, versions
from superconv.training.task import Task, image_task, refuse_watched

CENTRE_DECAY = 1e-4  # of the range tests of the other axes; the paper's
MOMENTA = (0.8, 0.85, 0.9, 0.95)
DROPOUTS = (0.0, 0.1, 0.2)
EXPLORED = (1e-5, 10.0)  # rates between which the end of the range tests is looked for
PAST_EDGE, PAST_PEAK = 1.5, 2.0  # times the edge, or the largest peak that was given: where the range tests end
SHARES = (0.1, 0.3, 1.0)  # peaks, as shares of what the centre bears
UNKNOWN = 0.3  # largest peak where no range test says anything


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What was tried, and the recipe that follows."""

    name: str
    metric: str
    task: Mapping[str, Any]
    """The task as plain values, with the dropout that was chosen."""
    images: int
    """Of the validation split, on which all is chosen."""
    margin: float
    """Difference in the metric from which a trial is clearly worse than the chosen one; smaller ones may be chance."""
    range_tests: Mapping[str, tuple[tuple[float, Borne], ...]]
    """For each axis its values, all else at the centre."""
    grid: tuple[Trial, ...]
    """Decay × peak."""
    best: tuple[Trial, ...]
    """The best decay of each peak that trained, by rising peak."""
    dropped: tuple[Setting, ...]
    """Cells of the grid that were not trained, as one between them and the best was clearly worse."""
    others: Mapping[str, tuple[Trial, ...]]
    """Trials along each of the other axes, from the best so far."""
    chosen: Trial
    recipe: Recipe
    seeds: int
    plan: str
    machine: str
    versions: Mapping[str, str]


def balance(
    spec: ImageTask,
    balancing: Balancing,
    recipe: Recipe,
    root: Path,
    *,
    plan: str | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    report: OnRun | None = None,
) -> Balance:
    """Find how much weight decay, and other regularization, a task wants at large rates.

    Everything is chosen on the validation split; the test split is not read. A setting that diverges, runs out of
    memory or is killed is reported as such and never chosen.

    Args:
        spec: What to train.
        balancing: What to vary.
        recipe: The centre: batch size, momentum, shape of the cycle. Its decay, peak and length are not used.
        root: Folder of the runs, one each; what is finished there is not made again.
        plan: Words of the execution plan; not given, one is found for all runs together.
        device: Where to run.
        executor: Makes the runs; one after the other in this process, if not given.
        report: Told of each run as it ends.

    Raises:
        UserError: There is no validation split of its own, a value cannot be, or nothing that was tried trains the
            network.
    """
    refuse_watched(spec.watch_test)
    task = image_task(spec)
    if task.validation is None:
        raise UserError("balance chooses on the validation split: --validation must not be 0")
    images = len(task.validation)
    axes, centre = _axes(spec, task, balancing, recipe)
    _check_base(recipe.base_lr, sorted(balancing.max_lr))
    executor = executor or InProcess()
    whole = replace(recipe, steps=10 * balancing.steps)
    chosen_plan = common_plan(task, whole, root, device=device, words=plan, threads=executor.threads)
    trials = Trials(
        task=spec,
        balancing=balancing,
        centre=recipe,
        root=root,
        plan=chosen_plan.words,
        device=device,
        executor=executor,
        report=report,
    )
    tests, peaks = _bear(trials, centre, axes)
    walked = _grid(trials, centre, axes, peaks, samples=len(task.train), images=images)
    best = [best_of(tried) for tried in walked]
    others, chosen = _others(trials, axes, _chosen(best, task.name), images)
    grid = tuple(trial for tried in walked for _, trial in sorted(tried.items()))
    trained = tuple(trial for trial in best if trial.accuracy is not None)
    reasons = _reasons(grid, trained, others)
    return Balance(
        name=task.name,
        metric=task.metric_name,
        task=trials.task_of(chosen.setting).plain(),
        images=images,
        margin=margin(chosen, images),
        range_tests=tests,
        grid=grid,
        best=trained,
        dropped=_dropped(centre, axes, peaks, grid),
        others=others,
        chosen=chosen,
        recipe=replace(trials.recipe(chosen.setting), reasons=reasons),
        seeds=balancing.seeds,
        plan=chosen_plan.words,
        machine=machine(chosen_plan.device),
        versions=versions(),
    )


def _axes(spec: ImageTask, task: Task, balancing: Balancing, recipe: Recipe) -> tuple[dict[Axis, list[float]], Setting]:
    """The values of each axis, ascending, and the setting that lies on all of them."""
    decays = sorted(set(balancing.weight_decay))
    if not decays or decays[0] < 0:
        raise UserError("--weight-decay takes decays of 0 or more, such as 0,1e-5,1e-4,1e-3")
    size = recipe.batch_size
    dropout = float(dict(spec.model_args).get("dropout", 0.0))
    takes_dropout = models.takes(task.facts["model"]["name"], "dropout")
    centre = Setting(
        max_lr=1.0,
        weight_decay=nearest(decays, CENTRE_DECAY),
        batch_size=size,
        momentum=recipe.momentum,
        dropout=dropout if takes_dropout else None,
    )
    values: dict[Axis, Sequence[float]] = {
        "weight_decay": decays,
        "batch_size": sorted({max(1, size // 2), size, min(2 * size, len(task.train))}),
        "momentum": sorted({*MOMENTA, recipe.momentum}),
        "dropout": sorted({*DROPOUTS, dropout}),
    }
    varied = [axis for axis in balancing.axes if axis != "dropout" or takes_dropout]
    return {axis: list(values[axis]) for axis in values if axis in varied}, centre


def _bear(
    trials: Trials, centre: Setting, axes: Mapping[Axis, Sequence[float]]
) -> tuple[dict[str, tuple[tuple[float, Borne], ...]], list[float]]:
    """Range tests of every value on every axis, and the peaks of the cycles."""
    peaks = sorted(set(trials.balancing.max_lr))
    bound = UNKNOWN
    if peaks:
        end = PAST_PEAK * peaks[-1]
    else:
        low, end = EXPLORED
        (curve,) = trials.range_tests([replace(centre, max_lr=end)], start=low)
        explored = borne(curve)
        bound = explored.lr_max or bound
        end = min(end, PAST_EDGE * (explored.lr_edge or end))
    centre = replace(centre, max_lr=end)
    if not peaks:
        (curve,) = trials.range_tests([centre])
        peaks = [float(f"{share * (borne(curve).lr_max or bound):.1g}") for share in SHARES]
        _check_base(trials.centre.base_lr, peaks)
    settings = [centre, *(centre.at(axis, value) for axis, values in axes.items() for value in values)]
    found = dict(zip(settings, map(borne, trials.range_tests(settings)), strict=True))
    tests = {axis: tuple((value, found[centre.at(axis, value)]) for value in axes[axis]) for axis in axes}
    return {str(axis): rows for axis, rows in tests.items()}, peaks


def _check_base(base_lr: float | None, peaks: Sequence[float]) -> None:
    """Refuse a base rate under which a cycle would fall to its peak; `peaks` ascend."""
    if base_lr is not None and peaks and base_lr > peaks[0]:
        raise UserError(f"--base-lr {base_lr:g} is above the smallest peak, {peaks[0]:g}: lower it, or raise --max-lr")


def _grid(
    trials: Trials,
    centre: Setting,
    axes: Mapping[Axis, Sequence[float]],
    peaks: Sequence[float],
    *,
    samples: int,
    images: int,
) -> list[dict[float, Trial]]:
    """Cycles of decay × peak: for each peak outwards from the decay that its rate and length ask for, then refined."""
    decays = sorted(set(trials.balancing.weight_decay))
    starts = []
    for peak in peaks:
        wanted, _ = balanced_decay(trials.recipe(replace(centre, max_lr=peak)), samples)
        starts.append(replace(centre, max_lr=peak, weight_decay=nearest(decays, wanted)))
    if "weight_decay" not in axes:
        return [{start.weight_decay: trial} for start, trial in zip(starts, trials.cycles(starts), strict=True)]
    walked = trials.walk("weight_decay", decays, starts, images)
    between = [(tried, start, decay) for tried, start in zip(walked, starts, strict=True) if (decay := halfway(tried))]
    refined = trials.cycles([replace(start, weight_decay=decay) for _, start, decay in between])
    for (tried, _, decay), trial in zip(between, refined, strict=True):
        tried[decay] = trial
    return walked


def _chosen(best: Sequence[Trial], name: str) -> Trial:
    """The best of the peaks' best."""
    chosen = max(best, key=lambda trial: trial.merit)
    if chosen.accuracy is None:
        failures = "; ".join(f"peak {trial.setting.max_lr:g}: {trial.failure}" for trial in best)
        raise UserError(f"nothing that was tried trained {name} ({failures}): give smaller peaks by --max-lr")
    return chosen


def _others(
    trials: Trials, axes: Mapping[Axis, Sequence[float]], chosen: Trial, images: int
) -> tuple[dict[str, tuple[Trial, ...]], Trial]:
    """Cycles along each further axis in turn, from the best so far; they, and the best of all."""
    others: dict[str, tuple[Trial, ...]] = {}
    for axis in (a for a in axes if a != "weight_decay"):
        (tried,) = trials.walk(axis, axes[axis], [chosen.setting], images)
        others[axis] = tuple(trial for _, trial in sorted(tried.items()))
        chosen = best_of(tried)
    return others, chosen


def _dropped(
    centre: Setting, axes: Mapping[Axis, Sequence[float]], peaks: Sequence[float], grid: Sequence[Trial]
) -> tuple[Setting, ...]:
    decays = axes.get("weight_decay", ())
    cells = (replace(centre, max_lr=peak, weight_decay=decay) for peak in peaks for decay in decays)
    trained = {trial.setting for trial in grid}
    return tuple(cell for cell in cells if cell not in trained)


def _reasons(grid: Sequence[Trial], best: Sequence[Trial], others: Mapping[str, Sequence[Trial]]) -> dict[str, str]:
    """Why the recipe has its values, field by field."""
    chosen = max(best, key=lambda trial: trial.merit).setting
    row = [trial for trial in grid if trial.setting.max_lr == chosen.max_lr]
    tried = f"best of those tried at peak {chosen.max_lr:g}: {_listed(row, 'weight_decay')}"
    by_peak = ", ".join(f"{shown('weight_decay', t.setting.weight_decay)} at {t.setting.max_lr:g}" for t in best)
    peaks = f"best of the peaks, each with its best decay: {_listed(best, 'max_lr')}"
    only = "the only peak that trained" if len({trial.setting.max_lr for trial in grid}) > 1 else "the only peak tried"
    return {
        "max_lr": peaks if len(best) > 1 else only,
        "weight_decay": f"{tried}; best by peak: {by_peak}" if len(best) > 1 else tried,
        "steps": "the length of the trials, to which the decay belongs: longer runs want less",
        **{axis: f"best of those tried: {_listed(trials, axis)}" for axis, trials in others.items()},
    }


def _listed(trials: Sequence[Trial], name: str) -> str:
    """Values of a field with what came of them."""
    return ", ".join(
        f"{shown(name, getattr(trial.setting, name))} ({trial.failure or f'{trial.accuracy:.1%}'})" for trial in trials
    )
