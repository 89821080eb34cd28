"""How a run whose ramp finds its own peak ends, on the tasks of `regret.py`: `OneCycle(max_lr="auto")` in a plain loop.

    python benchmarks/ramps.py [--tasks digits …] [--variants probe …] [--seeds 5 6 7 8 9] [--minutes 10]
    python benchmarks/ramps.py --show
    python benchmarks/ramps.py --replay [--law heavy_ball=0.5 …]

All take the updates and batches that the other methods of `regret.py` train; lost ones count among them. The probe is
the first training batch. The decay is none (`DecayLaw`) until the peak is known, and then the one for that peak.
Each row holds the rates and losses of the ramp and what was decided, so that `--replay` tells in seconds which peaks
another law would have given (`results/ramps`).

The tasks' names, put in order, are split by their places: constants are chosen on those at even ones, and the others
tell how good they are.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import records
import torch
from regret import TASKS
from regret_methods import base_recipe
from regret_summary import oracle
from regret_tasks import Problem
from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.rates.laws import RampLaw
from superconv.rates.one_cycle import OneCycle
from superconv.rates.ramp import replay
from superconv.rates.watch import Plan
from superconv.recipe import Recipe
from superconv.search.decay import balanced_decay
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task
from superconv.training.trainer import Trainer

COUNTED = "superconv, search counted"
VARIANTS = ("probe", "no probe")
FALLBACK = {"SGD": 0.1, "AdamW": 1e-3}
LARGE = ("mnist", "cifar10-resnet8", "cifar10-resnet20")  # minutes a run: only where they are asked for
CHOSEN = tuple(sorted(TASKS))[::2]
"""Tasks that constants may be chosen on."""


def recipe_of(problem: Problem, task: Task) -> Recipe:
    """The length, batch and momentum of the run; its peak is only the fallback."""
    args = {"nesterov": True} if problem.optimizer == "SGD" else {}
    cycle = {"momentum": 0.95, "min_momentum": 0.85, "optimizer_args": args, "weight_decay": 0.0}
    return base_recipe(problem, task, max_lr=FALLBACK[problem.optimizer], **cycle)


def measure(problem: Problem, task: Task, seed: int, *, variant: str, law: RampLaw) -> dict:
    """One run in a plain loop, as it is stored."""
    recipe, began = recipe_of(problem, task), time.perf_counter()
    trainer = Trainer(task, recipe, plan=ExecutionPlan.choose(device="cpu", plan=problem.plan), seed=seed)
    model, optimizers = trainer.module, trainer.torch_optimizers
    batches = trainer.batches()
    inputs, target = next(batches)
    scheduler = OneCycle(
        optimizers if len(optimizers) > 1 else optimizers[0],
        "auto",
        recipe.steps,
        model=model,
        probe=(lambda: task.loss(task.predict(model, inputs), target)) if variant == "probe" else None,
        law=law,
    )
    model.train()
    decay, before = 0.0, {}
    for update in range(recipe.steps):
        if update:
            inputs_, target_ = next(batches)
        else:
            inputs_, target_ = inputs, target
        loss = task.loss(task.predict(model, inputs_), target_)
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
        scheduler.step(loss)
        if scheduler.max_lr and not decay:
            found = replace(recipe, max_lr=scheduler.max_lr)
            decay = balanced_decay(found, len(task.train), traits=task.traits(recipe))[0]
            for group in (group for each in optimizers for group in each.param_groups):
                group["weight_decay"] = decay
            before = {"lost_in_ramp": scheduler.lost}
    metric = "loss" if task.metric is None else task.metric_name
    scores = trainer.evaluate(task.test) if finite(model) else {}
    curve, plan = scheduler.curve, scheduler.plan
    return {
        "variant": variant,
        "seed": seed,
        "test": scores.get(metric, problem.chance),
        "broke": not scores,
        "steps": recipe.steps,
        "max_lr": scheduler.max_lr,
        "weight_decay": decay,
        **before,
        "lost": scheduler.lost,
        "seconds": round(time.perf_counter() - began, 2),
        "plan": {k: v for k, v in asdict(plan).items() if k != "law"},
        "law": {k: v for k, v in asdict(law).items() if v != getattr(RampLaw(), k)},
        "events": [[event.update, event.what, event.reason] for event in scheduler.events],
        "ramp": {
            "lr": rounded(curve.lr),
            "loss": rounded(curve.train_loss),
            "probe": rounded(curve.validation_loss) if plan.by_probe else [],
        },
    }


def finite(model: torch.nn.Module) -> bool:
    """Whether all weights are."""
    return all(bool(p.isfinite().all()) for p in model.parameters())


def rounded(values: object) -> list:
    """Six digits: what a decision needs."""
    return [None if v is None else float(f"{v:.6g}") for v in values]


def run(name: str, given: argparse.Namespace, law: RampLaw, out_of_time: float) -> None:
    """Make what is missing of a task's rows."""
    problem, path = TASKS[name], given.out / f"{name}.json"
    stored = json.loads(path.read_text()) if path.exists() else {"rows": []}
    done = {(row["variant"], row["seed"]) for row in stored["rows"]}
    missing = [(v, s) for s in given.seeds for v in given.variants if (v, s) not in done]
    if not missing:
        return
    task = problem.make()
    for variant, seed in missing:
        if variant == "probe" and problem.optimizer == "SGD" and "no probe" in given.variants:
            continue  # SGD is watched by its training losses, with a probe too
        if time.perf_counter() > out_of_time:
            return
        row = measure(problem, task, seed, variant=variant, law=law)
        stored["rows"].append(row)
        stored |= {"command": records.command(), **records.place("cpu")}
        files.write_text(path, dumped(stored))
        print(
            f"{name:20} {variant:8} seed {seed}: test {row['test']:.4g}, peak {row['max_lr'] or 0:.3g}, lost "
            f"{row['lost_in_ramp']:.0f} of {row['steps']}, then {row['lost'] - row['lost_in_ramp']:.0f}, "
            f"{[e[1] for e in row['events'][1:]]}, {row['seconds']:.0f} s",
            flush=True,
        )


