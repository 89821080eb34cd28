"""What a range test costs, and what its rate is worth: superconv's against pytorch-lr-finder's and Lightning's.

    python benchmarks/range_test.py [--seeds 3] [--tasks digits mnist cifar10] [--device cuda]

Every finder looks for the peak of the same cycle, on the same fresh network and data, at its own defaults; then that
cycle is trained by superconv's loop, the same for all but for the peak, and the test split is read once. "sweeps" is
`superconv range-test`, half of whose `lr_max` is the peak; "fit" adds the short cycles that suit the peak to the run's
length. The plan is plain fp32 for all, and every search is made in a process of its own. Rows are kept in the JSON one
by one; those that were made here (the same machine, versions and settings) are not made again.
"""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import peers
import records
import torch
import torch.nn.functional as F
from records import Facts
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from superconv import files
from superconv.recipe import Recipe
from superconv.search.recipe import find_recipe
from superconv.specs.choices import Choices
from superconv.specs.image_task import ImageTask
from superconv.stats import mean_interval
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import search_rates
from superconv.training.task import Task, image_task

TASKS = {
    "digits": (ImageTask(data="digits", model="mlp"), 32, 500),
    "mnist": (ImageTask(data="mnist", model="lenet", train_samples=10_000), 64, 400),
    "cifar10": (ImageTask(data="cifar10", model="resnet8", train_samples=10_000, flip="random"), 64, 600),
}
"""Task, batch size and updates of the run."""


def sweeps(task: Task, recipe: Recipe, seed: int, plan: ExecutionPlan) -> float:
    """Half of what the two sweeps of `superconv range-test` say."""
    found = search_rates(task, recipe, seeds=(seed,), plan=plan)
    return (found.verdict.lr_max or found.curve.lr[-1]) / 2


def fit(task: Task, recipe: Recipe, seed: int, plan: ExecutionPlan) -> float:
    """The peak of `superconv fit`."""
    choices = Choices(steps=recipe.steps, batch_size=recipe.batch_size, weight_decay=recipe.weight_decay)
    return find_recipe(task, choices, plan=plan, seed=seed).recipe.max_lr


def lr_finder(task: Task, recipe: Recipe, seed: int, plan: ExecutionPlan) -> float:
    """The suggestion of pytorch-lr-finder."""
    network = peers.Planned(task.model(), plan)
    return peers.steepest(network, peers.sgd(network, 1e-7), peers.data_loader(task, recipe.batch_size))


def lightning(task: Task, recipe: Recipe, seed: int, plan: ExecutionPlan) -> float:
    """The suggestion of Lightning's `lr_find`."""

    class Module(peers.lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.lr = task.model(), 1e-3

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return peers.sgd(self, self.lr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peers.lightning_rate(Module(), peers.data_loader(task, recipe.batch_size), plan)


FINDERS: dict[str, Callable[[Task, Recipe, int, ExecutionPlan], float]] = {
    "superconv, sweeps": sweeps,
    "superconv, fit": fit,
}
BASE = "superconv, fit"
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


def measure(facts: Facts) -> Facts:
    """One search and the run that it led to, as stored."""
    spec, batch_size, updates = TASKS[facts["task"]]
    task, plan, seed = image_task(spec), peers.plain_plan(facts["device"]), facts["seed"]
    recipe = Recipe(steps=updates, batch_size=batch_size, max_lr=1.0, weight_decay=1e-4)
    torch.manual_seed(seed)
    began = time.perf_counter()
    with counted() as steps:
        peak = FINDERS[facts["finder"]](task, recipe, seed, plan)
    peers.wait(plan.device)
    seconds = time.perf_counter() - began
    run = train(task, replace(recipe, max_lr=peak), plan=plan, seed=seed, evaluations=0)
    if run.stopped == "interrupted":
        raise SystemExit("interrupted: what was finished is kept, and the same command goes on")
    accuracy = run.scores.get("test_accuracy") or 0.0
    row = {**facts, "max_lr": peak, "steps": len(steps), "seconds": seconds}
    return {**row, "accuracy": accuracy, "train_seconds": run.seconds}


def main() -> None:
    """Run the benchmark."""
    parser = records.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/range_test.json"))
    given = parser.parse_args()
    here = records.place(given.device)
    rows = files.read_json(given.out)["rows"] if given.out.exists() else []
    for name, seed, finder in itertools.product(given.tasks, range(given.seeds), FINDERS):
        spec, batch_size, updates = TASKS[name]
        run = {"task": name, "model": spec.model, "batch_size": batch_size, "train_steps": updates}
        facts = {**run, "finder": finder, "seed": seed, "device": given.device, **here}
        if records.having(rows, facts):
            continue
        row = peers.alone(measure, facts) | {"command": records.command()}
        rows.append(row)
        files.write_json(given.out, {"rows": rows, "missing": peers.MISSING})
        print(f"{name}, {finder}, seed {seed}: rate {row['max_lr']:.3g} in {row['steps']} updates, "
              f"{row['seconds']:.1f} s; {row['accuracy']:.2%}", flush=True)  # fmt: skip
    show(records.having(rows, here), len(rows))


def show(rows: list[Facts], stored: int) -> None:
    """Print the table: medians over seeds with their range, and the mean accuracy with its 95 % interval."""
    headers = ("updates", "of the run", "seconds", f"times {BASE}", "rate", "test accuracy (95 %)")
    table = Table("task", "finder", *headers)
    for name, finder in dict.fromkeys((row["task"], row["finder"]) for row in rows):
        own, base = (records.having(rows, {"task": name, "finder": f}) for f in (finder, BASE))
        middle = {key: statistics.median(row[key] for row in own) for key in ("steps", "seconds", "train_steps")}
        mean, low, high = mean_interval([row["accuracy"] for row in own])
        table.add_row(
            name,
            finder,
            records.spread([row["steps"] for row in own], ".0f"),
            f"{middle['steps'] / middle['train_steps']:.0%}",
            records.spread([row["seconds"] for row in own], ".2g"),
            f"{middle['seconds'] / statistics.median(row['seconds'] for row in base):.2f}" if base else "",
            records.spread([row["max_lr"] for row in own], ".2g"),
            f"{mean:.2%}" + ("" if low is None else f" ({max(0.0, low):.2%} to {min(1.0, high):.2%})"),
        )
    console = Console(width=160)
    console.print(table)
    if stored > len(rows):
        console.print(f"{stored - len(rows)} rows of other machines or versions are not shown")
    for name, reason in peers.MISSING.items():
        console.print(f"{name} is missing: {reason}")


if __name__ == "__main__":
    main()
