"""What superconv costs beside forward, backward and optimizer: the loop, its parts, its import and its memory.

    python benchmarks/overheads.py [--rounds 7] [--plan fp32,channels_last,eager] [--device cuda]

The loop: updates of `superconv.training.loop.train` (batches, augmentation, schedule, metrics, history, progress)
against forward, loss, backward and optimizer alone on batches that were made before, in turn, for ResNet-20 on CIFAR-10
and for an MLP on digits whose update takes about a millisecond. Everything else counts as overhead, whoever else needs
it too. Its parts are timed from inside, because the difference of two step times is noisier than most of them. Import
time and peak memory (the device's, on a GPU) are those of fresh processes.
"""

import argparse
import io
import itertools
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

import peers
import records
import throughput
import torch
from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.history import History
from superconv.rates.hessian_free import CurvatureEstimate
from superconv.rates.lr_scheduler import ScheduledLR
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training import checkpoint, optimizers
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
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
    parameters = list(network.parameters())
    predict, backward, optimizer = network, torch.Tensor.backward, optimizers.make(network, recipe)
    if plan.precision != "32-true":  # Fabric's wrappers convert and scale: part of the forward and the backward
        predict, backward, optimizer = trainer.model, trainer.fabric.backward, trainer.optimizers[0]

    def block() -> float:
        peers.wait(trainer.device)
        began = time.perf_counter()
        for inputs, target in itertools.islice(batches, recipe.steps):
            backward(task.loss(predict(inputs), target))
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
        peers.wait(trainer.device)
        return time.perf_counter() - began

    return block


class Clock(Hook):
    """Seconds from the first update of a run to its last."""

    def on_start(self, trainer: Trainer) -> None:
        """Start."""
        peers.wait(trainer.device)
        self._began = time.perf_counter()

    def on_end(self, trainer: Trainer) -> None:
        """Stop."""
        peers.wait(trainer.device)
        self.seconds = time.perf_counter() - self._began


def ours(task: Task, recipe: Recipe, plan: ExecutionPlan, hooks: tuple[Hook, ...] = ()) -> float:
    """Seconds of a block of updates of a real run, with its history and its progress."""
    clock = Clock()
    shown = ProgressHook(Console(file=io.StringIO(), force_terminal=True))
    with tempfile.TemporaryDirectory() as folder:
        train(
            task,
            recipe,
            plan=plan,
            history=Path(folder) / "history",
            checkpoint=Path(folder) / "checkpoint",
            evaluations=0,
            hooks=[clock, shown, *hooks],
        )
    return clock.seconds


@contextmanager
def clocked(spent: dict[str, float], name: str, device: str, *methods: tuple[type, str]) -> Iterator[None]:
    """While entered, add the seconds spent in methods of classes to `spent[name]`, what the device does included."""
    spent[name] = 0.0
    with ExitStack() as undo:
        for owner, method in methods:
            original = getattr(owner, method)

            def timed(*args, _original=original, **options):
                peers.wait(device)  # for what was begun before
                began = time.perf_counter()
                try:
                    return _original(*args, **options)
                finally:
                    peers.wait(device)
                    spent[name] += time.perf_counter() - began

            setattr(owner, method, timed)
            undo.callback(setattr, owner, method, original)
        yield


class Estimating(Hook):
    """Attaches the curvature estimate to a run."""

    def on_start(self, trainer: Trainer) -> None:
        """Attach it."""
        CurvatureEstimate([o.optimizer for o in trainer.optimizers], norm="l2")


def parts(task: Task, recipe: Recipe, plan: ExecutionPlan, update: float) -> dict[str, float]:
    """What each part takes, timed from inside, as a share of an update of `update` seconds."""
    spent: dict[str, float] = {}
    with (
        clocked(spent, "scheduler", plan.device, (ScheduledLR, "step")),
        clocked(spent, "metrics", plan.device, (Scores, "add"), (Trainer, "read")),
        clocked(spent, "history", plan.device, (History, "append")),
        clocked(spent, "progress", plan.device, (ProgressHook, "on_log")),
        clocked(spent, "estimator", plan.device, (CurvatureEstimate, "_before"), (CurvatureEstimate, "_after")),
    ):
        ours(task, recipe, plan, (Estimating(),))
    shares = {name: seconds / recipe.steps / update for name, seconds in spent.items()}
    trainer = Trainer(task, recipe, plan=plan)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        checkpoint.save(trainer, Path(folder) / "checkpoint", seconds=0.0)
        shares["checkpoint"] = (time.perf_counter() - began) / CHECKPOINT_SECONDS
    return shares


