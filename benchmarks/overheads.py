"""What superconv costs beside forward, backward and optimizer: the loop, its parts, its import and its memory.

    python benchmarks/overheads.py [--rounds 7] [--plan fp32,channels_last,eager]

The loop: updates of `superconv.training.loop.train` (batches, augmentation, schedule, metrics, history, progress)
against forward, loss, backward and optimizer alone on batches that were made before, in turn, for ResNet-20 on CIFAR-10
and for an MLP on digits whose update takes about a millisecond. Its parts are timed from inside, because the difference
of two step times is noisier than most of them. Import time and peak memory are those of fresh processes.
"""

import argparse
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from superconv import optim
from superconv.history import History
from superconv.rates.hessian_free import HessianFreeLR
from superconv.rates.lr_scheduler import ScheduledLR
from superconv.recipe import Recipe
from superconv.specs import ImageTask
from superconv.training import checkpoint
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.progress import ProgressHook
from superconv.training.scores import Scores
from superconv.training.task import Task, image_task
from superconv.training.trainer import Trainer

NETWORKS = {
    "ResNet-20": (ImageTask(data="cifar10", model="resnet20", flip="random"), 256, 20),
    "MLP": (ImageTask(data="digits", model="mlp"), 64, 1000),
}
"""Task, batch size and updates of a round."""
CHECKPOINT_SECONDS = 120.0  # between two checkpoints, by default
PUBLIC = "import torch, superconv; [getattr(superconv, name) for name in superconv.__all__]"


