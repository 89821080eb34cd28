"""Seconds to a validation accuracy on CIFAR-10, everything included: finders, sweeps, the search of a plan.

    python benchmarks/time_to_accuracy.py [--target 0.65] [--seeds 0 1 2] [--plans default superconv] [--device cuda]

Every method trains the same network on the same data with random flips. Peers run at their defaults, batch 128, in
plain fp32, and again with the plan that superconv found: its precision, memory format, compiler and threads, the fused
optimizers and the allocator; what finding it took is not counted for them. A run ends when a reading of the validation
split, which stops the clock, is at the target, or after its length. All methods are run at the same lengths
(`--epochs`), so that the best of each can be compared. Loading the data is left out for all.

Runs are kept in the JSON one by one, and those that were made here (the same machine, versions and settings) are not
made again: a broken-off benchmark goes on.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import peers
import records
import torch
from peers import TargetReachedError, Watch
from records import Facts
from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.runs.runner import plan_for
from superconv.search.recipe import find_recipe
from superconv.search.settle import settle
from superconv.specs.choices import Choices
from superconv.specs.image_task import ImageTask
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task, image_task
from superconv.training.trainer import Trainer

OURS = "superconv fit"
BATCH = 128  # of the peers, as in most CIFAR-10 code; superconv takes its own
EPOCHS = {0.65: (1.25, 2.0), 0.75: (3.0, 5.0)}


class Reading(Hook):
    """Reads the accuracy from within superconv's loop."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_update(self, trainer: Trainer) -> None:
        """Read where it is due."""
        self._watch.read(trainer.step, trainer.model.module, last=trainer.step == trainer.recipe.steps)
        trainer.model.train()


def ours(watch: Watch, epochs: float, seed: int) -> Facts:
    """What `superconv fit --epochs` does: it finds plan and batch itself. What that took comes back."""
    choices = Choices(epochs=epochs)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["SUPERCONV_CACHE"] = empty
        began = time.perf_counter()
        watch.plan = plan_for(watch.task, settle(watch.task, choices)[0].look, device=watch.plan.device)
        plan_seconds = time.perf_counter() - began
        found = find_recipe(watch.task, choices, plan=watch.plan, seed=seed)
        watch.peak = found.recipe.max_lr
        watch.every = watch.every * BATCH // found.recipe.batch_size
        with suppress(TargetReachedError):
            run = train(watch.task, found.recipe, plan=watch.plan, seed=seed, evaluations=0, hooks=[Reading(watch)])
            if run.stopped == "interrupted":
                raise SystemExit("interrupted: what was finished is kept, and the same command goes on")
    chosen = {"batch_size": found.recipe.batch_size, "steps": found.recipe.steps}
    return {"plan_seconds": plan_seconds, "search_seconds": found.seconds, **chosen}


def cifar10(model: str) -> Task:
    """The task of every run."""
    return replace(image_task(ImageTask(data="cifar10", model=model, flip="random")), test=None)


