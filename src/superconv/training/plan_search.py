"""The execution plan for a task on this machine, found by timing real updates of it."""

import hashlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from pathlib import Path

import torch

from superconv import files
from superconv.data.cache import cache_folder
from superconv.errors import UserError
from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.training.plan import CompileMode, ExecutionPlan, Precision, machine, versions
from superconv.training.task import Task
from superconv.training.trainer import Trainer

LIMIT, COMPILED_LIMIT = 5.0, 60.0  # seconds of a search, without and with compiling
SHARE = 0.1  # of the run's own time that a search may take
COMPILE_AFTER = 20 * COMPILED_LIMIT  # seconds of a run that is worth compiling for
TOLERANCE = 0.05  # relative difference from the fp32 loss that a plan may have
CHECKED = 3  # updates over which losses are compared
ROUNDS = 12
LEAST = 1.0  # seconds of a search below which there is none
SMALL_BATCH = 32
TINY_BATCH, HOPELESS = 8, 3.0  # samples on which a plan that takes so many times as long as fp32 is given up
EVEN = 1.03  # a simpler plan that is no slower than this against the fastest is taken


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One plan, tried."""

    plan: ExecutionPlan
    seconds: float | None
    """Median of an update; none where the plan was refused before it was timed."""
    quartiles: tuple[float, float] | None
    refused: str = ""
    """Why it must not be used."""


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """The plan to use, and what it was chosen from."""

    plan: ExecutionPlan
    reason: str
    batch_size: int
    """Of the trials: smaller than the run's where that would have taken too long."""
    trials: tuple[Trial, ...] = ()