def import_seconds(code: str) -> float:
    """Of a fresh interpreter that runs this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def peak_memory(method: str, device: str) -> float:
    """Peak MiB of a fresh process that trains ResNet-20 by `method`, for a few updates."""
    command = [sys.executable, __file__, "--memory-of", method, "--device", device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train_for_memory(method: str, device: str) -> None:
    """What the process of `peak_memory` does; its peak is printed."""
    task, batch_size, _ = NETWORKS["ResNet-20"]
    task = replace(image_task(task), test=None, validation=None)
    if method == "plain loop":
        throughput.plain(task, batch_size, 20, device)
    else:
        ours(task, Recipe(steps=20, batch_size=batch_size, max_lr=0.05), peers.plain_plan(device))
    if device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(name: str, plan: ExecutionPlan, rounds: int) -> dict[str, object]:
    """Everything about one network: seconds of an update alone and in the loop, and the share of each part."""
    spec, batch_size, steps = NETWORKS[name]
    task = replace(image_task(spec), test=None, validation=None)
    recipe = Recipe(steps=steps, batch_size=batch_size, max_lr=0.05)
    alone = bare(task, recipe, plan)
    alone()
    blocks = [(alone() / steps, ours(task, recipe, plan) / steps) for _ in range(rounds)]
    update = statistics.median(bare_seconds for bare_seconds, _ in blocks)
    shares = [parts(task, recipe, plan, update) for _ in range(max(1, rounds // 3))]
    return {
        "network": name,
        "batch_size": batch_size,
        "update_ms": [1e3 * bare_seconds for bare_seconds, _ in blocks],
        "loop_ms": [1e3 * seconds for _, seconds in blocks],
        "overhead": [seconds / bare_seconds - 1 for bare_seconds, seconds in blocks],
        "parts": {part: [row[part] for row in shares] for part in shares[0]},
    }


def main() -> None:
    """Run the benchmark."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plan", default="fp32,channels_last,eager")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--memory-of", choices=("plain loop", "superconv"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/overheads.json"))
    given = parser.parse_args()
    if given.memory_of:
        train_for_memory(given.memory_of, given.device)
        return
    plan = ExecutionPlan.choose(device=given.device, plan=given.plan)
    imports: dict[str, list[float]] = {code: [] for code in ("import torch", "import torch, superconv", PUBLIC)}
    memory: dict[str, list[float]] = {method: [] for method in ("plain loop", "superconv")}
    for _, (code, seconds) in itertools.product(range(given.rounds), imports.items()):
        seconds.append(import_seconds(code))
    for method, peaks in memory.items() if "ResNet-20" in given.networks else ():
        peaks.append(peak_memory(method, given.device))
    stored = {
        "networks": [measure(name, plan, given.rounds) for name in given.networks],
        "import_seconds": imports,
        "peak_mebibytes": memory,
        "plan": plan.words,
        "device": given.device,
        "command": records.command(),
        **records.place(given.device),
    }
    files.write_json(given.out, stored)
    show(stored)


def show(stored: dict) -> None:
    """Print the table: medians and extremes."""
    rows = stored["networks"]
    table = Table("what", *(row["network"] for row in rows))
    for what, key in (("forward, backward, optimizer", "update_ms"), ("an update of the loop", "loop_ms")):
        table.add_row(f"{what} (ms)", *(records.spread(row[key]) for row in rows))
    table.add_row("overhead of the loop", *(records.spread(row["overhead"], ".1%") for row in rows))
    for part in rows[0]["parts"]:
        table.add_row(f"  {part}", *(records.spread(row["parts"][part], ".2%") for row in rows))
    console = Console()
    console.print(table)
    alone, *others = stored["import_seconds"].values()
    for what, seconds in zip(("superconv", "every public name"), others, strict=True):
        beyond = [1e3 * (own - torchs) for torchs, own in zip(alone, seconds, strict=True)]
        console.print(f"importing {what}, ms beyond torch ({records.spread(alone)} s): {records.spread(beyond, '.0f')}")
    plain, own = stored["peak_mebibytes"].values()
    if plain:
        console.print(f"peak MiB, ResNet-20: plain loop {plain[0]:,.0f}, superconv {own[0]:,.0f}, "
                      f"{own[0] / plain[0]:.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
