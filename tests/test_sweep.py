"""Runs in this process, in a real pool and in a real Ray, with workers that are killed in the middle."""

import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from superconv import cli
from superconv.errors import Interrupted, UserError
from superconv.recipe import Recipe
from superconv.runs.executors import Pool, Ray
from superconv.runs.folder import RunFolder
from superconv.runs.jobs import Failure, InProcess, Job, make_all
from superconv.runs.runner import run_all
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RunSpec
from superconv.specs.studies import Comparison
from superconv.studies.compare import compare

PLAN = "fp32,channels_last,eager,threads=1"
MODEL = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, fault="", mark=""):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)
        self.fault, self.mark, self.calls = fault, mark, 0

    def forward(self, images):
        self.calls += 1
        if self.calls == 8 or (self.fault == "wait" and self.calls > 8):  # trials before a training are shorter
            getattr(self, self.fault or "fine")()
        return self.layer(images.flatten(1))

    def fine(self): pass
    def break_down(self): raise ArithmeticError("the bridge is out\\nand more")
    def fill_memory(self): torch.empty(2**50)
    def die(self): os.kill(os.getpid(), signal.SIGKILL)
    def stop(self): os.kill(os.getpid(), signal.SIGTERM)
    def leave(self): raise SystemExit("enough")

    def wait(self):
        if not Path(f"{self.mark}.go").exists():
            Path(f"{self.mark}.{os.getpid()}").touch()
            time.sleep(0.2)

    def once(self, fault):
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            fault()

    def die_once(self): self.once(self.die)
    def stop_once(self): self.once(self.stop)
