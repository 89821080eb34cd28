"""How far from a grid search each method ends, that chooses a learning rate by itself or has a usual one.

    python benchmarks/regret.py [--tasks digits …] [--methods superconv …] [--seeds 10] [--minutes 4]
    python benchmarks/regret.py --show

All train the same number of epochs in superconv's loop, on the same data in the same order and plan
(`regret_tasks.py`, `regret_methods.py`). The oracle is a grid of 5 rates × 3 decays × 3 schedules, one seed each,
chosen on validation; its best three run again from fresh seeds, and the best of them on validation counts. Methods run
from the same fresh seeds, so regrets are paired. The test split is read once a run, and never in the grid.

Rows are kept in the JSON of each task one by one, and those that are there are not made again: `--minutes` ends a part
before the next run, and a later call goes on.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import records
from regret_further import FURTHER
from regret_hard import HARD
from regret_methods import METHODS, MISSING, Ready, grid
from regret_summary import GRID, ORACLE, mean_ranks, oracle, plot_regrets, pooled, standings, top_settings
from regret_tasks import PROBLEMS, Problem
from rich.console import Console
from rich.table import Table

from superconv import files
from superconv.recipe import Recipe, plain
from superconv.stats import mean_interval
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan, machine
from superconv.training.task import Task

GRID_SEED = 1000  # apart from the fresh seeds 0, 1, …
TASKS = PROBLEMS | FURTHER | HARD
REQUIRED = {"steps": 100, "batch_size": 1, "max_lr": 1.0}
DEFAULTS = {k: v for k, v in plain(Recipe(**REQUIRED)).items() if k not in REQUIRED}  # rows leave them out

Job = tuple[str, int, Callable[[], Ready]]


def jobs(problem: Problem, task: Task, rows: list[dict], methods: list[str], seeds: range) -> Iterator[Job]:
    """What is to be run on a task: the grid, the methods, and last the grid's best, which the rows must tell."""
    plan = ExecutionPlan.choose(device="cpu", plan=problem.plan)
    settings = grid(problem, task)
    if ORACLE in methods:
        for name, recipe in settings.items():
            yield f"{GRID}: {name}", GRID_SEED, lambda r=recipe: Ready(task=replace(task, test=None), recipe=r)
    for seed in seeds:
        for name in methods:
            if name != ORACLE:
                yield name, seed, lambda n=name, s=seed: METHODS[n](problem, task, s, plan)
    if ORACLE in methods:
        for seed in seeds:
            for name in top_settings(rows):
                yield f"{ORACLE}: {name}", seed, lambda n=name: Ready(task=task, recipe=settings[n])


def measure(problem: Problem, method: str, seed: int, prepare: Callable[[], Ready]) -> dict:
    """One run, as it is stored."""
    ready = prepare()
    plan = ExecutionPlan.choose(device="cpu", plan=problem.plan)
    run = train(ready.task, ready.recipe, plan=plan, seed=seed, evaluations=0, hooks=ready.hooks)
    if run.stopped == "interrupted":
        raise SystemExit("interrupted: what was finished is kept, and the same command goes on")
    metric = "loss" if ready.task.metric is None else ready.task.metric_name
    test = run.scores.get(f"test_{metric}")
    return {
        "method": method,
        "seed": seed,
        "test": None if ready.task.test is None else problem.chance if test is None else test,
        **{name: score for name, score in run.scores.items() if name.startswith("validation")},
        "stopped": run.stopped,
        "steps": ready.recipe.steps,
        "search_updates": ready.search_updates,
        "search_seconds": round(ready.search_seconds, 3),
        "seconds": round(run.seconds, 3),
        "machine": machine("cpu"),
        "recipe": {k: v for k, v in plain(ready.recipe).items() if v != DEFAULTS.get(k)},
    }


