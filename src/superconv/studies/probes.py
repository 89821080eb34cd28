"""Which peak a run of a given length wants, from short cycles under several peaks.

A range test says what rates a network bears for a moment. How large a peak pays depends on how long the cycle is:
short runs want less (ResNet-20 on CIFAR-10, batch 256: 0.1 for 40 updates, 0.35 for 220). So a few short cycles are
trained to their end, all from the same weights through the same batches, and the best peak is carried over to the
whole length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task
from superconv.training.trainer import Trainer

FACTOR = 3.0  # between two peaks that are tried: a parabola through three then finds the best within a tenth or so
MOST = 12  # probes, however bad the first guess
VALIDATION_SAMPLES = 1000
WATCHED = 8  # updates between two looks at whether a probe has broken down
BROKEN = 4.0  # times its first loss, at which a probe is given up
REACH = 0.7  # exponent with which the best peak grows with the length, while nothing is learned yet
FARTHEST = 4.0  # times the probes' best peak, at most
HEAVY_BALL = ("SGD", "ASGD", "CaffeSGD")  # whose steps grow with the gradient; others' are of the rate's size
AT_THE_EDGE = 2.0  # the same, where the next larger peak broke down


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A short cycle up to `max_lr`, trained to its end."""

    max_lr: float
    steps: int
    """Updates that happened: fewer than planned where it broke down."""
    loss: float | None
    """Of the validation split, or of the last training batches where there is none; none where it broke down."""


@dataclass(frozen=True, kw_only=True)
class PeakSearch:
    """Probes, and the peak that follows from them."""

    max_lr: float | None
    """Peak for the whole run; none where every probe broke down."""
    probes: tuple[Probe, ...]
    reason: str

    @property
    def updates(self) -> int:
        """What the probes cost."""
        return sum(probe.steps for probe in self.probes)


def search_peak(
    task: Task,
    recipe: Recipe,
    *,
    start: float,
    steps: int,
    updates: int,
    plan: ExecutionPlan,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
) -> PeakSearch:
    """Find the peak for a recipe's whole length from probes of `steps` updates.

    Args:
        task: What is trained.
        recipe: All but the peak.
        start: First peak to try.
        steps: Length of a probe.
        updates: What all probes may cost; a bracket that is not closed then counts as it is.
        plan: Where it runs.
        seed: Of weights, order and augmentation, the same for every probe.
        hooks: Look on.
    """
    known: dict[int, Probe] = {}
    first_loss = [inf]

    def loss(k: int) -> float:
        if k not in known:
            tried = replace(recipe, steps=steps, max_lr=start * FACTOR**k, base_lr=None, final_lr=None)
            known[k] = _probe(task, tried, plan=plan, seed=seed, hooks=hooks, first_loss=first_loss)
        found = known[k].loss
        return inf if found is None else found

    def affordable() -> bool:
        return len(known) < MOST and sum(p.steps for p in known.values()) + steps <= updates

    best = 0
    loss(0)
    while affordable():
        around = (best - 1, best + 1) if isfinite(loss(best)) else (min(known) - 1,)
        missing = [k for k in around if k not in known]
        if not missing:
            break
        loss(missing[0])
        best = min(known, key=loss)
    probes = tuple(known[k] for k in sorted(known))
    if not isfinite(loss(best)):
        return PeakSearch(max_lr=None, probes=probes, reason=f"every probe of {steps} updates broke down")
    return _carried(known, best, loss, recipe, steps, first_loss[0])


def _carried(
    known: dict[int, Probe], best: int, loss: Callable[[int], float], recipe: Recipe, steps: int, first: float
) -> PeakSearch:
    """The probes' best peak, between those that were tried, carried over to the length of the run."""
    below, above = (loss(k) if k in known else inf for k in (best - 1, best + 1))
    curvature = below + above - 2 * loss(best)
    shift = (below - above) / (2 * curvature) if isfinite(curvature) and curvature > 0 else 0.0
    peak = known[best].max_lr * FACTOR**shift
    remaining = min(1.0, max(0.0, loss(best) / first)) if first > 0 and isfinite(first) else 1.0
    edge = best + 1 in known and not isfinite(above)
    exponent = REACH * remaining if recipe.optimizer in HEAVY_BALL else 0.0
    factor = min(AT_THE_EDGE if edge else FARTHEST, max(1.0, (recipe.steps / steps) ** exponent))
    probes = tuple(known[k] for k in sorted(known))
    tried = ", ".join(f"{p.max_lr:.2g}: {'broke down' if p.loss is None else f'{p.loss:.3g}'}" for p in probes)
    grown = (
        f"; {factor:.2g} times that for {recipe.steps} updates, as {remaining:.0%} of the loss is left"
        if factor > 1.005
        else ""
    )
    reason = f"{peak:.2g} is best of cycles of {steps} updates (loss after each peak: {tried}){grown}"
    return PeakSearch(max_lr=peak * factor, probes=probes, reason=reason)


def _probe(
    task: Task,
    recipe: Recipe,
    *,
    plan: ExecutionPlan,
    seed: int,
    hooks: Sequence[Hook],
    first_loss: list[float],
) -> Probe:
    with isolated_rng():
        trainer = Trainer(task, recipe, plan=plan, seed=seed, hooks=hooks, purpose=f"cycle to {recipe.max_lr:.2g}")
        try:
            for hook in hooks:
                hook.on_start(trainer)
            loss = _train(trainer, first_loss)
        finally:
            for hook in hooks:
                hook.on_end(trainer)
    return Probe(max_lr=recipe.max_lr, steps=trainer.step, loss=loss if loss is not None and isfinite(loss) else None)


def _train(trainer: Trainer, first_loss: list[float]) -> float | None:
    """Train to the end of the recipe; the loss there, or none after a breakdown."""
    steps, task, batches = trainer.recipe.steps, trainer.task, trainer.batches()
    since = 0.0
    while trainer.step < steps:
        if not trainer.update(batches):
            continue
        for hook in trainer.hooks:
            hook.on_update(trainer)
        if trainer.step == 1 or trainer.step % WATCHED == 0 or trainer.step == steps:
            scores = trainer.read()
            since = scores["loss"]
            if trainer.step == 1:
                first_loss[0] = since
            if not isfinite(since) or since > BROKEN * abs(first_loss[0]):
                return None
            row = {"step": trainer.step, "lr": trainer.lr, **{f"train_{k}": v for k, v in scores.items()}}
            for hook in trainer.hooks:
                hook.on_log(trainer, row)
    if task.validation is None:
        return since
    return trainer.evaluate(task.validation, samples=VALIDATION_SAMPLES)["loss"]
