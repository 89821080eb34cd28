"""The regret benchmark: what its rows mean together, and that a peer's schedule is the peer's."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from superconv.recipe import Recipe
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import regret
from regret_further import FURTHER
from regret_hard import HARD
from regret_methods import METHODS, MISSING, Averaged, found_by, grid
from regret_summary import ORACLE, Standing, mean_ranks, oracle, pooled, standings, top_settings
from regret_tasks import PROBLEMS, half_digits


def row(method: str, seed: int, test: float, validation: float, loss: float | None = 0.5, search: int = 0) -> dict:
    scores = {"test": test, "validation_accuracy": validation, "validation_loss": loss}
    return {"method": method, "seed": seed, "steps": 1000, "search_updates": search, **scores}


GRID = [
    row("grid: a", 1000, 0.0, 0.9, 0.5),
    row("grid: b", 1000, 0.0, 0.9, 0.4),
    row("grid: broken", 1000, 0.0, 0.95, None),
    row("grid: c", 1000, 0.0, 0.8),
    row("grid: d", 1000, 0.0, 0.7),
]
AGAIN = [
    *(row("oracle: a", seed, 0.90, 0.7) for seed in (0, 1)),
    *(row("oracle: b", seed, 0.80 + 0.02 * seed, 0.8) for seed in (0, 1)),
]


def test_the_oracle_is_chosen_on_validation_alone():
    assert top_settings(GRID) == ["b", "a", "c"]
    name, rows = oracle(GRID + AGAIN)
    assert name == "b"
    assert [r["test"] for r in rows] == pytest.approx([0.80, 0.82])


def test_rows_of_another_problem_are_not_gone_on_with(tmp_path):
    (tmp_path / "digits.json").write_text(json.dumps({"epochs": 99, "rows": [GRID[0]]}))
    given = argparse.Namespace(out=tmp_path, methods=[ORACLE], seeds=1)
    with pytest.raises(SystemExit, match="epochs"):
        regret.run_task("digits", given, lambda: True)


def test_regret_is_paired_by_seed_and_in_points_or_per_cent():
    own = [row("own", 1, 0.81, 0.8, search=300), row("own", 0, 0.80, 0.8, search=100), row("own", 2, 0.1, 0.1)]
    found = standings([*GRID, *AGAIN, *own], higher_is_better=True)
    assert set(found) == {ORACLE, "own"}
    assert found["own"].regrets == pytest.approx((1.0, 0.0))
    assert (found["own"].search, found["own"].within) == (0.3, True)
    assert not standings([*AGAIN, row("own", 0, 0.8, 0.8, search=301)], higher_is_better=True)["own"].within
    losses = standings([*AGAIN, *own], higher_is_better=False)
    assert losses["own"].regrets == pytest.approx((-1 / 0.81, 0.0))


def test_without_an_oracle_there_are_scores_but_no_regrets():
    found = standings([*GRID, row("own", 0, 0.8, 0.8)], higher_is_better=True)
    assert list(found) == ["own"]
    assert (found["own"].scores, found["own"].regrets) == ((80.0,), ())


def test_ranks_count_methods_that_ran_everywhere():
    def task(**regrets: float) -> dict[str, Standing]:
        made = {m: Standing(scores=(r,), regrets=(r,), search=0, within=True) for m, r in regrets.items()}
        return made | {ORACLE: Standing(scores=(0,), regrets=(), search=0, within=False)}

    assert mean_ranks([task(a=0, b=1, c=2), task(a=3, b=3)]) == {"a": 1.25, "b": 1.75}


def test_the_interval_over_tasks_comes_from_the_spread_within_them():
    mean, low, high = pooled([(0.0, 2.0), (10.0, 12.0)])
    assert mean == 6.0
    assert (mean - low, high - mean) == pytest.approx((4.303 * 0.5**0.5,) * 2, rel=1e-3)  # of two degrees of freedom
    assert pooled([(1.0, 1.0), (3.0, 3.0)]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("superconv", ""),
        ("Lightning lr_find + OneCycleLR", "Lightning"),
        ("pytorch-lr-finder + OneCycleLR", "pytorch-lr-finder"),
        ("AdamW 1e-3, cosine", ""),
        ("SGD 0.1, cosine", ""),
        ("schedule-free AdamW", "schedule-free"),
        ("Prodigy", "Prodigy"),
    ],
)
def test_every_method_trains_the_same_length(name, package, tmp_path, monkeypatch):
    if package in MISSING:
        pytest.skip(f"{package} is missing (extra bench): {MISSING[package]}")
    monkeypatch.chdir(tmp_path)  # Lightning leaves a checkpoint while it works
    problem = replace(PROBLEMS["half-digits"], epochs=0.5)
    plan = ExecutionPlan.choose(device="cpu", plan=problem.plan)
    task, ready = half_digits(), []
    made = regret.measure(problem, name, 0, lambda: ready.append(METHODS[name](problem, task, 0, plan)) or ready[0])
    batch = ready[0].recipe.batch_size
    assert abs(made["steps"] * batch - 0.5 * len(task.train)) < batch
    assert 0 < made["test"] < 10
    assert [type(hook) for hook in ready[0].hooks] == ([Averaged] if name == "schedule-free AdamW" else [])


def test_a_finders_rate_is_trained_with_torchs_one_cycle():
    problem, task = PROBLEMS["half-digits"], half_digits()
    recipe = found_by(lambda *_: 0.5)(problem, task, 0, ExecutionPlan()).recipe
    rates, momenta = recipe.learning_rate(), recipe.momentum_schedule()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5, momentum=0.9)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=recipe.steps)
    for step in range(recipe.steps):
        group = optimizer.param_groups[0]
        assert rates(step) == pytest.approx(group["lr"], abs=0.5 / 200)
        assert momenta(step) == pytest.approx(group["momentum"], abs=0.001)
        optimizer.step()
        torchs.step()


def test_the_grid_is_that_of_the_issue():
    recipes = grid(PROBLEMS["half-digits"], half_digits())
    assert len(recipes) == len(set(map(repr, recipes.values()))) == 5 * 3 * 3
    assert {r.schedule for r in recipes.values()} == {"one_cycle", "cosine", "piecewise"}
    assert {r.steps for r in recipes.values()} == {round(30 * 1293 / 32)}


@pytest.mark.parametrize("name", FURTHER | HARD)
def test_further_tasks_learn_something_in_a_few_updates(name):
    """Less loss after some updates at a rate from the middle of their grid than after one at next to nothing."""
    problem, steps = (FURTHER | HARD)[name], 60 if name in FURTHER else 200
    task, plan = replace(problem.make(), test=None), ExecutionPlan.choose(device="cpu", plan=problem.plan)
    options = {"batch_size": problem.batch_size, "optimizer": problem.optimizer, "optimizer_args": {}}
    losses = [
        train(task, Recipe(steps=steps, max_lr=rate, **options), plan=plan, evaluations=0).scores["validation_loss"]
        for rate in (1e-9, problem.rates[2])
    ]
    assert losses[1] < 0.99 * losses[0]
