"""The recipe that follows from sweeps and short cycles."""

import time
from dataclasses import replace
from math import exp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN, Quadratic, quadratic, recipe
from torch import nn

from superconv.errors import UserError
from superconv.rates.agreement import compare_estimate
from superconv.rates.curve import Curve
from superconv.rates.verdict import Verdict, judge
from superconv.recipe import Recipe
from superconv.search import pace as pace_module
from superconv.search import recipe as tuner
from superconv.search.decay import balanced_decay
from superconv.search.pace import Pace, measure_pace
from superconv.search.peak import PeakSearch
from superconv.search.recipe import _judged, budget, find_recipe
from superconv.search.settle import Value, settle
from superconv.specs.choices import Choices
from superconv.studies.fit import fit
from superconv.training import sweep as sweeps
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.sweep import sweep_rates


def test_a_network_that_nothing_trains_is_said_in_one_line():
    def never(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.sum() * torch.nan

    with pytest.raises(UserError, match="nothing that was tried trained quadratic"):
        find_recipe(replace(quadratic(), loss=never), Choices(steps=50), plan=PLAN)


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Quadratic(), Quadratic()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.first(inputs) + self.second(inputs)


def two_optimizers(model, recipe):
    return [torch.optim.AdamW(model.first.parameters(), lr=1e-3), torch.optim.SGD(model.second.parameters(), lr=1e-1)]


class Rates(Hook):
    """The rate of every optimizer right before its steps."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_start(self, trainer) -> None:
        self.seen = [[] for _ in trainer.optimizers]
        for own, optimizer in zip(self.seen, trainer.optimizers, strict=True):
            optimizer.optimizer.register_step_pre_hook(lambda o, *_, own=own: own.append(o.param_groups[0]["lr"]))


@pytest.mark.parametrize("run", [train, sweep_rates])
def test_several_optimizers_keep_their_ratio(run):
    rates = Rates()
    run(replace(quadratic(), model=Halves, optimizer=two_optimizers), recipe(max_lr=0.01), plan=PLAN, hooks=[rates])
    first, second = rates.seen
    assert second == pytest.approx([100 * rate for rate in first])
    assert len(set(first)) > 5


def test_the_optimizers_themselves_say_which_rules_hold():
    heavy = quadratic().traits(recipe())
    assert (heavy.heavy_ball, heavy.momentum, heavy.decoupled) == (True, True, False)
    own = replace(quadratic(), optimizer=lambda model, recipe: torch.optim.AdamW(model.parameters()))
    assert (own.traits(recipe()).heavy_ball, own.traits(recipe()).decoupled) == (False, True)
    found = find_recipe(own, Choices(steps=50), plan=PLAN)
    assert 1e-2 <= found.recipe.weight_decay <= 1e-1
    several = replace(quadratic(), model=Halves, optimizer=two_optimizers).traits(recipe())
    assert (several.heavy_ball, several.decoupled) == (False, False)


@pytest.mark.parametrize(
    ("optimizer", "args", "low", "high"),
    [
        ("AdamW", {}, 1e-2, 1e-1),
        ("Adam", {"decoupled_weight_decay": True}, 1e-2, 1e-1),
        ("Adam", {}, 0.0, 0.0),
        ("Adagrad", {}, 0.0, 0.0),
        ("RMSprop", {}, 0.0, 0.0),
        ("ASGD", {}, 1e-3, 1e-2),
    ],
)
def test_decay_is_chosen_only_where_a_rule_holds(optimizer, args, low, high):
    adaptive = recipe(steps=1000, max_lr=0.1, momentum=0.95, optimizer=optimizer, optimizer_args=args)
    decay, reason = balanced_decay(adaptive, 32_000)
    assert low <= decay <= high
    assert ("normalises" in reason) == (decay == 0)


def test_asgd_which_has_no_momentum_trains_and_is_not_divided_by_it():
    plain = recipe(steps=1000, max_lr=0.1, momentum=0.0)
    asgd = replace(plain, optimizer="ASGD", momentum=0.95, min_momentum=0.85)
    assert balanced_decay(asgd, 32_000)[0] == balanced_decay(plain, 32_000)[0]
    assert train(quadratic(), replace(asgd, steps=50), plan=PLAN).stopped is None


def test_what_is_given_is_not_searched():
    found = find_recipe(quadratic(), Choices(steps=50, max_lr=0.3, weight_decay=1e-3, batch_size=64), plan=PLAN)
    assert (found.search, found.peak) == (None, None)
    assert (found.recipe.max_lr, found.recipe.weight_decay, found.recipe.batch_size) == (0.3, 1e-3, 64)
    assert {found.recipe.reasons[k] for k in ("max_lr", "weight_decay", "batch_size")} == {"given"}


class Counter(Hook):
    updates = 0

    def on_update(self, trainer) -> None:
        self.updates += 1


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("steps", [60, 2000, 6000])
def test_the_search_stays_within_its_budget_and_gives_its_reasons(monkeypatch, steps, seeds):
    """Where only the exploring sweep shows an edge, so that the linear one is made again if the budget is large."""

    def edgeless(curve):
        return replace(judge(curve), lr_max=0.1, lr_edge=0.1 if curve.max_lr == sweeps.EXPLORED[1] else None)

    monkeypatch.setattr(sweeps, "judge", edgeless)
    counter = Counter()
    choices = Choices(steps=steps, sweep_seeds=seeds)
    found = find_recipe(quadratic(), choices, plan=PLAN, hooks=[counter])
    assert found.peak.updates + found.search.updates == counter.updates <= budget(steps)
    if (steps, seeds) == (6000, 1):
        assert found.search.updates == sweeps.EXPLORING + 2 * 300
    assert {"max_lr", "weight_decay", "batch_size", "steps"} <= found.recipe.reasons.keys()


@pytest.mark.parametrize(
    ("unit", "steps"), [(1e-5, 100), (1.0, 100), (1e5, 100), (1e-9, 2000), (1e-5, 2000), (1e5, 2000), (1e9, 2000)]
)
def test_the_unit_of_the_loss_moves_the_peak_and_nothing_else(unit, steps):
    """Plain SGD's steps grow with the loss, so its rates shrink with it."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return unit * F.mse_loss(output, target)

    counter, choices = Counter(), Choices(steps=steps, weight_decay=0.0)
    found = find_recipe(replace(quadratic(), loss=loss), choices, plan=PLAN, hooks=[counter])
    assert 0.03 < found.recipe.max_lr * unit < 10
    swept = (found.search.exploration or found.search.curve).lr
    assert min(swept) / 2 < found.recipe.max_lr < max(swept)
    assert counter.updates <= budget(steps)


def test_the_share_of_the_search_is_the_users():
    found = find_recipe(quadratic(), Choices(steps=2000, search=0.15), plan=PLAN)
    assert 200 < found.peak.updates + found.search.updates <= 300
    with pytest.raises(UserError, match="search"):
        find_recipe(quadratic(), Choices(search=-1), plan=PLAN)


@pytest.mark.parametrize("preset", ["paper", "record"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 15])
def test_runs_of_a_few_updates_have_a_recipe(steps, preset):
    settled, _ = settle(quadratic(), Choices(preset=preset, steps=steps, batch_size=32))
    made = settled.at(0.3)
    rate = made.learning_rate()
    assert max(map(rate, range(steps))) == 0.3
    assert made.reasons.keys() - {"batch_size", "momentum", "steps"} <= {"annihilation", "schedule"}


def test_one_epoch_of_a_tiny_set_is_searched_and_trained(tmp_path):
    numbers = fit(quadratic(270), tmp_path, epochs=1, plan=PLAN).numbers
    assert (numbers["steps"], numbers["stopped"]) == (8, None)
    assert "8 updates" in Recipe.load(tmp_path / "recipe.yaml").reasons["annihilation"]


def test_what_makes_no_recipe_is_said_before_the_search():
    for wrong in ({"steps": 0}, {"steps": 50, "batch_size": 32, "accumulate": 3}, {"epochs": 1, "steps": 5}):
        with pytest.raises(UserError):
            settle(quadratic(), Choices(**wrong))


def test_nothing_is_chosen_on_the_test_split():
    watched = replace(quadratic(), watched=True)
    with pytest.raises(UserError, match="--watch-test"):
        find_recipe(watched, Choices(steps=50), plan=PLAN)
    assert find_recipe(watched, Choices(steps=50, max_lr=0.1), plan=PLAN).recipe.max_lr == 0.1


def test_the_pace_is_that_of_later_updates(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow_at_first(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        clock[0] += 0.05 if len(calls) <= 3 else 0.001
        return F.mse_loss(output, target)

    pace = measure_pace(replace(quadratic(), loss=slow_at_first), recipe(), PLAN, evaluations=10)
    assert pace.update == pytest.approx(0.001)
    assert pace.start == pytest.approx(0.05)
    readings = 11 * 512 / 3 / 32
    assert pace.updates(pace.start + 500 * pace.update, PLAN) == pytest.approx(500 - readings, abs=1)


def test_a_few_minutes_are_not_eaten_by_the_search():
    def slow(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        time.sleep(0.005)
        return F.mse_loss(output, target)

    found = find_recipe(replace(quadratic(), loss=slow), Choices(minutes=0.02), plan=PLAN)
    assert found.peak.updates + found.search.updates <= 110
    assert found.recipe.reasons["steps"].startswith("what fits into 0.02 minutes")


def test_a_training_of_minutes_has_what_the_search_left(monkeypatch):
    monkeypatch.setattr(tuner, "measure_pace", lambda *_, **__: Pace(start=0.0, update=0.01, readings=0.0))

    def slow(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        time.sleep(0.005)
        return F.mse_loss(output, target)

    found = find_recipe(replace(quadratic(), loss=slow), Choices(minutes=0.05), plan=PLAN)
    searched = found.search.updates + found.peak.updates
    assert searched > 50
    assert found.recipe.steps <= 300 - 0.5 * searched


@pytest.mark.parametrize(("estimate", "taken"), [(0.1, 0.1), (0.9, 0.3)])
def test_of_both_methods_the_lesser_rate_is_taken(estimate, taken):
    agreement = compare_estimate(Verdict("likely", 0.01, 1.0, None, 100.0, 1.0, ""), [0.1], [estimate])
    search = SimpleNamespace(agreement=agreement)
    peak = PeakSearch(max_lr=0.3, probes=(), reason="short cycles")
    assert _judged(quadratic(), search, peak, Choices(max_lr_from="both")).value == taken
    assert _judged(quadratic(), search, peak, Choices()).value == 0.3


def test_a_resumed_fit_knows_what_its_search_took(tmp_path):
    first = fit(quadratic(), tmp_path, steps=30, plan=PLAN).numbers
    (tmp_path / "run.json").unlink()
    assert fit(quadratic(), tmp_path, steps=30, plan=PLAN).numbers["search_seconds"] == first["search_seconds"] > 0


def test_what_is_not_searched_has_its_reasons_too():
    dropping = replace(quadratic(300), model=lambda: nn.Sequential(Quadratic(), nn.Dropout(0.2)))
    reasons = find_recipe(dropping, Choices(steps=50, max_lr=0.1), plan=PLAN).recipe.reasons
    assert "least" in reasons["batch_size"]
    assert reasons["momentum"] == "preset paper: against the rate"
    assert reasons["dropout"] == "5.33 epochs at large rates have no use for the network's 0.2"
    assert find_recipe(dropping, Choices(max_lr=0.1, momentum=0.9), plan=PLAN).recipe.reasons["momentum"] == "given"
    plain = find_recipe(dropping, Choices(max_lr=0.1, optimizer="Adagrad"), plan=PLAN)
    assert plain.recipe.reasons["momentum"] == "not used by Adagrad"


def test_dropout_is_what_the_epochs_leave_room_for():
    dropping = replace(quadratic(320), model=lambda: nn.Sequential(Quadratic(), nn.Dropout(0.2), nn.Dropout(0.1)))
    recipes = [
        find_recipe(dropping, Choices(batch_size=32, max_lr=0.1, epochs=epochs), plan=PLAN).recipe for epochs in (4, 40)
    ]
    assert [recipe.dropout for recipe in recipes] == [0.1, 0.2]
    assert recipes[1].reasons["dropout"] == "as the network has it"
    probed = find_recipe(dropping, Choices(batch_size=32, epochs=4, optimizer="AdamW"), plan=PLAN)
    assert probed.recipe.dropout == 0.1
    pinned = find_recipe(dropping, Choices(max_lr=0.1, epochs=4, dropout=0.15), plan=PLAN).recipe
    assert (pinned.dropout, pinned.reasons["dropout"]) == (0.15, "given")
    without = find_recipe(quadratic(320), Choices(max_lr=0.1, epochs=4), plan=PLAN).recipe
    assert without.dropout is None
    assert "dropout" not in without.reasons
    unused = find_recipe(quadratic(320), Choices(max_lr=0.1, epochs=4, dropout=0.3), plan=PLAN).recipe
    assert unused.reasons["dropout"].endswith("no layers of it")


def test_automatic_batches_divide_among_processes_and_parts(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert settle(quadratic(10_000), Choices())[0].look.batch_size == 255
    assert settle(quadratic(), Choices(accumulate=2))[0].look.batch_size == 30


def test_a_recipe_file_settles_what_it_has(tmp_path):
    path = tmp_path / "recipe.yaml"
    whole = Recipe.preset("record", steps=77, batch_size=16, max_lr=0.123456, weight_decay=3e-4, clip_norm=1.0)
    path.write_text(whole.to_yaml())
    again = find_recipe(quadratic(), Choices(recipe_file=str(path)), plan=PLAN)
    assert again.search is None
    assert replace(again.recipe, reasons={}) == whole
    longer = find_recipe(quadratic(), Choices(epochs=4, max_lr=0.5, recipe_file=str(path)), plan=PLAN).recipe
    assert (longer.steps, longer.max_lr, longer.batch_size, longer.clip_norm) == (128, 0.5, 16, 1.0)
    assert longer.learning_rate()(0) == pytest.approx(0.1)
    path.write_text("weight_decay: 1e-3\nwarmup: 0.3\n")
    part = find_recipe(quadratic(), Choices(steps=60, recipe_file=str(path)), plan=PLAN)
    assert part.search is not None
    assert (part.recipe.weight_decay, part.recipe.warmup, part.recipe.steps) == (1e-3, 0.3, 60)
    path.write_text("schedule: cosine\noptimizer: AdamW\naccumulate: 2\n")
    given = settle(quadratic(), Choices(recipe_file=str(path), schedule="one_cycle", optimizer="SGD", accumulate=1))[
        0
    ].look
    assert (given.schedule, given.optimizer, given.accumulate) == ("one_cycle", "SGD", 1)
    left = settle(quadratic(), Choices(recipe_file=str(path)))[0].look
    assert (left.schedule, left.optimizer, left.accumulate) == ("cosine", "AdamW", 2)
    path.write_text("min_momentum: null\n")
    assert settle(quadratic(), Choices(recipe_file=str(path)))[0].look.min_momentum is None
    assert settle(quadratic(), Choices())[0].look.min_momentum == 0.85
    path.write_text("weight_decoy: 1e-3\n")
    with pytest.raises(UserError, match="weight_decoy"):
        settle(quadratic(), Choices(recipe_file=str(path)))


def test_a_few_epochs_are_cut_into_smaller_batches():
    task = quadratic(40_000)
    assert settle(task, Choices(epochs=1))[0].look.batch_size == 32
    assert settle(task, Choices(epochs=20))[0].look.batch_size == 256
    assert settle(task, Choices(epochs=1, batch_size=200))[0].look.batch_size == 200


def test_decay_falls_as_rate_length_and_momentum_grow():
    base = recipe(steps=1000, max_lr=0.1, momentum=0.9)
    decay, reason = balanced_decay(base, 32_000)
    travelled = sum(map(base.learning_rate(), range(1000))) / (1 - 0.9)
    assert decay == pytest.approx(0.25 / travelled, rel=0.02)
    assert f"{1 - exp(-decay * travelled):.0%}" in reason
    assert balanced_decay(replace(base, max_lr=1.0), 32_000)[0] == pytest.approx(decay / 10, rel=0.05)
    assert balanced_decay(replace(base, momentum=0.0), 32_000)[0] == pytest.approx(10 * decay, rel=0.05)
    assert balanced_decay(base, 8_000)[0] == pytest.approx(2 * decay, rel=0.05)
    assert balanced_decay(replace(base, optimizer="AdamW", max_lr=1e-3), 32_000)[0] == 0.1


@pytest.mark.parametrize(
    ("losses", "where"),
    [
        (lambda lr: np.where(lr > 1e-4, 1.0 + 1e4 * lr, 1.0), -1),  # too large at once, and always finite
        (lambda lr: np.ones(50), 1),  # nothing happens, without any noise
        (lambda lr: 1 - 0.05 * lr, 1),  # learning has only begun at the end
        (lambda lr: np.where(lr > 1, 5.0, 1 - 0.8 * np.minimum(1, lr / 1e-2)), 0),
        (lambda lr: 1 - 0.8 * np.minimum(1, lr / 1e-2), 0),  # on its plateau to the end
        (lambda lr: np.where((lr > 0.1) & (lr < 1), 2.5, 1.0), 0),  # too large, and then dead at the level of chance
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_sweep_says_where_the_rates_lie(losses, where, noise):
    lr = np.geomspace(1e-5, 10, 50)
    loss = losses(lr) * (1 + noise * np.random.default_rng(0).standard_normal(50))
    none, rows = (None,) * 50, (0,) * 50
    curve = Curve(tuple(lr), tuple(range(50)), rows, tuple(map(float, loss)), none, none, none)
    assert sweeps._elsewhere(curve, 1e-5, 10.0) == where


def test_a_recipe_file_is_read_once(tmp_path, monkeypatch):
    path, read = tmp_path / "recipe.yaml", []
    path.write_text("weight_decay: 1e-3\n")
    monkeypatch.setattr(Recipe, "load_part", classmethod(lambda cls, path: read.append(path) or {"weight_decay": 1e-3}))
    result = fit(quadratic(), tmp_path / "run", steps=60, recipe_file=str(path), plan=PLAN, progress=False)
    assert result.recipe.weight_decay == 1e-3
    assert read == [path]


def test_every_settled_value_says_where_it_comes_from(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("clip_norm: 1.0\n")
    settled, traits = settle(quadratic(), Choices(steps=60, momentum=0.8, recipe_file=str(path)))
    found = {name: settled.origin(name) for name in ("steps", "momentum", "min_momentum", "clip_norm", "batch_size")}
    assert set(found.values()) == {"given", "law"}
    assert (found["batch_size"], settled.origin("schedule"), settled.searched) == ("law", "preset", True)
    given = settled.having(max_lr=Value(value=0.1, origin="searched", reason="short cycles"))
    assert (given.origin("max_lr"), given.searched, given.recipe(traits).max_lr) == ("searched", False, 0.1)
