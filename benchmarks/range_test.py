"""What a range test costs, and what its rate is worth: superconv's against pytorch-lr-finder's and Lightning's.

    python benchmarks/range_test.py [--seeds 3] [--tasks digits mnist cifar10]

Every finder looks for the peak of the same cycle, on the same fresh network and data, at its own defaults; then that
cycle is trained by superconv's loop, the same for all but for the peak, and the test split is read once. "sweeps" is
`superconv range-test`, half of whose `lr_max` is the peak; "fit" adds the short cycles that suit the peak to the run's
length. The plan is plain fp32 for all. Rows are kept in the JSON one by one; those that are there are not made again.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import peers
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from superconv.recipe import Recipe
from superconv.specs import Choices, ImageTask
from superconv.studies.intervals import mean_interval
from superconv.studies.tuner import find_recipe
from superconv.training.loop import train
from superconv.training.plan import machine, versions
from superconv.training.sweeps import search_rates
from superconv.training.task import Task, image_task

TASKS = {
    "digits, MLP": (ImageTask(data="digits", model="mlp"), 32, 500),
    "MNIST (10,000), LeNet": (ImageTask(data="mnist", model="lenet", train_samples=10_000), 64, 400),
    "CIFAR-10 (10,000), ResNet-8": (
        ImageTask(data="cifar10", model="resnet8", train_samples=10_000, flip="random"),
        64,
        600,
    ),
}
"""Task, batch size and updates of the run."""


def sweeps(task: Task, recipe: Recipe, seed: int) -> float:
    """Half of what the two sweeps of `superconv range-test` say."""
    found = search_rates(task, recipe, seeds=(seed,), plan=peers.PLAIN)
    return (found.verdict.lr_max or found.curve.lr[-1]) / 2


def fit(task: Task, recipe: Recipe, seed: int) -> float:
    """The peak of `superconv fit`."""
    choices = Choices(steps=recipe.steps, batch_size=recipe.batch_size, weight_decay=recipe.weight_decay)
    return find_recipe(task, choices, plan=peers.PLAIN, seed=seed).recipe.max_lr


def lr_finder(task: Task, recipe: Recipe, seed: int) -> float:
    """pytorch-lr-finder's steepest point, 100 iterations from 1e-7 to 100."""
    network = task.model()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-7, momentum=0.9, weight_decay=recipe.weight_decay)
    return peers.steepest(network, optimizer, peers.data_loader(task, recipe.batch_size), peers.PLAIN)


def lightning(task: Task, recipe: Recipe, seed: int) -> float:
    """The suggestion of Lightning's `lr_find`."""

    class Module(peers.lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.lr = task.model(), 1e-3

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=recipe.weight_decay)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peers.lightning_rate(Module(), peers.data_loader(task, recipe.batch_size))


FINDERS: dict[str, Callable[[Task, Recipe, int], float]] = {"superconv, sweeps": sweeps, "superconv, fit": fit}
FINDERS |= {} if "pytorch-lr-finder" in peers.MISSING else {"pytorch-lr-finder": lr_finder}
FINDERS |= {} if "Lightning" in peers.MISSING else {"Lightning lr_find": lightning}


@contextmanager
def counted() -> Iterator[list[None]]:
    """A list that gets an entry for every step that any optimizer makes."""
    steps: list[None] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(None))
    try:
        yield steps
    finally:
        handle.remove()


def measure(name: str, finder: str, seed: int) -> dict[str, object]:
    """One search and the run that it led to, as stored."""
    spec, batch_size, updates = TASKS[name]
    task = image_task(spec)
    recipe = Recipe(steps=updates, batch_size=batch_size, max_lr=1.0, weight_decay=1e-4)
    torch.manual_seed(seed)
    began = time.perf_counter()
    with counted() as steps:
        peak = FINDERS[finder](task, recipe, seed)
    seconds = time.perf_counter() - began
    run = train(task, replace(recipe, max_lr=peak), plan=peers.PLAIN, seed=seed, evaluations=0)
    accuracy = run.scores.get("test_accuracy") or 0.0
    row = {"task": name, "finder": finder, "seed": seed, "max_lr": peak, "steps": len(steps), "seconds": seconds}
    return {**row, "accuracy": accuracy, "train_steps": updates, "train_seconds": run.seconds}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=[""], help="parts of the names of the tasks to run")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/range_test.json"))
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    done = {(row["task"], row["finder"], row["seed"]) for row in stored["rows"]}
    for name in TASKS:
        for seed in range(given.seeds):
            for finder in FINDERS:
                if (name, finder, seed) in done or not any(part in name for part in given.tasks):
                    continue
                row = measure(name, finder, seed)
                stored["rows"].append(row)
                stored |= {"machine": machine("cpu"), "versions": versions(), "missing": peers.MISSING}
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(stored, indent=1) + "\n")
                print(f"{name}, {finder}, seed {seed}: rate {row['max_lr']:.3g} in {row['steps']} updates, "
                      f"{row['seconds']:.1f} s; {row['accuracy']:.2%}", flush=True)  # fmt: skip
    show(stored["rows"])


def show(rows: list[dict]) -> None:
    """Print the table: medians over seeds, and the mean accuracy with its 95 % interval."""
    table = Table("task", "finder", "updates", "share of the run", "seconds", "rate", "test accuracy (95 %)")
    for name, finder in dict.fromkeys((row["task"], row["finder"]) for row in rows):
        own = [row for row in rows if (row["task"], row["finder"]) == (name, finder)]
        middle = {key: statistics.median(row[key] for row in own) for key in ("steps", "seconds", "train_steps")}
        mean, low, high = mean_interval([row["accuracy"] for row in own])
        table.add_row(
            name,
            finder,
            f"{middle['steps']:.0f}",
            f"{middle['steps'] / middle['train_steps']:.0%}",
            f"{middle['seconds']:.1f}",
            f"{min(row['max_lr'] for row in own):.2g} to {max(row['max_lr'] for row in own):.2g}",
            f"{mean:.2%}" + ("" if low is None else f" ({max(0.0, low):.2%} to {min(1.0, high):.2%})"),
        )
    for name, reason in peers.MISSING.items():
        table.add_row("", name, f"missing: {reason}", "", "", "", "")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
