"""Many runs, wherever they are made: one after the other here, in a pool of processes, or as tasks of Ray.

A run that fails, or whose process is killed, is tried again once and then reported; the rest goes on.
"""

import os
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from math import ceil
from typing import Any, Protocol

import torch

from superconv.errors import Interrupted, UserError, one_line
from superconv.runs.folder import RunFolder
from superconv.specs.run import RunSpec

ATTEMPTS = 2  # of a run


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run and the folder it is made in."""

    spec: RunSpec
    folder: RunFolder


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no result of a run."""

    reason: str
    attempts: int = 1
    final: bool = False
    """Whether it is the user's business and another attempt would fail alike."""


Outcome = dict[str, Any] | Failure
"""The numbers of `run.json`, also of a run that diverged, or why there are none."""

OnRun = Callable[[RunSpec, Outcome], None]
"""Told of each run as it ends."""

Work = Callable[[Sequence[Job]], list[Outcome]]


class Executor(Protocol):
    """Where runs are made. What it gets must be importable in a fresh process."""

    @property
    def bundle(self) -> int:
        """Updates that are worth a submission: shorter runs are submitted several at a time."""

    @property
    def slots(self) -> int:
        """Submissions at a time; no more are made."""

    @property
    def threads(self) -> int:
        """Threads of a run on the CPU, where its execution plan names none."""

    def submit(self, work: Work, jobs: Sequence[Job]) -> Future[list[Outcome]]:
        """Let `work` make the runs; an exception of the future means that the worker was lost."""


def make_all(
    jobs: Sequence[Job], make: Callable[[RunSpec, RunFolder], dict[str, Any]], *, executor: Executor
) -> Iterator[tuple[Job, Outcome]]:
    """Yield every run as it ends; those that are finished in their folders are only read.

    Args:
        jobs: What to make, each in a folder of its own.
        make: Makes one, and goes on with what a killed one left in its folder; a function of a module.
        executor: Where.

    Raises:
        Interrupted: A run in this process was asked to stop; one of a worker's counts as lost with its worker.
    """
    left = []
    for job in jobs:
        if (numbers := _finished(job)) is None:
            left.append(job)
        else:
            yield job, numbers
    if not left:
        return
    waiting: deque[Sequence[Job]] = deque(_bundles(left, updates=executor.bundle, slots=executor.slots))
    work = partial(_attempt, make=make, threads=executor.threads)
    running: dict[Future[list[Outcome]], Sequence[Job]] = {}
    attempts = Counter[RunFolder]()
    while waiting or running:
        while waiting and len(running) < executor.slots:
            bundle = waiting.popleft()
            running[executor.submit(work, bundle)] = bundle
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            bundle = running.pop(future)
            outcomes = _outcomes(future, bundle)
            if unbegun := bundle[len(outcomes) :]:
                waiting.appendleft(unbegun)
            for job, outcome in zip(bundle, outcomes, strict=False):
                attempts[job.folder] += 1
                if isinstance(outcome, Failure):
                    if not outcome.final and attempts[job.folder] < ATTEMPTS:
                        waiting.append([job])
                        continue
                    outcome = replace(outcome, attempts=attempts[job.folder])
                yield job, outcome


class InProcess:
    """One run after the other in this process, or in all those of torchrun together."""

    bundle = 0
    slots = 1

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()

    def submit(self, work: Work, jobs: Sequence[Job]) -> Future[list[Outcome]]:
        """Make the runs now."""
        future: Future[list[Outcome]] = Future()
        future.set_result(work(jobs))
        return future


def _attempt(
    jobs: Sequence[Job], *, make: Callable[[RunSpec, RunFolder], dict[str, Any]], threads: int
) -> list[Outcome]:
    """Make runs one after the other, up to the first that fails."""
    outcomes: list[Outcome] = []
    for job in jobs:
        torch.set_num_threads(threads)
        trace = job.folder.error
        try:
            outcomes.append(make(job.spec, job.folder))
            trace.remove()
        except Interrupted:
            raise
        except UserError as error:
            return [*outcomes, Failure(reason=one_line(error), final=True)]
        except (Exception, SystemExit) as error:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise  # the other processes of torchrun wait for this one, and would do so for ever
            trace.write(traceback.format_exc())
            return [*outcomes, Failure(reason=_reason(error))]
    return outcomes


def _outcomes(future: Future[list[Outcome]], jobs: Sequence[Job]) -> list[Outcome]:
    """What came of the runs up to the first that failed; of a lost worker's, that is the first unfinished one."""
    try:
        return future.result()
    except Exception as error:
        done: list[Outcome] = [n for n in takewhile(lambda n: n is not None, map(_finished, jobs)) if n is not None]
        return [*done, Failure(reason=_lost(error))][: len(jobs)]


def _finished(job: Job) -> dict[str, Any] | None:
    return job.folder.numbers.found()


def _bundles(jobs: Sequence[Job], *, updates: int, slots: int) -> list[list[Job]]:
    """Consecutive runs of at most so many updates together, and no fewer bundles than slots; a long run is alone."""
    bundles: list[list[Job]] = []
    most, filled = ceil(len(jobs) / slots), 0
    for job in jobs:
        filled += job.spec.recipe.steps
        if not bundles or filled > updates or len(bundles[-1]) == most:
            bundles.append([])
            filled = job.spec.recipe.steps
        bundles[-1].append(job)
    return bundles


def _lost(error: Exception) -> str:
    """Why a submission has no outcomes: its worker was asked to stop or killed, or Ray names a cause."""
    if isinstance(error, Interrupted):
        return "its worker was asked to stop"
    cause = getattr(error, "cause", None)
    return _reason(cause) if isinstance(cause, Exception) else f"killed: {first_line(error)}"


def _reason(error: BaseException) -> str:
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return f"{'out of memory' if memory else type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "no further word")
