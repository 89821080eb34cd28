"""A recipe for a task and a length: what the user leaves open, found within a stated search budget."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log2
from typing import Any

from superconv import optim
from superconv.errors import UserError
from superconv.rates.verdict import loss_levels
from superconv.recipe import Recipe, batch_size_for
from superconv.specs import Choices
from superconv.studies.kind import Kind, kind_of, usual_kind
from superconv.studies.pace import FEWEST, measure_pace
from superconv.studies.probes import LEAST, PeakSearch, search_peak
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweeps import EXPLORING, RateSearch, explore, search_rates
from superconv.training.task import Task, refuse_watched

EPOCHS, MIN_STEPS = 12, 500  # length of a training that nobody gave a length
FEWEST_UPDATES = 1000  # a batch is halved before a run of stated epochs has fewer
BUDGET, LEAST_BUDGET = 0.3, 200  # of the training's updates, and updates, that a search may take
SWEEP = 50  # updates of the exploring sweep of a short run
FEWEST_PROBED = 3 * LEAST  # updates of the least that brackets a peak
LONG = 500  # updates of budget from which the paper's linear range test is affordable beside the probes
BELOW = 1.5  # the first probe's peak lies so far below the rate at which a sweep's loss was lowest
START, START_ADAPTIVE = 0.1, 0.003  # first peak where no sweep says anything
SHRINKING = 0.25  # Σ decay · rate / (1 − momentum) over a run of one epoch
DROPOUT = 0.05  # of a run of one epoch, at most
DECAYS, DECOUPLED_DECAYS = (1e-6, 1e-2), (1e-2, 1e-1)  # between which a decay is chosen


@dataclass(frozen=True, kw_only=True)
class Found:
    """A recipe and what it rests on."""

    recipe: Recipe
    search: RateSearch | None = None
    """None where the peak was given, or lowered after a training that diverged."""
    peak: PeakSearch | None = None
    """As `search`."""
    seconds: float = 0.0


def find_recipe(
    task: Task,
    choices: Choices | None = None,
    *,
    plan: ExecutionPlan | None = None,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
    began: float | None = None,
    evaluations: int = 10,
    **settled: Any,
) -> Found:
    """Choose what `choices` leaves open, on the training and validation splits.

    A range test finds what rates the network bears at all; short cycles find the peak that pays, which depends on the
    run's length. Both together take at most the share `search` of the run's updates or `LEAST_BUDGET`, whichever is
    more. Equal seeds, plans and lengths in updates give equal recipes.

    Args:
        task: What will be trained.
        choices: What is settled; it is not searched.
        plan: Where it runs; found by timing updates (`find_plan`), if not given.
        seed: Of the sweeps and the short cycles.
        hooks: Look on.
        began: Reading of `time.perf_counter` from which `minutes` count; that of the call, if not given.
        evaluations: How often the training will read the validation split, which `minutes` must pay as well.
        settled: Fields of `Choices`, on top of those given: `find_recipe(task, epochs=3)`.

    Raises:
        UserError: Choices contradict each other or would be made on the test split, or nothing that was tried trains
            the network.
    """
    entered = time.perf_counter()
    choices = replace(choices or Choices(), **settled).filled()
    trial = outline(task, choices)
    plan = plan or find_plan(task, trial, seconds=choices.seconds).plan
    kind, samples = kind_of(task, trial), len(task.train)
    steps = updates_of(choices, samples, trial.batch_size)
    pace, until, least = None, 0.0, LEAST_BUDGET
    if choices.seconds is not None:
        until = (began or entered) + choices.seconds
        pace = measure_pace(task, trial, plan, evaluations=evaluations, estimated=choices.estimate)
        total = pace.updates(until - time.perf_counter(), plan)
        steps = max(FEWEST, int(total / (1 + choices.search)))
        least = min(LEAST_BUDGET, max(SWEEP + FEWEST_PROBED, int(BUDGET * total)))
    whole = replace(trial, steps=max(FEWEST, steps))
    choices, reasons = _unsearched(task, whole, choices, kind)
    search, peak, max_lr, why = None, None, choices.max_lr, "given"
    if max_lr is None:
        whole = replace(whole, dropout=choices.dropout)
        options: dict[str, Any] = {"plan": plan, "seed": seed, "hooks": hooks}
        allowed = budget(steps, share=choices.search, least=least)
        search = _sweeps(task, whole, choices, allowed=allowed, **options)
        start, left = _start(search, kind), allowed - search.updates
        peak = search_peak(task, whole, start=start, updates=left, **options)
        max_lr, why = _judged(task, search, peak, choices)
    reasons |= {"max_lr": why, "weight_decay": "given"}
    reasons["steps"] = f"{steps * trial.batch_size / samples:.3g} epochs of {samples} samples"
    if pace:
        steps = pace.updates(until - time.perf_counter(), plan)
        reasons["steps"] = f"what fits into {choices.minutes:.3g} minutes, search and evaluations included"
    recipe = choices.recipe(batch_size=trial.batch_size, steps=steps, max_lr=max_lr, reasons=reasons)
    if choices.weight_decay is None:
        decay, reason = balanced_decay(recipe, samples, kind=kind)
        recipe = replace(recipe, weight_decay=decay, reasons={**recipe.reasons, "weight_decay": reason})
    return Found(recipe=recipe, search=search, peak=peak, seconds=time.perf_counter() - entered)


def outline(task: Task, choices: Choices) -> Recipe:
    """The recipe before anything is searched, of at least 20 updates; its rate stands for none.

    Raises:
        UserError: Choices contradict each other, make no recipe, or would be made on the test split.
    """
    choices = choices.filled()
    given = [name for name in ("epochs", "steps", "minutes") if getattr(choices, name) is not None]
    if len(given) > 1:
        raise UserError(f"give one length, not both {' and '.join(given)}")
    if choices.max_lr is None:
        refuse_watched(task.watched)
    batch_size, _ = _batch(len(task.train), choices)
    steps = updates_of(choices, len(task.train), batch_size)
    choices.recipe(batch_size=batch_size, steps=steps, max_lr=1.0, reasons={})  # what makes none is said now
    return choices.recipe(batch_size=batch_size, steps=max(FEWEST, steps), max_lr=1.0, reasons={})


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


def balanced_dropout(own: Sequence[float], epochs: float) -> tuple[float, str]:
    """The most dropout that a run leaves room for, and why (section 5 of the paper: large rates regularize).

    Dropout keeps a network from learning samples by heart, for which a short run has no time: how much of it does no
    harm grows with the passes over the data (`docs/regret.md`), here as their root, as the decay's effect does. The
    network's own is lowered where it is more, never raised.

    Args:
        own: Rates of the network's layers, ascending.
        epochs: Of the run.
    """
    most = float(f"{DROPOUT * epochs**0.5:.2g}")
    if own[-1] <= most:
        return own[-1], "as the network has it"
    return most, f"{epochs:.3g} epochs at large rates have no use for the network's {own[-1]:g}"


def budget(steps: int, *, share: float = BUDGET, least: int = LEAST_BUDGET) -> int:
    """Updates that the search for a run of `steps` may take."""
    return max(least, int(share * steps))


def _sweeps(
    task: Task,
    whole: Recipe,
    choices: Choices,
    *,
    allowed: int,
    plan: ExecutionPlan,
    seed: int,
    hooks: Sequence[Hook],
) -> RateSearch:
    """The range test, of as many networks as leave the allowed updates what the probes need."""
    seeds = max(1, choices.sweep_seeds)
    options: dict[str, Any] = {
        "estimate": choices.estimate or choices.max_lr_from == "both",
        "plan": plan,
        "hooks": hooks,
    }
    steps = max(100, min(300, whole.steps // 15))
    if allowed >= LONG and seeds * (EXPLORING + steps) + FEWEST_PROBED <= allowed:
        options["seeds"] = range(seed, seed + seeds)
        return search_rates(task, whole, steps=steps, updates=allowed - 2 * FEWEST_PROBED, **options)
    left = allowed - FEWEST_PROBED
    options["seeds"] = range(seed, seed + max(1, min(seeds, left // SWEEP)))
    return explore(task, whole, steps=SWEEP, updates=left, **options)


def _start(search: RateSearch, kind: Kind) -> float:
    """The first peak to try: below where the loss was lowest, or, if it never clearly fell, where it had not risen."""
    levels = loss_levels(search.exploration or search.curve)
    if levels is None:
        return START if kind.heavy_ball else START_ADAPTIVE
    return (levels.lowest if levels.fell else levels.borne) / BELOW


def _judged(task: Task, search: RateSearch, peak: PeakSearch, choices: Choices) -> tuple[float, str]:
    if peak.max_lr is None:
        raise UserError(
            f"nothing that was tried trained {task.name}: {peak.reason}, and {search.verdict.reason} "
            "Check the data and the loss, or give --max-lr"
        )
    curvature = search.agreement.estimate if search.agreement and choices.max_lr_from == "both" else None
    if curvature is not None and curvature < peak.max_lr:
        why = f"the curvature estimate, which is below what short cycles give ({peak.max_lr:.3g})"
        return float(f"{curvature:.3g}"), why
    return float(f"{peak.max_lr:.3g}"), peak.reason


def _batch(samples: int, choices: Choices) -> tuple[int, str]:
    """Samples of an update, of which all processes and accumulated parts get as many, and why."""
    if choices.batch_size:
        return choices.batch_size, "given"
    usual = size = batch_size_for(samples)
    while choices.epochs and size > 32 and choices.epochs * samples / size < FEWEST_UPDATES:
        size //= 2
    reason = f"about a fortieth of {samples} samples, 32 to 256"
    if size < usual:
        reason = f"below the usual {usual}, so that a run this short has more updates"
    elif size != 1 << max(0, round(log2(max(samples, 1) / 40))):
        reason = f"the {'least' if size == 32 else 'most'} that is usual: a fortieth of the data is {samples / 40:.3g}"
    parts = (choices.accumulate or 1) * int(os.environ.get("WORLD_SIZE", "1"))
    if size % parts:
        size = parts * max(1, round(size / parts))
        reason += f", as a multiple of {parts} parts"
    return size, reason


def _unsearched(task: Task, whole: Recipe, choices: Choices, kind: Kind) -> tuple[Choices, dict[str, str]]:
    """The choices with what follows from the task and the length alone, and why what is not searched has its values."""
    reasons = {"batch_size": _batch(len(task.train), choices)[1], "momentum": "given"}
    if not kind.momentum:
        reasons["momentum"] = f"not used by {' and '.join(kind.optimizers)}"
    elif choices.momentum is None and choices.min_momentum is None:
        course = "constant" if whole.momentum_schedule() is None else "against the rate"
        reasons["momentum"] = f"preset {choices.preset}: {course}"
    if task.optimizer is not optim.make:
        reasons["optimizer"] = f"the task's own instead: {' and '.join(kind.optimizers)}"
    if choices.dropout is not None:
        reasons["dropout"] = "given" if kind.dropout else "given, but the network has no layers of it"
    elif kind.dropout:
        dropout, reasons["dropout"] = balanced_dropout(kind.dropout, whole.steps * whole.batch_size / len(task.train))
        choices = replace(choices, dropout=dropout)
    return choices, reasons


def updates_of(choices: Choices, samples: int, batch_size: int) -> int:
    """Updates of the training that is asked for, but in minutes; the default length where none is."""
    if choices.steps is not None:
        return choices.steps
    if choices.epochs is not None:
        return max(1, round(choices.epochs * samples / batch_size))
    return max(MIN_STEPS, round(EPOCHS * samples / batch_size))