"""
CORES = os.cpu_count() or 1
FAULTS = ("fine", "die_once", "die", "fill_memory", "break_down")


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)


def spec(seed: int = 0, *, fault: str = "", mark: Path | None = None, steps: int = 20, max_lr: float = 0.1) -> RunSpec:
    recipe = Recipe(steps=steps, batch_size=32, max_lr=max_lr, momentum=0.9, min_momentum=None)
    args = (("fault", fault), ("mark", str(mark or "")))
    task = ImageTask(data="digits", model="faulty:Net", model_args=args)
    return RunSpec(task=task, recipe=recipe, seed=seed, device="cpu", plan=PLAN, evaluations=0)


def faults(tmp_path: Path) -> list[RunSpec]:
    made = [spec(seed, fault=fault, mark=tmp_path / "mark") for seed, fault in enumerate(FAULTS)]
    unusable = replace(spec(), task=replace(spec().task, model_args=(("colour", 3),)))
    ended = [spec(6, fault="leave"), spec(7, fault="stop_once", mark=tmp_path / "stopped")]
    return [*made, unusable, spec(max_lr=1e30), *ended, *(spec(seed) for seed in range(10, 14))]


def check(outcomes: list, root: Path, specs: list[RunSpec]) -> None:
    fine, once, dies, memory, broken, unusable, diverged, leaves, *rest = outcomes
    assert all(numbers["steps"] == 20 and numbers["stopped"] is None for numbers in (fine, once, *rest))
    assert (diverged["stopped"], diverged["steps"] < 20) == ("diverged", True)
    assert (dies.attempts, dies.reason[:6]) == (2, "killed")
    assert (memory.attempts, memory.reason[:14]) == (2, "out of memory:")
    assert (broken.attempts, broken.reason) == (2, "ArithmeticError: the bridge is out")
    assert (leaves.attempts, leaves.reason) == (2, "SystemExit: enough")
    assert (unusable.attempts, "takes no colour" in unusable.reason) == (1, True)
    assert "break_down" in (root / specs[4].hash / "error.txt").read_text()
    unfinished = {path.name for path in root.iterdir() if path.is_dir() and not (path / "run.json").exists()}
    assert unfinished == {specs[i].hash for i, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}


def without_times(outcomes: list) -> list:
    measured = ("seconds", "images_per_second", "machine")
    return [{k: v for k, v in outcome.items() if k not in measured} for outcome in outcomes]


@pytest.mark.distributed
@pytest.mark.slow
def test_a_pool_reports_what_fails_and_goes_on(tmp_path):
    specs, root = faults(tmp_path), tmp_path / "runs"
    told = Counter[str]()
    with Pool(workers=2, device="cpu") as pool:
        outcomes = run_all(specs, root, executor=pool, report=lambda spec, outcome: told.update([spec.hash]))
        check(outcomes, root, specs)
        assert told == Counter(spec.hash for spec in specs)
        before = {path: path.stat().st_mtime_ns for path in root.rglob("run.json")}
        again = run_all(specs, root, executor=pool)
        for worker in multiprocessing.active_children():  # while they are idle
            worker.kill()
            worker.join()
        assert run_all([spec(20)], root, executor=pool)[0]["steps"] == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again == outcomes
    healthy = (0, 1, 6, 8, 9)
    here = run_all([specs[i] for i in healthy], tmp_path / "here", executor=InProcess())
    assert without_times(here) == without_times([outcomes[i] for i in healthy])


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_ray_reports_what_fails_and_goes_on(tmp_path, monkeypatch):
    import ray

    specs, root = faults(tmp_path), tmp_path / "runs"
    with Ray(workers=2, device="cpu") as executor:
        outcomes = run_all(specs, root, executor=executor)
        check(outcomes, root, specs)
        assert sum(node["Resources"].get("CPU", 0) for node in ray.nodes()) >= 2 * executor.threads
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(Path, "cwd", lambda: tmp_path / "gone")
            (lost,) = run_all([spec(20)], root, executor=executor)
        assert lost.reason.startswith("FileNotFoundError: ")
    assert not ray.is_initialized()
    with Ray(workers=2, device="cpu") as executor:
        finished = run_all(specs[:2], root, executor=executor)
        assert finished == outcomes[:2]
        assert not ray.is_initialized()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_runs_are_made_on_a_ray_that_is_already_there(tmp_path):
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    cluster = [
        "start",
        "--head",
        "--block",
        f"--num-cpus={4 * CORES}",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    asked = "compare digits --schedules constant --steps 20 --seeds 2 --device cpu --executor ray --workers 2"
    out, environment = tmp_path / "comparison", {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ray = [sys.executable, "-m", "ray.scripts.scripts", *cluster, f"--port={port}"]
    with subprocess.Popen(ray, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as head:
        command = [sys.executable, "-m", "superconv", *asked.split(), "--out", str(out), "--max-lr", "constant=0.1"]
        command += ["--ray-address", f"127.0.0.1:{port}"]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        finally:
            head.terminate()
        log = head.communicate(timeout=60)[0].decode()
    assert done.returncode == 0, done.stderr[-3000:] + log
    runs = [json.loads(path.read_text()) for path in out.rglob("run.json")]
    assert [run["steps"] for run in runs] == [20, 20]
    half = f" {2 * CORES} threads"  # of that Ray's CPUs, not of this machine
    assert all(half in run["machine"] for run in runs)


def test_in_this_process_too_the_rest_goes_on(tmp_path):
    specs = [spec(fault="break_down"), spec(fault="fill_memory"), spec(fault="leave"), spec(1)]
    broken, memory, left, fine = run_all(specs, tmp_path / "runs")
    assert (broken.attempts, memory.reason[:14], fine["steps"]) == (2, "out of memory:", 20)
    assert (left.attempts, left.reason) == (2, "SystemExit: enough")
    stopped, after = spec(2, fault="stop"), spec(3)
    with pytest.raises(Interrupted, match="the same command goes on"):
        run_all([stopped, after], tmp_path / "runs")
    assert not (tmp_path / "runs" / after.hash).exists()


class Recorder:
    """Loses workers as it is told, to see what is submitted; no run is made."""

    slots, threads, bundle = 2, 1, 100

    def __init__(self, killers: set[int]) -> None:
        self.killers = killers
        self.submitted: list[list[int]] = []
        self.threads_of_it = ThreadPoolExecutor(1)

    def submit(self, work, jobs):
        self.submitted.append([job.spec.seed for job in jobs])
        return self.threads_of_it.submit(self._make, jobs)

    def _make(self, jobs):
        for job in jobs:
            if job.spec.seed in self.killers:
                raise OSError("gone")
            job.folder.numbers.write({"seed": job.spec.seed})
        return [{"seed": job.spec.seed} for job in jobs]


def test_of_a_lost_bundle_only_the_run_in_progress_is_charged(tmp_path):
    jobs = [Job(spec=spec(seed), folder=RunFolder(tmp_path / str(seed))) for seed in range(8)]
    jobs.append(Job(spec=spec(8, steps=500), folder=RunFolder(tmp_path / "8")))
    recorder = Recorder({1})
    outcomes = {job.spec.seed: outcome for job, outcome in make_all(jobs, dict, executor=recorder)}
    assert outcomes.pop(1) == Failure(reason="killed: gone", attempts=2)
    assert outcomes == {seed: {"seed": seed} for seed in (0, 2, 3, 4, 5, 6, 7, 8)}
    assert sorted(recorder.submitted) == [[0, 1, 2, 3, 4], [1], [2, 3, 4], [5, 6, 7], [8]]


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert [Pool(workers=n, device="cpu").threads for n in (1, 3, 4, 40)] == [16, 5, 4, 1]
    assert Pool(device="cpu").slots == 16
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # as OMP_NUM_THREADS asks for
    assert Pool(workers=4, device="cpu").threads == 2


def test_runs_at_the_same_time_search_no_plan(tmp_path):
    with pytest.raises(UserError, match="--plan"):
        run_all([replace(spec(), plan=None)], tmp_path, executor=Pool(workers=2, device="cpu"))


RATES = ("one_cycle=0.1,0.3", "cosine=0.1")


def test_a_comparison_says_what_failed(tmp_path):
    failing = Comparison(
        schedules=("one_cycle", "cosine"), steps=(5, 20), seeds=2, max_lr=("one_cycle=0.1,0.3", "cosine=0.1")
    )
    task = spec(fault="break_down").task  # in the eighth update: a run of five is finished
    recipe = replace(spec().recipe, annihilation=0.4)  # a cycle that five updates have room for
    result = compare(task, failing, recipe, tmp_path / "runs", plan=PLAN, device="cpu")
    assert list(result["rates"]) == ["cosine"]
    assert [row["steps"] for row in result["schedules"]["cosine"]] == [5]
    assert [(f["schedule"], f["steps"], f["max_lr"], f["seed"]) for f in result["failures"]] == [
        ("one_cycle", 20, 0.1, 0),
        ("one_cycle", 20, 0.3, 0),
        ("cosine", 20, 0.1, 0),
        ("cosine", 20, 0.1, 1),
    ]
    with pytest.raises(UserError, match=r"no run could be made.*bridge"):
        compare(task, replace(failing, steps=(20,)), recipe, tmp_path / "none", plan=PLAN, device="cpu")


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_stop_with_a_checkpoint_when_their_parent_does(tmp_path, sent):
    options = [
        "--schedules",
        "one_cycle,cosine",
        "--steps",
        200,
        "--seeds",
        1,
        "--max-lr",
        "one_cycle=0.3",
        "cosine=0.1",
    ]
    options += ["--model", "faulty:Net", "--model-args", "fault", "wait", "mark", tmp_path / "at", "--device", "cpu"]
    options += ["--plan", PLAN, "--out", tmp_path / "out", "--executor", "pool", "--workers", 2]
    command = [sys.executable, "-m", "superconv", "compare", "digits", *map(str, options)]
    parent = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(tmp_path.glob("at.*"))) == 2)
    parent.send_signal(sent)
    message = parent.communicate(timeout=60)[1]
    assert parent.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL), message
    assert "Traceback" not in message
    wait_for(lambda: len(list(tmp_path.glob("out/runs/*/checkpoint.pt"))) == 2)


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "2"], "--executor pool"),
        (["--executor", "pool", "--workers", "0"], "1 or more"),
        (["--executor", "pool", "--ray-address", "auto"], "--executor ray"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, says, capsys, tmp_path):
    assert cli.main(["compare", "digits", "--out", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_missing_ray_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'superconv\[ray\]'"):
        Ray()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.parametrize(
    ("address", "says"), [(None, "does not start on this machine: no"), ("a:1", "--ray-address a:1")]
)
def test_a_ray_that_cannot_be_had_is_said_in_one_line(address, says, monkeypatch):
    def timed_out(**options):
        raise Exception("no raylet came up")

    monkeypatch.setattr("ray.init", timed_out)
    with pytest.raises(UserError, match=says):
        Ray(address=address).submit(list, [])
