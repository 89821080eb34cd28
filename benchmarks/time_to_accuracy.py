"""Seconds to a validation accuracy on CIFAR-10, everything included: finders, sweeps, the search of a plan.

    python benchmarks/time_to_accuracy.py [--target 0.65] [--seeds 0 1 2]

Every method trains the same network on the same data with random flips. Peers run at their defaults, batch 128, in
plain fp32. A run ends when a reading of the validation split, which stops the clock, is at the target, or after the
method's length. Lengths are each method's own (`EPOCHS`). Loading the data is left out for all. A plan changes a run's
numbers by rounding only, so what a peer would have taken under the plan that superconv found is computed: its seconds
times the ratio of the plain loop's paces under both, measured in turn.

Runs are kept in the JSON one by one, and those that are there are not made again: a broken-off benchmark goes on.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import peers
import torch
import torch.nn.functional as F
from peers import TargetReachedError, Watch
from rich.console import Console
from rich.table import Table

from superconv.specs import Choices, ImageTask
from superconv.studies.runner import plan_for
from superconv.studies.tuner import find_recipe, outline
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan, machine, versions
from superconv.training.task import Task, image_task
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


def ours(watch: Watch, plan: ExecutionPlan, batch_size: int, steps: int, *, seed: int) -> None:
    """What `superconv fit --epochs` does: it finds plan and batch itself."""
    epochs = steps * batch_size / len(watch.task.train)
    choices = Choices(epochs=epochs)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["SUPERCONV_CACHE"] = empty
        plan = plan_for(watch.task, outline(watch.task, choices))
        found = find_recipe(watch.task, choices, plan=plan, seed=seed)
        watch.peak, watch.search_seconds, watch.plan = found.recipe.max_lr, found.seconds, plan.words
        watch.every = watch.every * batch_size // found.recipe.batch_size
        train(watch.task, found.recipe, plan=plan, seed=seed, evaluations=0, hooks=[Reading(watch)])


def cifar10(model: str) -> Task:
    """The task of every run."""
    return replace(image_task(ImageTask(data="cifar10", model=model, flip="random")), test=None)


def paces(model: str, words: str, *, rounds: int = 5, updates: int = 4) -> dict[str, list[float]]:
    """Seconds of the plain loop's update, by plan: the peers' own and the one of these words, in turn."""
    plans = {"default": peers.PLAIN, words: ExecutionPlan.choose(plan=words)}
    network = cifar10(model).model()
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    found: dict[str, list[float]] = {name: [] for name in plans}
    for _, (name, plan) in itertools.product(range(rounds + 1), plans.items()):
        began = time.perf_counter()
        for _ in range(updates):
            F.cross_entropy(peers.forward(plan, network, images), labels).backward()
        found[name].append((time.perf_counter() - began) / updates)
    return {name: seconds[1:] for name, seconds in found.items()}


def measure(method: str, target: float, seed: int, model: str, epochs: float | None) -> dict:
    """One run, as it is stored."""
    run = partial(ours, seed=seed) if method == OURS else peers.PEERS[method]
    task = cifar10(model)
    steps = round((epochs or EPOCHS[method][target]) * len(task.train) / BATCH)
    torch.manual_seed(seed)
    watch = Watch(task, target, every=len(task.train) // BATCH // 5)
    reached = False
    try:
        run(watch, peers.PLAIN, BATCH, steps)
    except TargetReachedError:
        reached = True
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
    parser.add_argument("--methods", nargs="+", help="parts of the names of the methods to run")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--epochs", type=float, help="instead of each method's own")
    parser.add_argument("--paces", action="store_true", help="measure the paces of the peers' plan and superconv's")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/time_to_accuracy.json"))
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    done = {(r["method"], r["target"], r["seed"]) for r in stored["rows"]}
    for target, seed in itertools.product(given.target, given.seeds):
        for method in (OURS, *peers.PEERS):
            wanted = not given.methods or any(part in method for part in given.methods)
            if not wanted or (method, target, seed) in done:
                continue
            row = peers.alone(measure, method, target, seed, given.model, given.epochs)
            stored["rows"].append(row)
            stored |= {"model": given.model, "data": "cifar10", "batch_size": BATCH, "missing": peers.MISSING}
            _write(given.out, stored)
            print(f"{method:32} seed {seed}: {row['best']:.2%} {row['seconds']:.0f} s, "
                  f"rate {row['max_lr']:.3g}", flush=True)  # fmt: skip
    found = [row["found_plan"] for row in stored["rows"] if row["found_plan"]]
    if found and given.paces:
        stored["paces"] = peers.alone(paces, given.model, statistics.mode(found))
        _write(given.out, stored)
    show(stored)


def _write(path: Path, stored: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine("cpu"), "versions": versions()}
    path.write_text(json.dumps({**stored, **about}, indent=1) + "\n")


def show(stored: dict) -> None:
    """Print the table: medians over seeds, and how many times superconv's time that is, at each plan."""
    rows, times = stored["rows"], [statistics.median(seconds) for seconds in stored.get("paces", {}).values()]
    gain = times[1] / times[0] if times else None
    headers = ("seconds", "range", "reached", "times superconv", "seconds at its plan", "times superconv")
    table = Table("target", "method", *headers)
    for target, method in dict.fromkeys((r["target"], r["method"]) for r in rows):
        base, own = ([r for r in rows if (r["target"], r["method"]) == (target, name)] for name in (OURS, method))
        seconds, hits = [r["seconds"] for r in own], sum(r["reached"] for r in own)
        middle = statistics.median(seconds)
        over = "" if hits == len(own) else "over "
        cells = [f"{middle:.0f}", f"{min(seconds):.0f} to {max(seconds):.0f}", f"{hits} of {len(own)}"]
        for factor in (1.0, 1.0 if method == OURS else gain):
            at_plan = factor and middle * factor
            ratio = at_plan and base and at_plan / statistics.median(r["seconds"] for r in base)
            cells += [f"{at_plan:.0f}" if at_plan else "", f"{over}{ratio:.1f}" if ratio else ""]
        table.add_row(f"{target:.0%}", method, *cells[:3], *cells[4:])
    for name, reason in peers.MISSING.items():
        table.add_row("", name, f"missing: {reason}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