def dumped(stored: dict) -> str:
    """JSON with a line for each row."""
    rows = ",\n".join(json.dumps(row) for row in stored["rows"])
    about = json.dumps({k: v for k, v in stored.items() if k != "rows"})
    return f'{about[:-1]}, "rows": [\n{rows}\n]}}\n'


def stored_rows(names: list[str], folder: Path) -> Iterator[tuple[str, dict]]:
    """All rows of some tasks."""
    for name in names:
        if (path := folder / f"{name}.json").exists():
            for row in json.loads(path.read_text())["rows"]:
                yield name, row


def show(names: list[str], folder: Path) -> None:
    """Print how each task and half stands, from the JSON alone."""
    console = Console(width=150)
    table = Table(
        "task",
        "chosen on",
        "variant",
        "oracle",
        "test, mean (worst)",
        "regret",
        "peaks",
        "lost in ramp",
        "later",
        "search, counted",
    )
    sums: dict[tuple, list] = {}
    for name in names:
        rows = [row for _, row in stored_rows([name], folder)]
        compared = Path("results/regret") / f"{name}.json"
        if not rows or not compared.exists():
            continue
        about = json.loads(compared.read_text())
        higher, best = about["higher_is_better"], {r["seed"]: r["test"] for r in oracle(about["rows"])[1]}
        for variant in dict.fromkeys(row["variant"] for row in rows):
            own = [row for row in rows if row["variant"] == variant]
            tests, mean = [row["test"] for row in own], fmean(best.values())
            paired = [best.get(row["seed"], mean) for row in own]
            scale = 100 if higher else 100 / abs(mean)
            regret = [scale * ((b - t) if higher else (t - b)) for b, t in zip(paired, tests, strict=True)]
            ramp, later = [r["lost_in_ramp"] for r in own], [r["lost"] - r["lost_in_ramp"] for r in own]
            half = name in CHOSEN
            sums.setdefault((half, variant, higher), []).append((fmean(regret), max(regret), name))
            worst = min(tests) if higher else max(tests)
            peaks = " ".join(f"{r['max_lr']:.2g}" for r in own)
            table.add_row(
                name, "yes" if half else "no", variant, f"{mean:.4g}", f"{fmean(tests):.4g} ({worst:.4g})",
                f"{fmean(regret):.2f} ({max(regret):.2f})", peaks, f"{fmean(ramp):.0f} ({max(ramp):.0f})",
                f"{fmean(later):.0f} ({max(later):.0f}) of {own[0]['steps']}",
            )  # fmt: skip
    console.print(table)
    for (half, variant, higher), values in sorted(sums.items()):
        worst = max(values)
        kind = "accuracies, points" if higher else "losses, %"
        console.print(
            f"{'chosen on' if half else 'fresh':9} {variant:8} {kind}: mean regret {fmean(v[0] for v in values):.2f} "
            f"over {len(values)} tasks, worst {worst[0]:.2f} ({worst[2]})"
        )


def again(names: list[str], folder: Path, law: RampLaw) -> None:
    """Print which stored ramps another law would have read otherwise."""
    moved = total = 0
    for name, row in stored_rows(names, folder):
        plan = Plan(**row["plan"], law=law)
        watch, _ = replay(plan, row["ramp"]["loss"], row["ramp"]["probe"] or None)
        total += 1
        if watch.peak is None or abs(watch.peak / row["max_lr"] - 1) > 0.01:
            moved += 1
            told = "the stored ramp is too short to say" if watch.peak is None else f"{watch.peak:.3g}"
            print(f"{name:20} {row['variant']:8} seed {row['seed']}: {row['max_lr']:.3g} → {told}")
    print(f"{moved} of {total} stored peaks move by more than 1 %")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in TASKS if name not in LARGE]
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=usual)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--law", nargs="+", default=[], help="constants of the law, such as heavy_ball=0.5")
    parser.add_argument("--show", action="store_true", help="only print what is there")
    parser.add_argument("--replay", action="store_true", help="only say which stored peaks the law moves")
    parser.add_argument("--out", type=Path, default=Path("results/ramps"))
    given = parser.parse_args()
    changes = dict(words.split("=") for words in given.law)
    kinds = {name: type(value) for name, value in asdict(RampLaw()).items()}
    law = replace(RampLaw(), **{name: kinds[name](value) for name, value in changes.items()})
    if given.replay:
        again(given.tasks, given.out, law)
        return
    if not given.show:
        given.out.mkdir(parents=True, exist_ok=True)
        end = time.perf_counter() + 60 * given.minutes
        for name in given.tasks:
            run(name, given, law, end)
    show(given.tasks, given.out)


if __name__ == "__main__":
    main()
