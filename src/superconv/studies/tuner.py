"""A recipe for a task and a length: what the user leaves open, found within a stated search budget."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

from superconv.errors import UserError
from superconv.recipe import Recipe, batch_size_for
from superconv.specs import Choices
from superconv.studies.kind import Kind, kind_of, usual_kind
from superconv.studies.probes import LEAST, PeakSearch, search_peak
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.sweeps import EXPLORING, RateSearch, explore, range_test, search_rates
from superconv.training.task import Task

EPOCHS, MIN_STEPS = 12, 500  # length of a training that nobody gave a length
FEWEST_UPDATES = 700  # a batch is halved before a run of stated epochs has fewer
BUDGET, LEAST_BUDGET = 0.3, 200  # of the training's updates, and updates, that a search may take
SWEEP = 50  # updates of the exploring sweep of a short run
FEWEST_PROBED = 3 * LEAST  # updates of the least that brackets a peak
LONG = 500  # updates of budget from which the paper's linear range test is affordable beside the probes
BELOW = 3.0  # the first probe's peak lies so far below what a sweep bears for a moment
START, START_ADAPTIVE = 0.1, 0.003  # first peak where no sweep says anything
SHRINKING = 0.25  # Σ decay · rate / (1 − momentum) over a run of one epoch
DECAYS, DECOUPLED_DECAYS = (1e-6, 1e-2), (1e-2, 1e-1)  # between which a decay is chosen


@dataclass(frozen=True, kw_only=True)
class Found:
    """A recipe and what it rests on."""

    recipe: Recipe
    search: RateSearch | None = None
    """None where the peak was given."""
    peak: PeakSearch | None = None
    """None where the peak was given."""
    seconds: float = 0.0


def find_recipe(
    task: Task, choices: Choices, *, plan: ExecutionPlan, seed: int = 0, hooks: Sequence[Hook] = ()
) -> Found:
    """Choose what `choices` leaves open, on the training and validation splits.

    A range test finds what rates the network bears at all; short cycles find the peak that pays, which depends on the
    run's length. Both together take at most `BUDGET` of the run's updates or `LEAST_BUDGET`, whichever is more. Equal
    seeds, plans and lengths in updates give equal recipes.

    Args:
        task: What will be trained.
        choices: What is settled; it is not searched.
        plan: Where it runs.
        seed: Of the sweeps and the short cycles.
        hooks: Look on.

    Raises:
        UserError: Choices contradict each other, or nothing that was tried trains the network.
    """
    began = time.perf_counter()
    given = [name for name in ("epochs", "steps", "minutes") if getattr(choices, name) is not None]
    if len(given) > 1:
        raise UserError(f"give one length, not both {' and '.join(given)}")
    trial = outline(task, choices)
    samples, batch_size = len(task.train), trial.batch_size
    reasons = {"batch_size": "given" if choices.batch_size else _batch_reason(samples, trial)}
    search, peak, pace = None, None, None
    steps = _steps(choices, samples, batch_size)
    if choices.minutes is not None and choices.max_lr is None:
        pace = _seconds_per_update(task, trial, plan)
        steps = plan.fabric().broadcast(max(20, int(choices.minutes * 60 / pace / (1 + BUDGET))))
    max_lr = choices.max_lr
    if max_lr is None:
        whole = replace(trial, steps=max(20, steps))
        search = _sweeps(task, whole, choices, plan=plan, seed=seed, hooks=hooks)
        peak = _peak(task, whole, search, plan=plan, seed=seed, hooks=hooks)
        max_lr, reasons["max_lr"] = _judged(task, search, peak, choices)
    else:
        reasons["max_lr"] = "given"
    if choices.minutes is not None:
        pace = pace or _seconds_per_update(task, trial, plan)
        left = choices.minutes * 60 - (time.perf_counter() - began)
        steps = plan.fabric().broadcast(max(20, int(left / pace)))
        reasons["steps"] = f"what fits into {choices.minutes:g} minutes, the search included"
    else:
        reasons["steps"] = f"{steps * batch_size / samples:.3g} epochs of {samples} samples"
    reasons["weight_decay"] = "given"
    recipe = choices.recipe(batch_size=batch_size, steps=steps, max_lr=float(f"{max_lr:.3g}"), reasons=reasons)
    if choices.weight_decay is None:
        decay, reasons["weight_decay"] = balanced_decay(recipe, samples, kind=kind_of(task, recipe))
        recipe = replace(recipe, weight_decay=decay, reasons=reasons)
    return Found(recipe=recipe, search=search, peak=peak, seconds=time.perf_counter() - began)


def outline(task: Task, choices: Choices) -> Recipe:
    """The recipe before anything is searched, of at least 20 updates; its rate stands for none."""
    samples = len(task.train)
    batch_size = choices.batch_size or batch_size_for(samples)
    if choices.epochs and not choices.batch_size:
        while batch_size > 32 and choices.epochs * samples / batch_size < FEWEST_UPDATES:
            batch_size //= 2
    steps = max(20, _steps(choices, samples, batch_size))
    return choices.recipe(batch_size=batch_size, steps=steps, max_lr=1.0, reasons={})


def balanced_decay(recipe: Recipe, samples: int, *, kind: Kind | None = None) -> tuple[float, str]:
    """The weight decay that a recipe's rates leave room for, and why (section 5 of the paper: large rates regularize).

    What decay does to a weight over a whole run is e to the minus Σ decay · rate / (1 − momentum). That sum, rather
    than the decay itself, is what stays alike between good runs: about a quarter for one pass over the data, and
    growing with the root of the passes, because what is seen more often is learned by heart. So the decay falls as rate
    and length grow. Adaptive optimizers with decoupled decay, whose steps momentum does not lengthen, go without that
    factor. Where an adaptive optimizer takes the decay into the gradient, its normalisation undoes it: there is none.

    Args:
        recipe: All but the decay.
        samples: Of the training split.
        kind: Of the training; that of the recipe's optimizer, if not given.
    """
    kind = kind or usual_kind(recipe)
    if not (kind.heavy_ball or kind.decoupled):
        first, *others = dict.fromkeys(kind.optimizers)
        if others:
            return 0.0, f"none: no rule is known that serves {' and '.join([first, *others])} at once"
        return 0.0, f"none: {first} takes decay into the gradient that it normalises, and no rule for that is known"
    rate, momentum, plain = recipe.learning_rate(), recipe.momentum_schedule(), kind.heavy_ball
    travelled = 0.0
    for step in range(recipe.steps):
        held = (momentum(step) if momentum else recipe.momentum) if plain and kind.momentum else 0.0
        travelled += rate(step) / (1 - held) if held < 1 else rate(step)
    epochs = recipe.steps * recipe.batch_size / samples
    low, high = DECAYS if plain else DECOUPLED_DECAYS
    decay = min(high, max(low, SHRINKING * epochs**0.5 / travelled))
    decay = float(f"{decay:.2g}")
    shrink = 1 - exp(-decay * travelled)
    return decay, f"weights that get no gradient shrink by {shrink:.0%} over the run's {epochs:.3g} epochs"


def budget(steps: int) -> int:
    """Updates that the search for a run of `steps` may take."""
    return max(LEAST_BUDGET, int(BUDGET * steps))


def _sweeps(
    task: Task, whole: Recipe, choices: Choices, *, plan: ExecutionPlan, seed: int, hooks: Sequence[Hook]
) -> RateSearch:
    """The range test, of as many networks as leave the budget what the probes need."""
    seeds, allowed = choices.sweep_seeds, budget(whole.steps)
    options: dict[str, Any] = {
        "estimate": choices.estimate or choices.max_lr_from == "both",
        "plan": plan,
        "hooks": hooks,
    }
    steps = max(100, min(300, whole.steps // 15))
    if allowed >= LONG and seeds * (EXPLORING + steps) + FEWEST_PROBED <= allowed:
        options["seeds"] = range(seed, seed + seeds)
        return search_rates(task, whole, steps=steps, updates=allowed / 2, **options)
    seeds = max(1, min(seeds, (allowed - FEWEST_PROBED) // SWEEP))
    return explore(task, whole, steps=SWEEP, seeds=range(seed, seed + seeds), **options)


def _peak(
    task: Task, whole: Recipe, search: RateSearch, *, plan: ExecutionPlan, seed: int, hooks: Sequence[Hook]
) -> PeakSearch:
    bound = search.verdict.lr_max
    start = bound / BELOW if bound else START if kind_of(task, whole).heavy_ball else START_ADAPTIVE
    left = budget(whole.steps) - search.updates
    return search_peak(task, whole, start=start, updates=left, plan=plan, seed=seed, hooks=hooks)


def _judged(task: Task, search: RateSearch, peak: PeakSearch, choices: Choices) -> tuple[float, str]:
    if peak.max_lr is None:
        raise UserError(
            f"nothing that was tried trained {task.name}: {peak.reason}, and {search.verdict.reason} "
            "Check the data and the loss, or give --max-lr"
        )
    curvature = search.agreement.estimate if search.agreement and choices.max_lr_from == "both" else None
    if curvature is not None and curvature < peak.max_lr:
        return curvature, f"the curvature estimate, which is below what short cycles give ({peak.max_lr:.3g})"
    return peak.max_lr, peak.reason


def _batch_reason(samples: int, trial: Recipe) -> str:
    usual = batch_size_for(samples)
    if trial.batch_size < usual:
        return f"below the usual {usual}, so that a run this short has {trial.steps} updates"
    return f"about a fortieth of {samples} samples, 32 to 256"


def _steps(choices: Choices, samples: int, batch_size: int) -> int:
    if choices.steps is not None:
        return choices.steps
    if choices.epochs is not None:
        return max(1, round(choices.epochs * samples / batch_size))
    return max(MIN_STEPS, round(EPOCHS * samples / batch_size))


def _seconds_per_update(task: Task, trial: Recipe, plan: ExecutionPlan) -> float:
    began, updates = time.perf_counter(), 20
    range_test(task, trial, max_lr=1e-3, steps=updates, plan=plan)
    return (time.perf_counter() - began) / updates