def run_task(name: str, given: argparse.Namespace, out_of_time: Callable[[], bool]) -> None:
    """Make what is missing of a task's rows."""
    problem, path = TASKS[name], given.out / f"{name}.json"
    task = problem.make()
    stored = json.loads(path.read_text()) if path.exists() else {}
    rows = stored.setdefault("rows", [])
    about = json.loads(json.dumps({k: v for k, v in vars(problem).items() if k != "make"}))
    if other := [k for k, v in about.items() if rows and stored.get(k) != v]:
        raise SystemExit(f"{path} holds rows of another {' and '.join(other)}: move it, or set {name} back")
    done = {(row["method"], row["seed"]) for row in rows}
    seeds = range(given.first_seed, given.first_seed + (given.seeds or problem.seeds))
    for method, seed, prepare in jobs(problem, task, rows, given.methods, seeds):
        if (method, seed) in done:
            continue
        if out_of_time():
            return
        row = measure(problem, method, seed, prepare)
        others = json.loads(path.read_text())["rows"] if path.exists() else []  # another process may have added some
        rows[:] = [*others, row]
        stored |= {"task": task.name, "higher_is_better": task.metric is not None and task.higher_is_better, **about}
        stored |= {"command": records.command(), **records.place("cpu"), "missing": MISSING}
        files.write_json(path, stored)
        scores = " ".join(f"{k} {row[k]:.4g}" for k in ("validation_accuracy", "validation_loss", "test") if row.get(k))
        print(f"{name:20} {method:36} seed {seed:4}: {scores}, {row['seconds']:.1f} s", flush=True)


def shown(interval: tuple[float, float | None, float | None]) -> str:
    """A mean with its interval."""
    mean, low, high = (None if value is None else number(value) for value in interval)
    return f"{mean}" if low is None else f"{mean} ({low} to {high})"


def number(value: float) -> str:
    """Three digits, all of them before the point where there are more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 4) + 0.0:.3g}"


def show(problems: Iterable[str], folder: Path, figure: Path) -> None:
    """Print the tables of some tasks and draw their figure, from the JSON alone."""
    console, tasks, classification = Console(width=150), {}, []
    table = Table("task", "method", "test accuracy (%) or loss", "regret, points or %", "search, % of updates", "seeds")
    for name in problems:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        stored = json.loads(path.read_text())
        rows, best = stored["rows"], oracle(stored["rows"])[0]
        found = standings(rows, higher_is_better=stored["higher_is_better"])
        if best:
            tasks[name] = found
            classification += [name] if stored["higher_is_better"] else []
        for method, standing in found.items():
            of = "" if standing.within else ", over superconv's budget"
            cost = f"{standing.search:.0%}{of}" if method != ORACLE else f"{100 * len(grid_rows(rows)):,}%"
            table.add_row(
                name,
                f"{method}: {best}" if method == ORACLE else method,
                shown(mean_interval(standing.scores)),
                shown(mean_interval(standing.regrets)) if standing.regrets else "" if best else "no oracle yet",
                cost,
                str(len(standing.scores)),
            )
        table.add_section()
    console.print(table)
    summary = Table(
        "method", f"mean regret, {len(classification)} classifications", "worst task", "mean rank, all tasks"
    )
    for method, rank in sorted(mean_ranks(tasks.values()).items(), key=lambda item: item[1]):
        regrets = {name: tasks[name][method].regrets for name in classification}
        worst = max(regrets, key=lambda name: fmean(regrets[name]), default="")
        at = f"{number(fmean(regrets[worst]))} ({worst})" if worst else ""
        summary.add_row(method, shown(pooled(list(regrets.values()))) if regrets else "", at, f"{rank:.2f}")
    console.print(summary)
    if tasks:
        figure.parent.mkdir(parents=True, exist_ok=True)
        plot_regrets(tasks).get_figure().savefig(figure, dpi=150)


def grid_rows(rows: list[dict]) -> list[dict]:
    """The rows of the grid search."""
    return [row for row in rows if row["method"].startswith(f"{GRID}: ")]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=[ORACLE, *METHODS], default=[ORACLE, *METHODS])
    parser.add_argument("--seeds", type=int, help="number of fresh seeds; not given, each task's own")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--show", action="store_true", help="only print and draw what is there")
    parser.add_argument("--out", type=Path, default=Path("results/regret"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    given = parser.parse_args()
    end = time.perf_counter() + 60 * given.minutes
    if not given.show:
        for name in given.tasks:
            run_task(name, given, lambda: time.perf_counter() > end)
    for problems, figure in ((PROBLEMS, "regret"), (FURTHER, "regret-further"), (HARD, "regret-hard")):
        show(problems, given.out, given.figures / f"{figure}.png")
    for name, reason in MISSING.items():
        print(f"{name} is missing: {reason}")


if __name__ == "__main__":
    main()
