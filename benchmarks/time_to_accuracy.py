"""Seconds to a validation accuracy on CIFAR-10, everything included: finders, sweeps, the search of a plan.

    python benchmarks/time_to_accuracy.py [--target 0.65] [--seeds 3] [--plans default equal]

Every method trains the same network on the same data with random flips. Peers run at their defaults, batch 128, in
plain fp32 (`default`), and with the plan that superconv found (`equal`). A run ends when a reading of the validation
split, which stops the clock, is at the target, or after the method's length. Lengths are each method's own (`EPOCHS`).
Loading the data is left out for all.

Runs are kept in the JSON one by one, and those that are there are not made again: a broken-off benchmark goes on.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import torch
from peers import TargetReachedError, Watch
from rich.console import Console
from rich.table import Table

from superconv.specs import Choices, ImageTask
from superconv.studies.runner import plan_for
from superconv.studies.tuner import find_recipe, outline
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.task import image_task
from superconv.training.trainer import Trainer

OURS = "superconv fit"
BATCH = 128  # of the peers, as in most CIFAR-10 code; superconv takes its own
EPOCHS: dict[str, dict[float, float]] = {
    OURS: {0.65: 1.25, 0.75: 3},
    "pytorch-lr-finder + OneCycleLR": {0.65: 2, 0.75: 5},
    "Lightning lr_find + OneCycleLR": {0.65: 2, 0.75: 5},
    "schedule-free AdamW": {0.65: 3, 0.75: 6},
    "SGD 0.1, steps": {0.65: 2, 0.75: 4},
}


class Reading(Hook):
    """Reads the accuracy from within superconv's loop."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_update(self, trainer: Trainer) -> None:
        """Read where it is due."""
        self._watch.read(trainer.step, trainer.model.module, last=trainer.step == trainer.recipe.steps)
        trainer.model.train()


def ours(watch: Watch, plan: ExecutionPlan | None, batch_size: int, steps: int, *, seed: int) -> None:
    """What `superconv fit --epochs` does, its plan not known beforehand; it chooses the batch."""
    epochs = steps * batch_size / len(watch.task.train)
    choices = Choices(epochs=epochs)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["SUPERCONV_CACHE"] = empty
        plan = plan_for(watch.task, outline(watch.task, choices))
        found = find_recipe(watch.task, choices, plan=plan, seed=seed)
        watch.peak, watch.search_seconds, watch.plan = found.recipe.max_lr, found.seconds, plan.words
        watch.every = watch.every * batch_size // found.recipe.batch_size
        train(watch.task, found.recipe, plan=plan, seed=seed, evaluations=0, hooks=[Reading(watch)])


def measure(method: str, run: Callable, plan: ExecutionPlan | None, target: float, seed: int, given) -> dict:
    """One run, as it is stored."""
    task = image_task(ImageTask(data="cifar10", model=given.model, flip="random"))
    task = type(task)(**{**vars(task), "test": None})
    steps = round((given.epochs or EPOCHS[method][target]) * len(task.train) / BATCH)
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    watch = Watch(task, target, every=len(task.train) // BATCH // 8)
    reached = False
    try:
        run(watch, plan, BATCH, steps)
    except TargetReachedError:
        reached = True
    torch.set_num_threads(threads)
    return {
        "method": method,
        "target": target,
        "seed": seed,
        "steps": steps,
        "reached": reached,
        "seconds": watch.points[-1][0] if watch.points else watch.seconds,
        "best": max((a for *_, a in watch.points), default=None),
        "max_lr": watch.peak,
        "points": watch.points,
        "search_seconds": getattr(watch, "search_seconds", None),
        "found_plan": getattr(watch, "plan", None),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, nargs="+", default=[0.65])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plans", nargs="+", choices=("default", "equal"), default=["default", "equal"])
    parser.add_argument("--methods", nargs="+", help="parts of the names of the methods to run")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--epochs", type=float, help="instead of each method's own")
    parser.add_argument("--equal", default="bf16,channels_last", help="superconv's plan, for the peers")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/time_to_accuracy.json"))
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    done = {(r["method"], r["plan"], r["target"], r["seed"]) for r in stored["rows"]}
    for target in given.target:
        for seed in given.seeds:
            for name in given.plans:
                plan = peers.PLAIN if name == "default" else ExecutionPlan.choose(plan=given.equal)
                runs = dict(peers.PEERS) | ({OURS: partial(ours, seed=seed)} if name == "default" else {})
                for method, run in runs.items():
                    wanted = not given.methods or any(part in method for part in given.methods)
                    if not wanted or (method, name, target, seed) in done:
                        continue
                    row = {**measure(method, run, plan, target, seed, given), "plan": name}
                    stored["rows"].append(row)
                    stored |= {"model": given.model, "data": "cifar10", "batch_size": BATCH, "equal": given.equal}
                    stored |= {"machine": machine("cpu"), "versions": versions(), "missing": peers.MISSING}
                    given.out.parent.mkdir(parents=True, exist_ok=True)
                    given.out.write_text(json.dumps(stored, indent=1) + "\n")
                    print(f"{method:32} {name:8} seed {seed}: {row['best']:.2%} {row['seconds']:.0f} s, "
                          f"rate {row['max_lr']:.3g}", flush=True)  # fmt: skip
    show(stored["rows"])


def show(rows: list[dict]) -> None:
    """Print the table: medians over seeds, and how many times superconv's time that is."""
    table = Table("target", "plan", "method", "seconds", "range", "reached", "times superconv")
    for target in sorted({r["target"] for r in rows}):
        at = [r for r in rows if r["target"] == target]
        base = [r["seconds"] for r in at if r["method"] == OURS]
        for plan, method in dict.fromkeys((r["plan"], r["method"]) for r in at):
            own = [r for r in at if (r["plan"], r["method"]) == (plan, method)]
            seconds = [r["seconds"] for r in own]
            hits = sum(r["reached"] for r in own)
            ratio = f"{statistics.median(seconds) / statistics.median(base):.1f}" if base else ""
            table.add_row(
                f"{target:.0%}",
                plan,
                method,
                f"{statistics.median(seconds):.0f}",
                f"{min(seconds):.0f} to {max(seconds):.0f}",
                f"{hits} of {len(own)}",
                ratio if hits == len(own) else f"over {ratio}",
            )
    for name, reason in peers.MISSING.items():
        table.add_row("", "", name, f"missing: {reason}", "", "", "")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
