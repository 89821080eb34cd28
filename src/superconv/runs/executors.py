"""Where runs are made beside this process: a pool of processes, or tasks of Ray."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from math import ceil
from multiprocessing import Pipe, get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

from superconv.errors import Interrupted, UserError
from superconv.optional import needs
from superconv.runs.jobs import Failure, Job, Outcome, Work, first_line

GRACE = 30.0  # seconds in which a run that is asked to stop writes its checkpoint
BUNDLE = 1000  # updates worth a task of Ray
OBJECT_STORE = 100 * 2**20  # bytes; what passes through it is specs and numbers


class Pool:
    """Processes of this machine, which share its cores and GPUs; a context manager that ends them.

    They are spawned: a script that uses it must guard its entry by `if __name__ == "__main__"`. Each is a pool of its
    own, because a killed process breaks every future of its pool.
    """

    bundle = 0

    def __init__(self, *, workers: int | None = None, device: str = "auto") -> None:
        """Nothing is started before it is needed.

        Args:
            workers: Runs at a time; none takes one per GPU, or per core where no GPU is used.
            device: Of the runs.
        """
        self._gpus = _gpus(device)
        self.slots = workers or len(self._gpus) or _cores()
        self.threads = _share(_cores(), self.slots)
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._last: dict[int, Future[list[Outcome]]] = {}
        self._followed, self._lifeline = Pipe(duplex=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lifeline.close()
        for pool in self._pools.values():
            pool.shutdown()
        self._followed.close()

    def submit(self, work: Work, jobs: Sequence[Job]) -> Future[list[Outcome]]:
        """Give the runs to a worker that is idle."""
        slot = next(i for i in range(self.slots) if i not in self._last or self._last[i].done())
        if slot not in self._pools or self._spoiled(slot):
            self._start(slot)
        try:
            future = self._pools[slot].submit(_followed_work, work, jobs)
        except BrokenProcessPool:  # killed while it was idle, which is no run's fault
            self._start(slot)
            future = self._pools[slot].submit(_followed_work, work, jobs)
        self._last[slot] = future
        return future

    def _start(self, slot: int) -> None:
        if slot in self._pools:
            self._pools[slot].shutdown()
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        arguments, spawn = (self._followed, gpu), get_context("spawn")
        self._pools[slot] = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=arguments)

    def _spoiled(self, slot: int) -> bool:
        """Whether a worker had an error on a GPU, after which CUDA may serve no other run either."""
        last = self._last[slot]
        return bool(self._gpus) and not last.exception() and any(isinstance(o, Failure) for o in last.result())


class Ray:
    """Tasks of Ray, on this machine or on a cluster; a context manager that ends a Ray it has started.

    The machines of a cluster need superconv, the model's module, and the working directory under the same path.
    """

    bundle = BUNDLE

    def __init__(self, *, workers: int | None = None, address: str | None = None, device: str = "auto") -> None:
        """Nothing is started before it is needed.

        Args:
            workers: Runs at a time; none takes one per GPU, or per CPU where no GPU is used.
            address: Of the cluster, as `ray.init` takes it; none starts Ray on this machine.
            device: Of the runs.

        Raises:
            UserError: Ray is not installed.
        """
        with needs("ray", "--executor ray"):
            import ray
        self._ray: Any = ray
        self._workers, self._address, self._device = workers, address, device
        self._running: dict[Future[list[Outcome]], Any] = {}
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        running = [future for future in self._running if not future.done()]
        for future in running:
            self._ray.cancel(self._running[future])
        wait(running, timeout=GRACE)
        if self._started:
            self._ray.shutdown()

    @property
    def slots(self) -> int:
        """Runs at a time."""
        return self._shares[0]

    @property
    def threads(self) -> int:
        """CPUs of a task."""
        return self._shares[1]

    def submit(self, work: Work, jobs: Sequence[Job]) -> Future[list[Outcome]]:
        """Make a task of the runs, with its CPUs and GPUs stated; the retries are ours."""
        _, cpus, gpus = self._shares
        task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_task)
        reference = task.remote(work, jobs, Path.cwd(), sys.path)
        future: Future[list[Outcome]] = reference.future()
        self._running = {f: r for f, r in self._running.items() if not f.done()} | {future: reference}
        return future

    @cached_property
    def _shares(self) -> tuple[int, int, float]:
        """Tasks at a time; CPUs and GPUs of each. A GPU may be shared, a task lies on one machine."""
        self._connect()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        gpus = 0 if self._device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
        if not gpus and self._device.startswith("cuda"):
            raise UserError(f"Ray has no GPU for --device {self._device}: use --device cpu")
        slots = self._workers or gpus or sum(cpus)
        share = max(1, min(sum(cpus) // slots, max(cpus)))
        return slots, share, 1 / ceil(slots / gpus) if gpus else 0

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is trained here is nobody else's business
            quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
            quiet |= {"num_cpus": max(_cores(), self._workers or 1)}
        try:
            self._ray.init(address=self._address or "local", **quiet)
        except Exception as error:  # of no common kind
            if self._address is None:
                raise UserError(f"Ray does not start on this machine: {first_line(error)}") from error
            raise UserError(
                f"cannot connect to Ray at --ray-address {self._address}: {first_line(error)} "
                "Is it running there? Where its cluster wants a token, set RAY_AUTH_MODE=token"
            ) from error
        self._started = True


def _task(work: Work, jobs: Sequence[Job], directory: Path, path: Sequence[str]) -> list[Outcome]:
    os.chdir(directory)  # Ray's workers begin where Ray was started
    sys.path.extend(entry for entry in path if entry not in sys.path)
    return work(jobs)


def _begin(followed: Connection, gpu: str | None) -> None:
    """Settle what a worker of a pool keeps: its GPU, and that it ends when its parent does."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.setpgrp()  # Ctrl-C is for the parent, which asks its workers to stop
    threading.Thread(target=_follow, args=(followed,), daemon=True).start()


def _followed_work(work: Work, jobs: Sequence[Job]) -> list[Outcome]:
    try:
        return work(jobs)
    except Interrupted:
        if (parent := parent_process()) and not parent.is_alive():
            os._exit(1)  # nobody is left to be told
        raise


def _follow(followed: Connection) -> None:
    """When the parent lets go of the other end, or dies, ask the run to stop, then insist."""
    followed.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share(cores: int, slots: int) -> int:
    """Threads of each of `slots` processes; OMP_NUM_THREADS, if it is set, bounds them through torch."""
    return max(1, min(cores // slots, torch.get_num_threads()))


def _gpus(device: str) -> list[str | None]:
    """What each worker in turn sees of the GPUs; none leaves it all of them, and the choice to the device's number."""
    if device == "cpu" or not torch.cuda.is_available():
        return []
    if ":" in device:
        return [None]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(seen.split(",") if seen else map(str, range(torch.cuda.device_count())))
