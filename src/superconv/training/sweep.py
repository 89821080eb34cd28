"""The LR range test of a task: fresh networks, one for each seed, under a rising rate."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from superconv import files
from superconv.errors import UserError
from superconv.rates.agreement import Agreement, compare_estimate
from superconv.rates.curve import Curve, merge
from superconv.rates.hessian_free import CurvatureEstimate
from superconv.rates.laws import BatchLaw
from superconv.rates.range_test import RangeTest
from superconv.rates.snapshot import isolated_rng
from superconv.rates.verdict import Verdict, judge, loss_levels
from superconv.recipe import Recipe
from superconv.training.breakdown import BreakdownError, breakdowns
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import usable
from superconv.training.task import Task
from superconv.training.trainer import Trainer

EXPLORED = (1e-6, 10.0)  # rates between which an exploring sweep looks for the edge at first
EXPLORING = 100  # updates of that sweep
MOVES, BEYOND = 2, 1e6  # times that it is made again elsewhere, and how much further: losses come in all units
EXTENSIONS = 2  # times that a linear sweep without a fall is made again, three times as far
AIM = 8.0  # times a suggested peak: the end of a sweep that shows what lies about it


def sweep_rates(
    task: Task,
    recipe: Recipe | None = None,
    *,
    max_lr: float = 3.0,
    start_lr: float = 0.0,
    mode: Literal["linear", "exponential"] = "linear",
    steps: int = 100,
    seeds: Sequence[int] = (0,),
    evaluate_every: int = 0,
    validation_samples: int = 2000,
    recalibrate_batch_norm: int = 0,
    stop: bool = True,
    estimate: bool = False,
    plan: ExecutionPlan | None = None,
    hooks: Sequence[Hook] = (),
) -> Curve:
    """Run the LR range test (Smith & Topin, section 4.1; arXiv 1708.07120) on fresh networks of a task.

    Args:
        task: What is trained.
        recipe: Batch size, momentum (that of the cycle's peak), decay and optimizer of the sweep; its rates and length
            are not used. Without one, preset `paper` and a batch of about a fortieth of the data.
        max_lr: Last rate of the sweep; 3 is the paper's.
        start_lr: First rate; 0 is the paper's, an exponential sweep needs more.
        mode: How the rate rises.
        steps: Updates of one sweep.
        seeds: One sweep each; the curve keeps them apart.
        evaluate_every: Read the validation split every so many updates; 0 keeps to the training signal.
        validation_samples: At most so many images of it, always the same.
        recalibrate_batch_norm: Batches over which batch-norm statistics are estimated anew before each reading; 0
            takes the running ones.
        stop: Whether blow-up of the loss and collapse of the metric end a sweep; a loss that is not finite always does.
        estimate: Measure the curvature estimate as well (`CurvatureEstimate`, corrected, L2), for `Curve.estimate`.
        plan: Where it runs.
        hooks: Their `on_update` and `on_log` see every point.

    Returns:
        The curve, which `judge` reads.

    Raises:
        UserError: Rates or lengths that make no sweep, or nothing could be learned by the user's task at all.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> curve = superconv.sweep_rates(task, max_lr=1.0, steps=20)
    >>> curve.lr[0], curve.metric
    (0.0, 'accuracy')
    """
    if steps < 2 or not 0 <= start_lr < max_lr < inf or (mode == "exponential" and not start_lr):
        raise UserError(
            f"a sweep has 2 updates or more, and rates that rise from 0 or, exponentially, from above 0: not {steps} "
            f"updates from {start_lr:g} to {max_lr:g} ({mode})"
        )
    recipe = recipe or Recipe(steps=steps, batch_size=BatchLaw().usual(len(task.train)), max_lr=max_lr)
    plan = plan or usable(task, recipe, ExecutionPlan.choose())
    at_peak = recipe.min_momentum if recipe.momentum_schedule() else None
    momentum = recipe.momentum if at_peak is None else at_peak
    swept = replace(recipe, schedule="constant", ramp=0.0, momentum=momentum, steps=steps, max_lr=max_lr)
    if len(seeds) > 1:
        task.refuse_shared()
    curves = []
    for seed in seeds:
        with isolated_rng():
            trainer = Trainer(task, swept, plan=plan, seed=seed, hooks=hooks, purpose=f"{mode} sweep")
            curves.append(
                _sweep(
                    trainer,
                    start_lr=start_lr,
                    mode=mode,
                    evaluate_every=evaluate_every,
                    validation_samples=validation_samples,
                    recalibrate_batch_norm=recalibrate_batch_norm,
                    stop=stop,
                    estimate=estimate,
                )
            )
    return merge(curves)


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """Two sweeps and what they say: where the edge is, and how the network does below it."""

    exploration: Curve | None
    """The exponential sweep that found the edge; none where the end of the linear sweep was given."""
    curve: Curve
    verdict: Verdict
    seconds: float
    """What all sweeps took."""
    updates: int = 0
    """Of all sweeps, also of those that were made again."""

    @property
    def agreement(self) -> Agreement | None:
        """What the curvature estimate says to the range test; none if it was not measured."""
        return compare_estimate(self.verdict, self.curve.lr, self.curve.estimate) if self.curve.estimate else None

    def save(self, path: Path) -> None:
        """Write the search as JSON."""
        exploration = None if self.exploration is None else self.exploration.to_dict()
        files.write_json(
            path,
            {
                "exploration": exploration,
                "curve": self.curve.to_dict(),
                "verdict": asdict(self.verdict),
                "seconds": round(self.seconds, 3),
                "updates": self.updates,
            },
        )

    @classmethod
    def load(cls, path: Path) -> "RateSearch":
        """Read what `save` wrote."""
        value = files.read_json(path)
        value = files.checked(dict[str, Any], value, source=path)
        if missing := {"curve", "verdict"} - value.keys():
            raise UserError(f"{path} holds no range test: {' and '.join(sorted(missing))} is missing")
        exploration = value.get("exploration")
        return cls(
            exploration=None if exploration is None else Curve.from_dict(exploration, source=path),
            curve=Curve.from_dict(value["curve"], source=path),
            verdict=files.checked(Verdict, value["verdict"], source=path),
            seconds=float(value.get("seconds") or 0.0),
            updates=int(value.get("updates") or 0),
        )


def explore(task: Task, recipe: Recipe, *, steps: int, updates: float = inf, **options: Any) -> RateSearch:
    """An exponential sweep alone, for runs too short to pay for a linear one; it ends where a loss is not finite.

    Args:
        task: What is trained.
        recipe: As for `sweep_rates`.
        steps: Updates of the sweep.
        updates: That it may take if it must be made again, for rates out of the usual range.
        options: `seeds`, `estimate`, `plan` and `hooks` of `sweep_rates`.
    """
    began = time.perf_counter()
    low, high = EXPLORED
    curve, _, spent = _explored(task, recipe, low=10 * low, high=high, steps=steps, updates=updates, **options)
    seconds = time.perf_counter() - began
    return RateSearch(exploration=None, curve=curve, verdict=judge(curve), seconds=seconds, updates=spent)


def search_rates(
    task: Task,
    recipe: Recipe,
    *,
    max_lr: float | None = None,
    steps: int = 100,
    updates: float = inf,
    aimed: bool = False,
    **options: Any,
) -> RateSearch:
    """Find what rates a task bears: an exponential sweep up to the edge, then a linear one to 1.5 times that.

    Where all rates of the first were far too large or too small, it is made again elsewhere, twice at most. Where the
    linear sweep shows no fall, it is made again three times as far, twice at most.
    A fixed linear sweep from 0 to 3 would leave a network that diverges at 0.06 two points of a hundred.

    Args:
        task: What is trained.
        recipe: As for `sweep_rates`.
        max_lr: End of the linear sweep; given, there is no exploring one.
        steps: Updates of each sweep.
        updates: That all sweeps together may take; a linear one is made again only as long as half of them suffice.
        aimed: Whether a linear sweep in which no plateau was seen is made again, twice at most, to `AIM` times the peak
            that it, or the exploring one, suggests: it had passed the rates that are of use within a few updates.
        options: Further arguments of `sweep_rates`, for the linear sweep.
    """
    began = time.perf_counter()
    exploration, spent = None, 0
    low, high = EXPLORED
    planned = steps * len(options.get("seeds", (0,)))
    if max_lr is None:
        shared = {k: v for k, v in options.items() if k in ("seeds", "plan", "hooks")}
        exploration, high, spent = _explored(
            task, recipe, low=low, high=high, steps=EXPLORING, updates=updates - planned, **shared
        )
        max_lr = min(high, 1.5 * (judge(exploration).lr_edge or exploration.lr[-1]))
    curve = sweep_rates(task, recipe, max_lr=max_lr, steps=steps, **options)
    verdict, spent = judge(curve), spent + len(curve.lr)
    for _ in range(EXTENSIONS if exploration else 0):
        if verdict.lr_edge is not None or max_lr >= high or spent + planned > updates / 2:
            break
        max_lr = min(high, 3 * max_lr)
        further = sweep_rates(task, recipe, max_lr=max_lr, steps=steps, **options)
        spent += len(further.lr)
        if (found := judge(further)).lr_max is None:  # it rose too steeply for the network to learn at all
            break
        curve, verdict = further, found
    for _ in range(EXTENSIONS if aimed else 0):
        suggested = (
            [each.suggested_lr for each in (verdict, judge(exploration)) if each.suggested_lr] if exploration else []
        )
        place = AIM * min(suggested, default=max_lr)
        if verdict.lr_max is not None or place > max_lr / 2:
            break
        max_lr = place
        curve = sweep_rates(task, recipe, max_lr=max_lr, steps=steps, **options)
        spent += len(curve.lr)
        verdict = judge(curve)
    seconds = time.perf_counter() - began
    return RateSearch(exploration=exploration, curve=curve, verdict=verdict, seconds=seconds, updates=spent)


def _explored(
    task: Task, recipe: Recipe, *, low: float, high: float, steps: int, updates: float, **options: Any
) -> tuple[Curve, float, int]:
    """An exponential sweep over rates that the network bears and others; where it ends, and the updates of all made."""
    spent, planned, went = 0, steps * len(options.get("seeds", (0,))), 0
    for move in range(1 + MOVES):
        curve = sweep_rates(
            task, recipe, start_lr=low, max_lr=high, mode="exponential", steps=steps, stop=False, **options
        )
        spent += len(curve.lr)
        where = _elsewhere(curve, low, high)
        if move == MOVES or spent + planned > updates or where in (0, -went):
            break
        low, high, went = (low / BEYOND, 10 * low, where) if where < 0 else (high / 10, high * BEYOND, where)
    return curve, high, spent


def _elsewhere(curve: Curve, low: float, high: float) -> int:
    """Where the rates that a network bears lie, if not in an exponential sweep: -1 is below it, 1 above, 0 within.

    Below, where nothing was learned and the loss had risen halfway; above, where nothing happened or learning had only
    begun at the end.
    """
    levels, halfway = loss_levels(curve), (low * high) ** 0.5
    if levels is None:
        return -1 if curve.stopped else 0
    broke = bool(curve.stopped) and levels.lr[-1] < halfway
    if not levels.fell and (broke or levels.risen[levels.lr <= halfway][-1]):
        return -1
    late = np.interp(high / 10, levels.lr, levels.loss) > (levels.start + levels.loss[-1]) / 2
    began = levels.fell and levels.lowest > high / 3 and late
    return int(not curve.stopped and (began or not (levels.fell or levels.risen.any())))


def calibration(trainer: Trainer, batches: int) -> Iterator[Callable[[nn.Module], Any]]:
    """Forward passes of the next so many batches, over which batch-norm statistics are estimated anew."""
    for inputs, _ in islice(trainer.batches(), batches):
        yield partial(_forward, trainer.task, inputs)


def _forward(task: Task, inputs: Any, model: nn.Module) -> Any:
    return task.predict(model, inputs)


def _sweep(
    trainer: Trainer,
    *,
    start_lr: float,
    mode: Literal["linear", "exponential"],
    evaluate_every: int,
    validation_samples: int,
    recalibrate_batch_norm: int,
    stop: bool,
    estimate: bool,
) -> Curve:
    task, recipe = trainer.task, trainer.recipe
    metric = None if task.metric is None else task.metric_name

    def evaluate() -> tuple[float, float | None]:
        assert task.validation is not None
        scores = trainer.evaluate(task.validation, samples=validation_samples)
        return scores["loss"], scores[metric] if metric else None

    evaluated = evaluate_every > 0 and task.validation is not None
    with (
        ExitStack() as ending,
        RangeTest(
            trainer.model.module,
            [optimizer.optimizer for optimizer in trainer.optimizers],
            start_lr=start_lr,
            max_lr=recipe.max_lr,
            steps=recipe.steps,
            mode=mode,
            seed=trainer.seed,
            stop=stop,
            metric=metric or "loss",
            higher_is_better=task.higher_is_better,
            evaluate=evaluate if evaluated else None,
            evaluate_every=evaluate_every,
            recalibrate_batch_norm=partial(calibration, trainer, recalibrate_batch_norm)
            if evaluated and recalibrate_batch_norm
            else None,
        ) as test,
    ):
        curvature = CurvatureEstimate([o.optimizer for o in trainer.optimizers], norm="l2") if estimate else None
        for hook in trainer.hooks:
            ending.callback(hook.on_end, trainer)
            hook.on_start(trainer)
        estimates, broke = _updates(trainer, test, curvature, metric)
        curve = test.curve
    stopped = curve.stopped if broke is None else ((trainer.seed, f"{broke} at learning rate {trainer.lr:.4g}"),)
    return replace(curve, estimate=tuple(estimates), stopped=stopped)


def _updates(
    trainer: Trainer, test: RangeTest, curvature: CurvatureEstimate | None, metric: str | None
) -> tuple[list[float | None], str | None]:
    """Make the updates of a sweep: the estimate at each, and what broke the sweep off where its losses do not say."""
    batches, recorded = trainer.batches(), 0
    estimates: list[float | None] = []
    for _ in test.iterate(range(trainer.recipe.steps)):
        try:
            with breakdowns(alone=trainer.alone, first=not recorded):
                trainer.update(batches)
                scores = trainer.read()
                test.record(scores["loss"], metric=scores[metric] if metric else None)
        except BreakdownError as error:
            return estimates, str(error)
        if trainer.stuck:
            if recorded:
                return estimates, "non-finite: fp16 skipped every update"
            break
        if trainer.skipped:
            continue
        recorded += 1
        estimates += [curvature.value] if curvature else []
        row = {"step": trainer.step, "lr": trainer.lr, **{f"train_{k}": v for k, v in scores.items()}}
        for hook in trainer.hooks:
            hook.on_update(trainer)
            hook.on_log(trainer, row)
    if not recorded:
        raise UserError(f"no update of {trainer.task.name} has finite gradients in fp16: use --plan bf16 or fp32")
    return estimates, None
