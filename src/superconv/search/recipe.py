"""A recipe for a task and a length: the values that the user leaves open, found within a stated search budget."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from superconv.errors import UserError
from superconv.rates.laws import LengthLaw
from superconv.rates.traits import Traits
from superconv.rates.verdict import loss_levels
from superconv.recipe import Recipe
from superconv.search.pace import measure_pace
from superconv.search.peak import LEAST, PeakSearch, search_peak
from superconv.search.settle import Settled, Value, settle
from superconv.specs.choices import Choices
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.sweep import EXPLORING, RateSearch, explore, search_rates
from superconv.training.task import Task

BUDGET, LEAST_BUDGET = 0.3, 200  # of the training's updates, and updates, that a search may take
SWEEP = 50  # updates of the exploring sweep of a short run
FEWEST_PROBED = 3 * LEAST  # updates of the least that brackets a peak
LONG = 500  # updates of budget from which the paper's linear range test is affordable beside the probes
BELOW = 1.5  # the first probe's peak lies so far below the rate at which a sweep's loss was lowest
START, START_ADAPTIVE = 0.1, 0.003  # first peak where no sweep says anything


@dataclass(frozen=True, kw_only=True)
class Found:
    """A recipe and what it rests on.

    >>> import superconv
    >>> recipe = superconv.Recipe(steps=100, batch_size=32, max_lr=0.5)
    >>> superconv.Found(recipe=recipe).search is None  # nothing was searched
    True
    """

    recipe: Recipe
    search: RateSearch | None = None
    """`None` where the peak was given, or lowered after a training that diverged."""
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
    evaluations: int = 10,
) -> Found:
    """Choose the values that `choices` leaves open, on the training and validation splits.

    A range test finds what rates the network tolerates at all; short cycles find the peak that pays, which depends on
    the run's length. Both together take at most the share `search` of the run's updates or `LEAST_BUDGET`, whichever
    is more. Equal seeds, plans and lengths in updates give equal recipes.

    Args:
        task: Task that will be trained.
        choices: Values that are settled; they are not searched.
        plan: Where it runs; found by timing updates (`find_plan`), if not given.
        seed: Seed of the sweeps and the short cycles.
        hooks: Hooks that look on.
        evaluations: Number of times that the training will read the validation split, which `minutes` must pay too.

    Raises:
        UserError: Choices contradict each other or would be made on the test split, or nothing that was tried trains
            the network.

    >>> import torch, superconv
    >>> x = torch.randn(256, 4)
    >>> source = superconv.TensorSource(x, x.sum(1, keepdim=True))
    >>> task = superconv.Task(
    ...     name="sums", model=lambda: torch.nn.Linear(4, 1), train=source, validation=source,
    ...     loss=torch.nn.functional.mse_loss, metric=None,
    ... )
    >>> found = superconv.find_recipe(task, superconv.Choices(steps=40))
    >>> found.recipe.max_lr > 0, found.search.updates + found.peak.updates <= 200
    (True, True)
    """
    began = time.perf_counter()
    settled, traits = settle(task, choices)
    plan = plan or find_plan(task, settled.look, seconds=settled.choices.seconds).plan
    options: dict[str, Any] = {"plan": plan, "seed": seed, "hooks": hooks, "evaluations": evaluations}
    return complete(task, settled, traits, began=began, **options)


def complete(
    task: Task,
    settled: Settled,
    traits: Traits,
    *,
    plan: ExecutionPlan,
    seed: int,
    hooks: Sequence[Hook],
    evaluations: int,
    began: float,
) -> Found:
    """The recipe of what is settled: length by the pace where minutes are given, and the peak by a search.

    `began` is a reading of `time.perf_counter` from which minutes count; the others are those of `find_recipe`.
    """
    entered, choices = time.perf_counter(), settled.choices
    pace, until, least = None, 0.0, LEAST_BUDGET
    if choices.seconds is not None:
        until = began + choices.seconds
        pace = measure_pace(task, settled.look, plan, evaluations=evaluations, estimated=choices.estimate)
        total = pace.updates(until - time.perf_counter(), plan)
        steps = max(LengthLaw().fewest, int(total / (1 + choices.search)))
        least = min(LEAST_BUDGET, max(SWEEP + FEWEST_PROBED, int(BUDGET * total)))
        settled = settled.of_length(steps, "", traits=traits)
    search = peak = None
    if settled.searched:
        options: dict[str, Any] = {"plan": plan, "seed": seed, "hooks": hooks}
        allowed = budget(settled.value("steps"), share=choices.search, least=least)
        search = _sweeps(task, settled.look, choices, allowed=allowed, **options)
        start, left = _start(search, traits), allowed - search.updates
        whole = settled.at(start, steps=settled.look.steps)
        peak = search_peak(task, whole, traits=traits, start=start, updates=left, **options)
        settled = settled.having(max_lr=_judged(task, search, peak, choices))
    if pace:
        steps = pace.updates(until - time.perf_counter(), plan)
        reason = f"what fits into {choices.minutes:.3g} minutes, search and evaluations included"
        settled = settled.having(steps=Value(value=steps, origin="given", reason=reason))
    return Found(recipe=settled.recipe(traits), search=search, peak=peak, seconds=time.perf_counter() - entered)


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


def _start(search: RateSearch, traits: Traits) -> float:
    """The first peak to try: below where the loss was lowest, or, if it never clearly fell, where it had not risen."""
    levels = loss_levels(search.exploration or search.curve)
    if levels is None:
        return START if traits.heavy_ball else START_ADAPTIVE
    return (levels.lowest if levels.fell else levels.borne) / BELOW


def _judged(task: Task, search: RateSearch, peak: PeakSearch, choices: Choices) -> Value:
    if peak.max_lr is None:
        raise UserError(
            f"nothing that was tried trained {task.name}: {peak.reason}, and {search.verdict.reason} "
            "Check the data and the loss, or give --max-lr"
        )
    curvature = search.agreement.estimate if search.agreement and choices.max_lr_from == "both" else None
    if curvature is not None and curvature < peak.max_lr:
        why = f"the curvature estimate, which is below what short cycles give ({peak.max_lr:.3g})"
        return Value(value=float(f"{curvature:.3g}"), origin="searched", reason=why)
    return Value(value=float(f"{peak.max_lr:.3g}"), origin="searched", reason=peak.reason)