def bare(task: Task, recipe: Recipe, plan: ExecutionPlan) -> Callable[[], float]:
    """Seconds of a block of updates that are nothing but forward, loss, backward and optimizer."""
    trainer = Trainer(task, recipe, plan=plan)
    batches = itertools.cycle(list(itertools.islice(trainer.batches(), 8)))
    network = trainer.model.module.train()
    optimizer = optim.make(network, recipe)

    def block() -> float:
        began = time.perf_counter()
        for inputs, target in itertools.islice(batches, recipe.steps):
            with trainer.fabric.autocast():
                loss = task.loss(network(inputs), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began

    return block


class Clock(Hook):
    """Seconds from the first update of a run to its last."""

    def on_start(self, trainer: Trainer) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_end(self, trainer: Trainer) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._began


def ours(task: Task, recipe: Recipe, plan: ExecutionPlan, hooks: tuple[Hook, ...] = ()) -> float:
    """Seconds of a block of updates of a real run, with its history and its progress."""
    clock = Clock()
    shown = ProgressHook(Console(file=io.StringIO(), force_terminal=True))
    with tempfile.TemporaryDirectory() as folder:
        train(task, recipe, plan=plan, folder=Path(folder), evaluations=0, hooks=[clock, shown, *hooks])
    return clock.seconds


@contextmanager
def clocked(spent: dict[str, float], name: str, owner: object, *methods: str) -> Iterator[None]:
    """While entered, add the seconds spent in methods of a class, or functions of a module, to `spent[name]`."""
    with ExitStack() as undo:
        for method in methods:
            original = getattr(owner, method)

            def timed(*args, _original=original, **options):
                began = time.perf_counter()
                try:
                    return _original(*args, **options)
                finally:
                    spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

            setattr(owner, method, timed)
            undo.callback(setattr, owner, method, original)
        yield


class Estimating(Hook):
    """Attaches the curvature estimate to a run."""

    def on_start(self, trainer: Trainer) -> None:
        """Attach it."""
        HessianFreeLR([o.optimizer for o in trainer.optimizers], norm="l2")


def parts(task: Task, recipe: Recipe, plan: ExecutionPlan) -> dict[str, float]:
    """The share of a run that each part takes, timed from inside."""
    spent: dict[str, float] = {}
    with (
        clocked(spent, "scheduler", ScheduledLR, "step"),
        clocked(spent, "metrics", Scores, "add", "clear"),
        clocked(spent, "history", History, "append"),
        clocked(spent, "progress", ProgressHook, "on_log"),
        clocked(spent, "estimator", HessianFreeLR, "_before", "_after"),
    ):
        seconds = ours(task, recipe, plan, (Estimating(),))
    shares = {name: value / (seconds - value) for name, value in spent.items()}
    trainer = Trainer(task, recipe, plan=plan)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        checkpoint.save(trainer, Path(folder) / checkpoint.NAME, seconds=0.0)
        shares["checkpoint"] = (time.perf_counter() - began) / CHECKPOINT_SECONDS
    return shares


def import_seconds(code: str) -> float:
    """Of a fresh interpreter that runs this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def peak_memory(method: str) -> float:
    """Peak resident MiB of a fresh process that trains ResNet-20 by `method`, for a few updates."""
    command = [sys.executable, __file__, "--memory-of", method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train_for_memory(method: str) -> None:
    """What the process of `peak_memory` does; its peak is printed."""
    import throughput

    task, batch_size, _ = NETWORKS["ResNet-20"]
    task = replace(image_task(task), test=None, validation=None)
    if method == "plain loop":
        throughput.plain(task, batch_size, 20, "cpu")
    else:
        ours(task, Recipe(steps=20, batch_size=batch_size, max_lr=0.05), ExecutionPlan(channels_last=False))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(name: str, plan: ExecutionPlan, rounds: int) -> dict[str, object]:
    """Everything about one network: seconds of an update alone and in the loop, and the share of each part."""
    spec, batch_size, steps = NETWORKS[name]
    task = replace(image_task(spec), test=None, validation=None)
    recipe = Recipe(steps=steps, batch_size=batch_size, max_lr=0.05)
    alone = bare(task, recipe, plan)
    alone()
    blocks = [(alone() / steps, ours(task, recipe, plan) / steps) for _ in range(rounds)]
    shares = [parts(task, recipe, plan) for _ in range(max(1, rounds // 3))]
    return {
        "network": name,
        "batch_size": batch_size,
        "update_ms": [1e3 * bare_seconds for bare_seconds, _ in blocks],
        "loop_ms": [1e3 * seconds for _, seconds in blocks],
        "overhead": statistics.median(seconds / bare_seconds - 1 for bare_seconds, seconds in blocks),
        "parts": {part: statistics.median(row[part] for row in shares) for part in shares[0]},
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plan", default="fp32,channels_last,eager")
    parser.add_argument("--memory-of", choices=("plain loop", "superconv"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/overheads.json"))
    given = parser.parse_args()
    if given.memory_of:
        train_for_memory(given.memory_of)
        return
    plan = ExecutionPlan.choose(plan=given.plan)
    imports: dict[str, list[float]] = {code: [] for code in ("import torch", "import torch, superconv", PUBLIC)}
    memory: dict[str, list[float]] = {method: [] for method in ("plain loop", "superconv")}
    for _, (code, seconds) in itertools.product(range(given.rounds), imports.items()):
        seconds.append(import_seconds(code))
    for method, mebibytes in memory.items():
        mebibytes.append(peak_memory(method))
    stored = {
        "networks": [measure(name, plan, given.rounds) for name in NETWORKS],
        "import_seconds": imports,
        "peak_mebibytes": memory,
        "plan": plan.words,
        "processes": os.cpu_count(),
        "machine": machine("cpu"),
        "versions": versions(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(stored, indent=1) + "\n")
    show(stored)


def show(stored: dict) -> None:
    """Print the table."""
    table = Table("what", *(row["network"] for row in stored["networks"]))
    for what, key in (("forward, backward, optimizer", "update_ms"), ("an update of the loop", "loop_ms")):
        table.add_row(what, *(f"{statistics.median(row[key]):.3g} ms" for row in stored["networks"]))
    table.add_row("overhead of the loop", *(f"{row['overhead']:.1%}" for row in stored["networks"]))
    for part in stored["networks"][0]["parts"]:
        table.add_row(f"  {part}", *(f"{row['parts'][part]:.2%}" for row in stored["networks"]))
    console = Console()
    console.print(table)
    torch_alone, *others = (statistics.median(seconds) for seconds in stored["import_seconds"].values())
    console.print(f"import beyond torch ({torch_alone:.2f} s): superconv {1e3 * (others[0] - torch_alone):.0f} ms, "
                  f"every public name {1e3 * (others[1] - torch_alone):.0f} ms")  # fmt: skip
    plain, own = (statistics.median(values) for values in stored["peak_mebibytes"].values())
    console.print(f"peak memory, ResNet-20: plain loop {plain:,.0f} MiB, superconv {own:,.0f} MiB, "
                  f"{own / plain:.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
