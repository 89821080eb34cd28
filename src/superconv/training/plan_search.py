"""The execution plan for a task on this machine, found by timing real updates of it."""

import gc
import hashlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path

import torch

from superconv import files, nested
from superconv.data.reading.cache import cache_folder
from superconv.errors import UserError, one_line
from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.training.breakdown import BreakdownError
from superconv.training.plan import CompileMode, ExecutionPlan, Precision, computes_bf16, machine, versions
from superconv.training.plan_choice import (
    COMPILED_LIMIT,
    PlanSearch,
    TimedPlan,
    chosen,
    doubtful,
    eager,
    lasts,
    updates_of,
)
from superconv.training.task import Task
from superconv.training.trainer import Trainer
from superconv.training.world import size

LIMIT = 5.0  # seconds of a search, compiling apart
SHARE = 0.1  # of the run's own time that a search may take
TOLERANCE = 0.05  # relative difference from the fp32 loss that a plan may have
CHECKED = 3  # updates over which losses are compared
ROUNDS = 12
LEAST = 1.0  # seconds of a search below which there is none
SMALL_BATCH = 32
TINY_BATCH, HOPELESS = 8, 3.0  # samples on which a plan that takes so many times as long as fp32 is given up


def find_plan(
    task: Task,
    recipe: Recipe,
    *,
    device: str = "auto",
    threads: int | None = None,
    seconds: float | None = None,
    limit: float | None = None,
    use_cache: bool = True,
) -> PlanSearch:
    """Time a few updates under every plan that this device offers, and take the fastest that trains like fp32.

    Trials are kept in the user's cache folder for the same network, batch, machine and versions, and each run chooses
    among them by its own length. Those that it chose among are kept for that length too, as is that it was too short
    for a search, so that it takes the same plan each time, whatever other runs have timed since. Where rounds do not
    agree, or a gain is more than the processor can give, as on a machine that others keep busy, plain fp32 is taken and
    nothing kept. Several processes take the default plan: a search would have to keep them in step.

    Args:
        task: What will run.
        recipe: Its batch size, optimizer and length; the rate of the trials is small.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        threads: That a run will have; torch's choice if not given.
        seconds: Of the run, where its length is given so and the recipe's does not count.
        limit: Seconds that it may take, about, compiling apart; not given, 5, but at most a tenth of what the run
            itself will need. Below 1 there is no search, and the default plan is taken.
        use_cache: Take and keep results of earlier searches.

    Raises:
        UserError: The device is not there.
    """
    default = ExecutionPlan.choose(device=device)
    batch_size = recipe.batch_size // recipe.accumulate
    if size() > 1:
        default = usable(task, recipe, default)
        return PlanSearch(plan=default, reason="several processes take the default plan", batch_size=batch_size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        with isolated_rng():
            folder, key = cache_folder() / "plans", _key(task, default.device, batch_size, recipe.optimizer)
            path = folder / f"{key}.json"
            own = folder / f"{key}-{f'{seconds:g}s' if seconds else recipe.steps * recipe.batch_size}.json"
            found = _kept(own, default.device) if use_cache else None
            if found is None:
                found = _kept(path, default.device) if use_cache else None
                if found is None or _outdated(found, updates_of(found, recipe, seconds)):
                    trial = _trial(recipe, batch_size)
                    found = _search(task, trial, default, recipe.steps * recipe.batch_size, seconds, limit)
                sure = not found.trials or not doubtful(found, updates_of(found, recipe, seconds))
                if use_cache and sure:
                    for kept in (own, path) if found.trials else (own,):
                        files.write_json(kept, asdict(found))
    except (RuntimeError, BreakdownError) as error:
        # fp32 may not fit into the memory of a GPU that has enough for bf16.
        reason = f"the default plan: none could be timed ({one_line(error, most=100)})"
        return PlanSearch(plan=default, reason=reason, batch_size=batch_size)
    finally:
        torch.set_num_threads(before)
        gc.collect()  # trainers lie in reference cycles, and hold a GPU's memory
    if not found.trials:
        return replace(found, plan=usable(task, recipe, found.plan))
    return chosen(found, updates_of(found, recipe, seconds))


def _outdated(found: PlanSearch, updates: float) -> bool:
    """Whether a run of so many updates needs other trials: of compiling, or on a machine that is less busy."""
    return bool(doubtful(found, updates)) or (not found.compiling_tried and lasts(found.trials, updates))


def usable(task: Task, recipe: Recipe, plan: ExecutionPlan) -> ExecutionPlan:
    """The plan, or the same with channels_first where the network or its optimizer does not tolerate channels_last.

    A network that calls `.view` after a convolution does not. One update and one evaluation of a few samples tell,
    where there is anything of four dimensions; where channels_first does no better, the plan stays and the run itself
    says what is wrong. Several processes each see for themselves, and all see the same.

    Warns:
        UserWarning: channels_last was dropped.
    """
    if not plan.channels_last:
        return plan
    trial = _trial(recipe, min(recipe.batch_size, TINY_BATCH))
    try:
        with isolated_rng():
            contender = _Contender(task, trial, replace(plan, compiled=None))
            if contender.formatted():
                contender.begin()
    except (UserError, BreakdownError):
        return plan
    except RuntimeError as error:
        other = replace(plan, channels_last=False)
        with isolated_rng():
            if not _started(task, trial, [replace(other, compiled=None)]):
                return plan
        why, advice = one_line(error, most=60), "; .reshape in place of .view would tolerate it"
        warnings.warn(
            f"channels_first is taken in place of channels_last: it is not tolerated ({why} …)"
            f"{advice if 'view' in str(error) else ''}",
            stacklevel=2,
        )
        return other
    finally:
        gc.collect()  # as after a search
    return plan


def _trial(recipe: Recipe, batch_size: int) -> Recipe:
    return replace(recipe, batch_size=batch_size, accumulate=1, schedule="constant", ramp=0.0, max_lr=1e-3)


class _Contender:
    """A training under one plan, timed update by update."""

    def __init__(self, task: Task, recipe: Recipe, plan: ExecutionPlan) -> None:
        self.plan, self.refused = plan, ""
        self._threads = plan.threads or torch.get_num_threads()
        self._trainer = Trainer(task, recipe, plan=plan, purpose="trial", alone=True)
        self._batches = self._trainer.batches()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        """Make the first update, with everything that is made once, and evaluate: networks may differ in the two."""
        self.first = self._timed()
        if not self.plan.compiled:  # which would compile once more
            self._trainer.evaluate(self._trainer.task.train, samples=TINY_BATCH)

    def update(self) -> None:
        self.seconds.append(self._timed())

    def check(self, reference: "_Contender") -> None:
        for mine, theirs in zip(self.losses, reference.losses, strict=False):
            if isfinite(theirs) and not abs(mine - theirs) <= TOLERANCE * abs(theirs):
                self.refused = f"its loss departs from fp32's: {mine:.4g} against {theirs:.4g}"

    def formatted(self) -> bool:
        """Whether a memory format makes any difference, and be it that a weight has too many dimensions for one."""
        return self.images() or any(p.dim() in (4, 5) for p in self._trainer.module.parameters())

    def images(self) -> bool:
        return any(tensor.dim() == 4 for tensor in nested.tensors(next(self._batches)[0]))

    def trial(self) -> TimedPlan:
        quartiles = statistics.quantiles(self.seconds, n=4, method="inclusive") if len(self.seconds) > 1 else None
        spread = (quartiles[0], quartiles[2]) if quartiles else None
        seconds = statistics.median(self.seconds) if self.seconds else None
        return TimedPlan(plan=self.plan, seconds=seconds, quartiles=spread, first=self.first, refused=self.refused)

    def _timed(self) -> float:
        torch.set_num_threads(self._threads)
        began = time.perf_counter()
        self._trainer.update(self._batches)
        if len(self.losses) < CHECKED:
            self.losses.append(self._trainer.read()["loss"])
        if self.plan.device.startswith("cuda"):
            torch.cuda.synchronize(self.plan.device)
        return time.perf_counter() - began


def _search(
    task: Task, recipe: Recipe, default: ExecutionPlan, samples: float, seconds: float | None, limit: float | None
) -> PlanSearch:
    """Trials, with no choice made yet, or the default plan without any."""
    began, asked = time.perf_counter(), recipe.batch_size
    cpu = default.device == "cpu"
    task = replace(task, train=task.train.to(default.device))  # once for all
    small = replace(recipe, batch_size=min(asked, SMALL_BATCH)) if cpu else recipe
    reference = _begun(task, small, replace(default, precision="32-true", channels_last=False))
    reference.update()
    pace = reference.trial().pace / small.batch_size  # seconds of a sample
    if seconds is not None:
        samples = seconds / pace
    limit = min(LIMIT, SHARE * pace * samples) if limit is None else limit
    if limit < LEAST:
        reason = "the default plan: the run is over sooner than a search would pay"
        return PlanSearch(plan=default, reason=reason, batch_size=asked)
    plans, hopeless, dropped = _bearable(task, replace(recipe, batch_size=min(asked, TINY_BATCH)), _plans(reference))
    if cpu:  # so that five updates of each plan, at fp32's pace, fit into the limit
        fits = int(limit / (5 * len(plans) * pace))
        recipe = replace(recipe, batch_size=min(asked, max(SMALL_BATCH, fits)))
        reference = _begun(task, recipe, reference.plan)
        reference.update()
    contenders = [reference, *_started(task, recipe, plans[1:])]
    _race(contenders, reference, began + 0.7 * limit)
    threads = torch.get_num_threads()
    if cpu and threads > 1:
        best = eager([c.trial() for c in contenders]).plan
        fewer = [replace(best, threads=n) for n in sorted({threads // 2, 1}, reverse=True)]
        contenders += _started(task, recipe, fewer)
        _race([c for c in contenders if c.plan in (best, *fewer)], reference, began + limit)
    trials = [c.trial() for c in contenders]
    if tries := lasts(trials, samples / recipe.batch_size):
        best = eager(trials).plan
        contenders += _compiled(task, recipe, next(c for c in contenders if c.plan == best), reference)
    trials = [c.trial() for c in (*contenders, *hopeless)]
    return PlanSearch(
        plan=default,
        reason="",
        batch_size=recipe.batch_size,
        trials=tuple(trials),
        compiling_tried=tries,
        dropped=dropped,
    )


def _compiled(task: Task, recipe: Recipe, eager: _Contender, reference: _Contender) -> list[_Contender]:
    """A contender's plan compiled, in as many modes as the time for it allows."""
    began = time.perf_counter()
    modes: tuple[CompileMode, ...] = ("default",) if eager.plan.device == "cpu" else ("default", "reduce-overhead")
    made: list[_Contender] = []
    for mode in modes:
        if 2 * (time.perf_counter() - began) < COMPILED_LIMIT:  # one mode takes about as long as another
            made += _started(task, recipe, [replace(eager.plan, compiled=mode)])
    _race([eager, *made], reference, began + COMPILED_LIMIT)
    return made


def _plans(reference: _Contender) -> list[ExecutionPlan]:
    """Eager plans, the simplest first."""
    cuda = reference.plan.device.startswith("cuda")
    precisions: list[Precision] = ["32-true"]
    if not cuda or computes_bf16(reference.plan.device):
        precisions.append("bf16-mixed")
    if cuda:
        precisions.append("16-mixed")
    formats = (False, True) if reference.images() else (False,)
    return [replace(reference.plan, precision=p, channels_last=last) for p in precisions for last in formats]


def _bearable(
    task: Task, recipe: Recipe, plans: Sequence[ExecutionPlan]
) -> tuple[list[ExecutionPlan], list[_Contender], str]:
    """The plans that are worth a race, the others, and a note on those that cannot run.

    A precision that a processor only imitates would take all the time.
    """
    errors: dict[str, str] = {}
    tried = _started(task, recipe, plans, errors)
    for contender in tried:
        contender.update()
    fp32 = tried[0].trial().pace
    for contender in tried:
        if (times := contender.trial().pace / fp32) > HOPELESS:
            contender.refused = f"{times:.2g} times as slow as fp32 on {recipe.batch_size} samples"
            contender.seconds.clear()
    dropped = f"{' and '.join(errors)} cannot run here ({next(iter(errors.values()))})" if errors else ""
    return [c.plan for c in tried if not c.refused], [c for c in tried if c.refused], dropped


def _begun(task: Task, recipe: Recipe, plan: ExecutionPlan) -> _Contender:
    contender = _Contender(task, recipe, plan)
    contender.begin()
    return contender


def _started(
    task: Task, recipe: Recipe, plans: Sequence[ExecutionPlan], errors: dict[str, str] | None = None
) -> list[_Contender]:
    """The plans that this network can run under at all; `errors` gets those of the others."""
    started = []
    for plan in plans:
        try:
            started.append(_begun(task, recipe, plan))
        except (RuntimeError, BreakdownError) as error:  # no kernel, no compiler, no memory for it; a .view
            if errors is not None:
                errors[plan.words] = one_line(error, most=60)
        except UserError:
            if plan.precision != "16-mixed":  # which does not serve every task
                raise
    return started


def _race(contenders: Sequence[_Contender], reference: _Contender, until: float) -> None:
    """Let them take turns until the time is over, those that are clearly slower only at first, fp32 always.

    All gains are over fp32: measured at first only, it would take the blame for what another program did then.
    """
    for lap in range(ROUNDS):
        fastest = min(c.trial().pace for c in contenders)
        for contender in contenders:
            if lap < 2 or contender is reference or contender.trial().pace < 1.3 * fastest:
                contender.update()
        for contender in contenders:
            contender.check(reference)
        if time.perf_counter() > until and lap >= 1:
            return


def _key(task: Task, device: str, batch_size: int, optimizer: str) -> str:
    model = task.network()
    tensors = [(name, list(t.shape)) for name, t in model.state_dict().items()]
    first = torch.zeros(1, dtype=torch.int64)
    sample, _ = next(task.train.batches([(first, first)], seed=0, augment=False))
    inputs = [fact for tensor in nested.tensors(sample) for fact in (list(tensor.shape), tensor.dtype)]
    where = [machine(device), _processor() if device == "cpu" else "", os.cpu_count(), versions()]
    facts = [repr(model), tensors, inputs, batch_size, optimizer, where]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Model and instructions of the CPU, where Linux tells them: only some of those with AVX512 have bf16."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    lines = path.read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _kept(path: Path, device: str) -> PlanSearch | None:
    """An earlier search, for a device that may have another number than then."""
    if not path.exists():
        return None
    try:
        stored = files.read_json(path)
        trials = tuple(
            TimedPlan(
                **{
                    **t,
                    "plan": ExecutionPlan(**{**t["plan"], "device": device}),
                    "quartiles": t["quartiles"] and tuple(t["quartiles"]),
                }
            )
            for t in stored["trials"]
        )
        plan = trials[0].plan if trials else ExecutionPlan(**{**stored["plan"], "device": device})
        return PlanSearch(**{**stored, "plan": plan, "trials": trials})  # it is chosen anew
    except (UserError, TypeError, KeyError):
        return None  # damaged, or of another version