def measure(facts: Facts, words: str | None) -> Facts:
    """One run, as it is stored; `words` name the plan of a peer that does not run at its defaults."""
    task, method, plan = cifar10(facts["model"]), facts["method"], peers.plain_plan(facts["device"])
    if words:
        plan = ExecutionPlan.choose(device=facts["device"], plan=words)
        plan.fabric()  # allocator and threads
    steps = round(facts["epochs"] * len(task.train) / BATCH)
    torch.manual_seed(facts["seed"])
    watch = Watch(task, facts["target"], every=len(task.train) // BATCH // 5, plan=plan, fused=True if words else None)
    took: Facts = {}
    with suppress(TargetReachedError):
        if method == OURS:
            took = ours(watch, facts["epochs"], facts["seed"])
        else:
            peers.PEERS[method](watch, BATCH, steps)
    points = watch.points or [(watch.seconds, 0, 0.0)]  # none where it diverged before the first
    return {
        **facts,
        "batch_size": BATCH,
        "steps": steps,
        "plan_words": watch.plan.words,
        "seconds": points[-1][0],
        "best": max(accuracy for *_, accuracy in points),
        "reached": points[-1][2] >= watch.target,
        "max_lr": watch.peak,
        "points": watch.points,
        **took,
    }


def wanted(given: argparse.Namespace, here: Facts) -> Iterator[Facts]:
    """What tells each run apart from all others, in the order in which they are made: methods in turn."""
    ways = [(OURS, "superconv"), *((peer, plan) for plan in given.plans for peer in peers.PEERS)]
    for target, seed in itertools.product(given.target, given.seeds):
        for epochs, (method, plan) in itertools.product(given.epochs or EPOCHS[target], ways):
            if not given.methods or any(part in method for part in given.methods):
                run = {"method": method, "plan": plan, "target": target, "epochs": epochs, "seed": seed}
                yield {**run, "data": "cifar10", "model": given.model, "device": given.device, **here}


def main() -> None:
    """Run the benchmark."""
    parser = records.parser(__doc__)
    parser.add_argument("--target", type=float, nargs="+", default=[0.65])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="parts of the names of the methods to run")
    parser.add_argument(
        "--plans", nargs="+", choices=("default", "superconv"), default=["default"], help="of the peers"
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--epochs", type=float, nargs="+", help="lengths that every method runs at")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/time_to_accuracy.json"))
    given = parser.parse_args()
    if not given.epochs and (unknown := set(given.target) - set(EPOCHS)):
        parser.error(f"give --epochs: no lengths are known for {', '.join(map(str, unknown))}")
    here = records.place(given.device)
    rows = files.read_json(given.out)["rows"] if given.out.exists() else []
    for facts in wanted(given, here):
        if records.having(rows, facts):
            continue
        words = None
        if facts["plan"] == "superconv" and facts["method"] != OURS:
            like = {key: facts[key] for key in ("data", "model", "device", *here)}
            found = [row["plan_words"] for row in records.having(rows, {"method": OURS, **like})]
            if not found:
                parser.error(f"{facts['method']} waits for a plan of superconv's: let --methods include {OURS!r}")
            words = statistics.mode(found)
        row = peers.alone(measure, facts, words) | {"command": records.command()}
        rows.append(row)
        files.write_json(given.out, {"rows": rows, "missing": peers.MISSING})
        print(f"{row['method']:32} {row['plan']:9} {row['epochs']:g} epochs, seed {row['seed']}: {row['best']:.2%} "
              f"{row['seconds']:.0f} s, rate {row['max_lr']:.3g}", flush=True)  # fmt: skip
    show(records.having(rows, here), len(rows))


def show(rows: list[Facts], stored: int) -> None:
    """Print the table: medians over seeds, beside the best length of superconv where that always arrived."""
    names = ("target", "model", "method", "plan", "epochs")
    groups: dict[tuple, list[Facts]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    best: dict[tuple, float] = {}
    for (target, model, method, *_), own in groups.items():
        if method == OURS and all(row["reached"] for row in own):
            seconds = statistics.median(row["seconds"] for row in own)
            best[target, model] = min(seconds, best.get((target, model), seconds))
    table = Table(*names, "seconds", "reached", "times superconv's best")
    for key, own in sorted(groups.items(), key=lambda group: group[0][:2]):
        seconds, hits = [row["seconds"] for row in own], sum(row["reached"] for row in own)
        over, base = "" if hits == len(own) else "over ", best.get(key[:2])
        ratio = f"{over}{statistics.median(seconds) / base:.1f}" if base else ""
        table.add_row(*map(str, key), records.spread(seconds, ".0f"), f"{hits} of {len(own)}", ratio)
    console = Console(width=140)
    console.print(table)
    if stored > len(rows):
        console.print(f"{stored - len(rows)} rows of other machines or versions are not shown")
    for name, reason in peers.MISSING.items():
        console.print(f"{name} is missing: {reason}")


if __name__ == "__main__":
    main()