def find_plan(
    task: Task,
    recipe: Recipe,
    *,
    device: str = "auto",
    threads: int | None = None,
    limit: float | None = None,
    use_cache: bool = True,
) -> PlanSearch:
    """Time a few updates under every plan that this device offers, and take the fastest that trains like fp32.

    A result is kept in the user's cache folder for the same network, batch, machine and versions. Several processes
    take the default plan: a search would have to keep them in step.

    Args:
        task: What will run.
        recipe: Its batch size, optimizer and length; the rate of the trials is small.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        threads: That a run will have; torch's choice if not given.
        limit: Seconds that it may take, about; not given, 5, but at most a tenth of what the run itself will need.
            Below 1 there is no search, and the default plan is taken.
        use_cache: Take and keep results of earlier searches.

    Raises:
        UserError: The device is not there.
    """
    default = ExecutionPlan.choose(device=device)
    batch_size = recipe.batch_size // recipe.accumulate
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return PlanSearch(plan=default, reason="several processes take the default plan", batch_size=batch_size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        with isolated_rng():
            path = cache_folder() / "plans" / f"{_key(task, default.device, batch_size, recipe.optimizer)}.json"
            if use_cache and (kept := _kept(path)):
                return kept
            trial = replace(recipe, batch_size=batch_size, accumulate=1, schedule="constant", max_lr=1e-3)
            found = _search(task, trial, default, recipe.steps * recipe.accumulate, limit)
    finally:
        torch.set_num_threads(before)
    if use_cache and found.trials:
        files.write_json(path, asdict(found))
    return found


class _Contender:
    """A training under one plan, timed update by update."""

    def __init__(self, task: Task, recipe: Recipe, plan: ExecutionPlan) -> None:
        self.plan, self.refused = plan, ""
        self._threads = plan.threads or torch.get_num_threads()
        self._trainer = Trainer(task, recipe, plan=plan, purpose="trial")
        self._batches = self._trainer.batches()
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.first = self._timed()  # with everything that is made once

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds and not self.refused else inf

    def update(self) -> None:
        self.seconds.append(self._timed())

    def check(self, reference: "_Contender") -> None:
        for mine, theirs in zip(self.losses, reference.losses, strict=False):
            if isfinite(theirs) and not abs(mine - theirs) <= TOLERANCE * abs(theirs):
                self.refused = f"its loss departs from fp32's: {mine:.4g} against {theirs:.4g}"

    def images(self) -> bool:
        return next(self._batches)[0].dim() == 4

    def trial(self) -> Trial:
        quartiles = statistics.quantiles(self.seconds, n=4) if len(self.seconds) > 1 else None
        spread = (quartiles[0], quartiles[2]) if quartiles else None
        seconds = statistics.median(self.seconds) if self.seconds else None
        return Trial(plan=self.plan, seconds=seconds, quartiles=spread, refused=self.refused)

    def _timed(self) -> float:
        torch.set_num_threads(self._threads)
        began = time.perf_counter()
        self._trainer.update(self._batches)
        if len(self.losses) < CHECKED:
            self.losses.append(self._trainer.read()["loss"])
        if self.plan.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began


def _search(task: Task, recipe: Recipe, default: ExecutionPlan, updates: int, limit: float | None) -> PlanSearch:
    began, asked = time.perf_counter(), recipe.batch_size
    cpu = default.device == "cpu"
    small = replace(recipe, batch_size=min(asked, SMALL_BATCH)) if cpu else recipe
    reference = _Contender(task, small, replace(default, precision="32-true", channels_last=False))
    reference.update()
    pace = reference.median / small.batch_size  # seconds of a sample
    whole = pace * asked * updates
    limit = min(LIMIT, SHARE * whole) if limit is None else limit
    if limit < LEAST:
        reason = "the default plan: the run is over sooner than a search would pay"
        return PlanSearch(plan=default, reason=reason, batch_size=asked)
    plans, hopeless = _bearable(task, replace(recipe, batch_size=min(asked, TINY_BATCH)), _plans(reference))
    if cpu:  # so that five updates of each plan, at fp32's pace, fit into the limit
        fits = int(limit / (5 * len(plans) * pace))
        recipe = replace(recipe, batch_size=min(asked, max(SMALL_BATCH, fits)))
        reference = _Contender(task, recipe, reference.plan)
        reference.update()
    contenders = [reference, *_started(task, recipe, plans[1:])]
    _race(contenders, began + 0.7 * limit)
    best = _choose(contenders)
    threads = best.plan.threads or torch.get_num_threads()
    if cpu and threads > 1:
        fewer = [replace(best.plan, threads=n) for n in sorted({threads // 2, 1}, reverse=True)]
        final = [best, *_started(task, recipe, fewer)]
        _race(final, began + limit)
        contenders += final[1:]
        best = _choose(final)
    if updates * asked * best.median / recipe.batch_size > COMPILE_AFTER:
        modes: tuple[CompileMode, ...] = ("default",) if cpu else ("default", "reduce-overhead")
        contenders += (made := _started(task, recipe, [replace(best.plan, compiled=mode) for mode in modes]))
        _race([best, *made], time.perf_counter() + COMPILED_LIMIT / 4)
        gained = {c: (best.median - c.median) * updates * asked / recipe.batch_size for c in made}
        best = min((c for c in made if gained[c] > 3 * c.first), default=best, key=lambda c: c.median)
    for contender in contenders:
        contender.check(reference)
    contenders += hopeless
    ratio = reference.median / best.median
    reason = f"{best.plan.words}: {ratio:.2g} times as fast as plain fp32 over {len(best.seconds)} updates"
    trials = tuple(contender.trial() for contender in contenders)
    return PlanSearch(plan=best.plan, reason=reason, batch_size=recipe.batch_size, trials=trials)


def _plans(reference: _Contender) -> list[ExecutionPlan]:
    """Eager plans, the simplest first."""
    cuda = reference.plan.device.startswith("cuda")
    precisions: list[Precision] = ["32-true"]
    if not cuda or torch.cuda.is_bf16_supported():
        precisions.append("bf16-mixed")
    if cuda:
        precisions.append("16-mixed")
    formats = (False, True) if reference.images() else (False,)
    return [replace(reference.plan, precision=p, channels_last=last) for p in precisions for last in formats]


def _bearable(
    task: Task, recipe: Recipe, plans: Sequence[ExecutionPlan]
) -> tuple[list[ExecutionPlan], list[_Contender]]:
    """The plans that are worth a race, and the others: a precision that a processor only imitates would take it all."""
    tried = _started(task, recipe, plans)
    for contender in tried:
        contender.update()
    reference = tried[0].median
    for contender in tried:
        if (times := contender.median / reference) > HOPELESS:
            contender.refused = f"{times:.2g} times as slow as fp32 on {recipe.batch_size} samples"
            contender.seconds.clear()
    return [c.plan for c in tried if not c.refused], [c for c in tried if c.refused]


def _started(task: Task, recipe: Recipe, plans: Sequence[ExecutionPlan]) -> list[_Contender]:
    """The plans that this network can run under at all."""
    started = []
    for plan in plans:
        try:
            started.append(_Contender(task, recipe, plan))
        except RuntimeError:  # no kernel, no compiler or no memory for it
            continue
    return started


def _race(contenders: Sequence[_Contender], until: float) -> None:
    """Let them take turns until the time is over, those that are clearly slower only at first."""
    for lap in range(ROUNDS):
        fastest = min(c.median for c in contenders)
        for contender in contenders:
            if lap < 2 or contender.median < 1.3 * fastest:
                contender.update()
        for contender in contenders:
            contender.check(contenders[0])
        if time.perf_counter() > until and lap >= 1:
            return


def _choose(contenders: Sequence[_Contender]) -> _Contender:
    """The fastest, or the first that cannot be told from it."""
    best = min(contenders, key=lambda c: c.median)
    high = max(EVEN * best.median, (best.trial().quartiles or (0.0, 0.0))[1])
    return next(c for c in contenders if c.median <= high)


def _key(task: Task, device: str, batch_size: int, optimizer: str) -> str:
    model = task.model()
    tensors = [(name, list(t.shape)) for name, t in model.state_dict().items()]
    facts = [repr(model), tensors, batch_size, optimizer, machine(device), os.cpu_count(), versions()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _kept(path: Path) -> PlanSearch | None:
    if not path.exists():
        return None
    try:
        stored = files.read_json(path)
        trials = tuple(
            Trial(**{**t, "plan": ExecutionPlan(**t["plan"]), "quartiles": t["quartiles"] and tuple(t["quartiles"])})
            for t in stored["trials"]
        )
        return PlanSearch(**{**stored, "plan": ExecutionPlan(**stored["plan"]), "trials": trials})
    except (UserError, TypeError, KeyError):
        return None  # damaged, or of another version
