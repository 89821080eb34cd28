"""Images per second of training: superconv's loop, a plain PyTorch loop and Lightning's Trainer, in one run, in turn.

    python benchmarks/throughput.py [--data cifar10] [--models lenet resnet20 resnet56] [--rounds 5] [--device cuda]

Same network, batch, data, optimizer and flips for all. Each round trains a fresh network for some updates under every
method; a method's figure is the median over rounds of the median update, the first updates left out. Needs the extra
`bench`; a peer that is not installed is reported as missing.
"""

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import peers
import records
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.task import Task, image_task

WARM_UP = 3  # updates that are not counted
RATE = 0.05


def plain(task: Task, batch_size: int, steps: int, device: str) -> float:
    """A training loop as in every tutorial."""
    network = task.model().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    batches = itertools.chain.from_iterable(itertools.repeat(peers.data_loader(task, batch_size)))
    marks = [time.perf_counter()]
    for images, labels in itertools.islice(batches, steps):
        loss = F.cross_entropy(network(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peers.wait(device)
        marks.append(time.perf_counter())
    return steady(marks, batch_size)


def with_lightning(task: Task, batch_size: int, steps: int, device: str) -> float:
    """Lightning's Trainer at its defaults, without its bar and its logs."""

    class Module(peers.lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.marks = task.model(), [time.perf_counter()]

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=RATE, momentum=0.9, nesterov=True)

        def on_train_batch_end(self, *args):
            peers.wait(device)
            self.marks.append(time.perf_counter())

    module, loader = Module(), peers.data_loader(task, batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peers.lightning_trainer(peers.plain_plan(device), max_steps=steps).fit(module, loader)
    return steady(module.marks, batch_size)


def steady(marks: list[float], batch_size: int) -> float:
    """Images per second of the median update between these readings of the clock."""
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    return batch_size / statistics.median(seconds[WARM_UP:])


def ours(words: str, task: Task, batch_size: int, steps: int, device: str) -> float:
    """`superconv.training.loop.train`, history and evaluation apart; it logs, and so waits for, every update."""
    recipe = Recipe(steps=max(20, steps), batch_size=batch_size, max_lr=RATE)
    plan = ExecutionPlan.choose(device=device, plan=words)
    return train(task, recipe, plan=plan, evaluations=0).images_per_second


def task_of(data: str, model: str) -> Task:
    """What is trained."""
    return replace(image_task(ImageTask(data=data, model=model, flip="random")), test=None, validation=None)


def found_plan(data: str, model: str, batch_size: int, device: str) -> str:
    """Words of the plan that superconv finds for a long run."""
    recipe = Recipe(steps=10_000, batch_size=batch_size, max_lr=RATE)
    return find_plan(task_of(data, model), recipe, device=device, limit=5.0, use_cache=False).plan.words


def pace(method: str, data: str, model: str, *options: object) -> float:
    """Images per second of a method: `plain loop`, `Lightning`, or a plan of superconv's."""
    methods = {"plain loop": plain, "Lightning": with_lightning}
    run: Callable[..., float] = methods.get(method) or partial(ours, method)
    return run(task_of(data, model), *options)


def measure(name: str, given: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of each method in each round, every one in a process of its own."""
    words = peers.alone(found_plan, given.data, name, given.batch_size, given.device)
    methods = {"plain loop": "plain loop"} | ({} if "Lightning" in peers.MISSING else {"Lightning": "Lightning"})
    methods |= {f"superconv, found plan ({words})": words} | {f"superconv, {plan}": plan for plan in given.plans}
    found: dict[str, list[float]] = {method: [] for method in methods}
    options = (given.data, name, given.batch_size, given.steps, given.device)
    for _, (method, run) in itertools.product(range(given.rounds), methods.items()):
        found[method].append(peers.alone(pace, run, *options))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = records.parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--models", nargs="+", default=["lenet", "resnet20", "resnet56"])
    parser.add_argument(
        "--plans",
        nargs="*",
        default=[
            *("fp32,channels_first,eager", "fp32,channels_last,eager", "bf16,channels_last,eager"),
            *("fp32,channels_first,compiled", "fp32,channels_last,compiled", "bf16,channels_last,compiled"),
        ],
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/throughput.json"))
    given = parser.parse_args()
    table = Table("network", "method", "images/s (range over rounds)", "times the plain loop")
    rows = []
    for name in given.models:
        found = measure(name, given)
        base = statistics.median(found["plain loop"])
        for method, rates in found.items():
            middle = statistics.median(rates)
            rows.append({"model": name, "method": method, "images_per_second": rates, "ratio": middle / base})
            table.add_row(name, method, records.spread(rates, ",.0f"), f"{middle / base:.2f}")
        if reason := peers.MISSING.get("Lightning"):
            table.add_row(name, "Lightning", f"missing: {reason}", "")
    Console(width=140).print(table)
    about = {"data": given.data, "batch_size": given.batch_size, "steps": given.steps, "rounds": given.rounds}
    about |= {"device": given.device, "command": records.command(), **records.place(given.device)}
    files.write_json(given.out, {"rows": rows, **about, "missing": peers.MISSING})


if __name__ == "__main__":
    main()
