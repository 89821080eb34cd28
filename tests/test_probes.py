"""Short cycles under several peaks."""

from copy import deepcopy
from dataclasses import replace
from math import inf, log

import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN, Quadratic, quadratic, recipe
from torch import nn

from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.search import peak as probes
from superconv.search.peak import FARTHEST, search_peak
from superconv.search.probe import Probe
from superconv.search.recipe import find_recipe
from superconv.specs.choices import Choices
from superconv.specs.image_task import ImageTask
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.sweep import sweep_rates
from superconv.training.task import image_task


@pytest.mark.parametrize("start", [0.001, 1.0, 100.0])
def test_the_peak_is_found_from_any_first_guess(start):
    found = search_peak(quadratic(), recipe(), start=start, updates=1000, plan=PLAN)
    losses = [probe.loss for probe in found.probes if probe.loss is not None]
    best = min((p for p in found.probes if p.loss is not None), key=lambda p: p.loss)
    assert 0.1 < best.max_lr < 10
    assert best.max_lr / FARTHEST <= found.max_lr <= FARTHEST * best.max_lr
    assert min(losses) < 0.2


def test_a_probe_that_breaks_down_is_a_result_and_cheap():
    found = search_peak(quadratic(scale=10.0), recipe(), start=100.0, updates=1000, plan=PLAN)
    broken = [probe for probe in found.probes if probe.loss is None]
    assert broken
    assert all(probe.steps < probe.length for probe in broken)
    assert found.max_lr is not None
    assert "broke down" in found.reason


def test_probes_are_deterministic_and_cost_what_they_say():
    options = {"start": 0.5, "updates": 200, "plan": PLAN, "seed": 3}
    first, second = (search_peak(quadratic(), recipe(), **options) for _ in range(2))
    assert first == second
    assert first.updates == sum(probe.steps for probe in first.probes) <= 200


@pytest.mark.parametrize(
    ("left", "power", "optimizer", "layer", "low", "high"),
    [
        (0.9, 0.5, "SGD", nn.BatchNorm1d(4), 2.0, FARTHEST),  # little learned: the best peak grows on
        (0.9, 2.0, "SGD", nn.LayerNorm(4), 1.5, FARTHEST),  # but no faster than is usual
        (0.9, 0.5, "SGD", nn.Identity(), 0.5, 1.0),  # nor without a layer that normalises
        (0.05, 0.5, "SGD", nn.BatchNorm1d(4), 0.4, 1.0),  # all but learned: growth is not believed
        (0.05, 0.0, "SGD", nn.BatchNorm1d(4), 0.5, 1.0),
        (0.05, -0.5, "SGD", nn.BatchNorm1d(4), 0.4, 0.6),  # longer cycles want less, and so does the run
        (0.9, 0.0, "AdamW", nn.Identity(), 0.3, 0.8),  # an adaptive optimizer's falls
        (0.9, 0.0, "AdamW", nn.LayerNorm(4), 1.0, 4.0),  # unless a layer normalises and little is learned
        (0.05, 0.0, "AdamW", nn.LayerNorm(4), 0.3, 0.8),
        (0.05, 0.0, "AdamW", nn.BatchNorm1d(4), 0.9, 1.0),  # nor under batch norm
        (0.8, -0.8, "AdamW", nn.Identity(), 0.25, 0.4),
    ],
)
def test_what_the_best_peak_does_between_two_lengths_is_carried_on(
    monkeypatch, left, power, optimizer, layer, low, high
):
    """Probes whose loss is a parabola about 0.1 · (length / 20) ** power."""

    def probe(task, tried, *, first_loss, **options):
        first_loss[0] = 1.0
        off = log(tried.max_lr / 0.1 / (tried.steps / 20) ** power)
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=tried.steps, loss=left * (1 + 0.3 * off**2))

    monkeypatch.setattr(probes, "probe_cycle", probe)
    task = replace(quadratic(), model=lambda: nn.Sequential(Quadratic(), layer))
    found = search_peak(task, recipe(steps=500, optimizer=optimizer), start=0.1, updates=180, plan=PLAN)
    longest = max(probe.length for probe in found.probes)
    assert 30 < longest < 60
    assert found.updates <= 180
    at_longest = 0.1 * (longest / 20) ** power
    assert low <= found.max_lr / at_longest <= high * 1.0001


def searched(monkeypatch, loss, *, start: float, updates: int = 180, steps: int = 500):
    """Probes whose loss is a function of peak and length; None is a breakdown, seen after eight updates."""

    def probe(task, tried, *, first_loss, **options):
        first_loss[0], found = 1.0, loss(tried.max_lr, tried.steps)
        steps = 8 if found is None else tried.steps
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=steps, loss=found)

    monkeypatch.setattr(probes, "probe_cycle", probe)
    return search_peak(quadratic(), recipe(steps=steps), start=start, updates=updates, plan=PLAN)


def powers(found, length: int = 20) -> list[int]:
    """Peaks of the probes of a length, as whole factors of the least."""
    peaks = [probe.max_lr for probe in found.probes if probe.length == length]
    return [round(log(peak / peaks[0]) / log(probes.FACTOR)) for peak in peaks]


def test_rates_that_are_far_too_small_are_left_in_strides(monkeypatch):
    found = searched(monkeypatch, lambda peak, _: 1 - peak if peak < 0.9 else None, start=1e-5)
    assert powers(found)[:5] == [0, 1, 3, 7, 8]
    assert 0.1 < found.max_lr < 0.9
    assert found.updates <= 180


def test_where_nothing_is_learned_the_largest_rate_that_is_borne_is_best(monkeypatch):
    """Larger rates first change how often each answer is given, and so the loss, by a little."""

    def probe(task, tried, *, first_loss, **options):
        first_loss[0] = 2.3
        loss = None if tried.max_lr > 5 else 2.3 + 0.05 * tried.max_lr**0.1
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=tried.steps, loss=loss)

    monkeypatch.setattr(probes, "probe_cycle", probe)
    found = search_peak(quadratic(), recipe(steps=800), start=0.02, updates=240, plan=PLAN)
    assert 5 / 3 / 3 < found.max_lr < 5


def test_rates_that_are_far_too_large_are_left_in_strides(monkeypatch):
    found = searched(monkeypatch, lambda peak, _: 1 - peak if peak < 0.9 else None, start=1e4)
    assert powers(found) == [0, 1, 2, 4, 8, 10]
    assert 0.1 < found.max_lr < 0.9
    assert found.updates <= 180


def test_where_the_next_peak_breaks_down_the_run_keeps_clear_of_it(monkeypatch):
    found = searched(monkeypatch, lambda peak, _: 1 / (1 + peak) if peak < 0.5 else None, start=0.2)
    best = max(probe.max_lr for probe in found.probes if probe.loss is not None)
    assert found.max_lr == pytest.approx(probes.AT_THE_EDGE * best)
    assert f"{probes.AT_THE_EDGE:g} times that" in found.reason
    whole = searched(monkeypatch, lambda peak, _: 1 / (1 + peak) if peak < 0.5 else None, start=0.2, steps=20)
    assert whole.max_lr == pytest.approx(0.2)


@pytest.mark.parametrize("edge", [0.4, 0.5, 0.7, 0.85])
def test_how_far_the_edge_is_away_is_told_by_longer_probes_closer_together(monkeypatch, edge):
    found = searched(monkeypatch, lambda peak, _: 1 / (1 + peak) if peak < edge else None, start=0.1, updates=250)
    best = max(probe.max_lr for probe in found.probes if probe.loss is not None)
    assert best > edge / probes.FACTOR**0.5
    assert found.max_lr == pytest.approx(probes.AT_THE_EDGE * best)
    assert "tried" not in found.reason


def test_longer_probes_leave_an_edge_that_misled(monkeypatch):
    """Short cycles that like what lies next to the edge of 10, longer ones that like a tenth of it."""

    def loss(peak: float, length: int) -> float | None:
        return None if peak > 10 else 0.5 + 0.01 * log(peak / (5.0 if length == 20 else 0.5)) ** 2

    found = searched(monkeypatch, loss, start=5.0)
    longer = [probe.max_lr for probe in found.probes if probe.length > 20]
    assert min(longer) < 0.6
    assert found.max_lr < 0.6


def test_no_peak_grows_into_what_broke_down(monkeypatch):
    """Batch norm and much left to learn, a best peak of 0.2, and a breakdown from 0.5 on."""

    def probe(task, tried, *, first_loss, **options):
        first_loss[0], off = 1.0, log(tried.max_lr / 0.2)
        loss = None if tried.max_lr > 0.5 else 0.9 + 0.1 * off**2
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=tried.steps, loss=loss)

    monkeypatch.setattr(probes, "probe_cycle", probe)
    task = replace(quadratic(), model=lambda: nn.Sequential(Quadratic(), nn.BatchNorm1d(4)))
    found = search_peak(task, recipe(steps=500), start=0.2, updates=180, plan=PLAN)
    assert found.max_lr == pytest.approx(0.2, rel=0.01)


def test_the_largest_peak_tried_is_not_believed_alone(monkeypatch):
    """Short cycles that like 0.2, longer ones whose loss still falls where the updates end."""

    def loss(peak: float, length: int) -> float:
        return 0.5 + 0.1 * log(peak / 0.2) ** 2 if length == 20 else 0.5 - 0.1 * log(peak)

    found = searched(monkeypatch, loss, start=0.2)
    top = max(probe.max_lr for probe in found.probes if probe.length > 20)
    assert top == pytest.approx(0.6)
    assert found.max_lr == pytest.approx((0.2 * top) ** 0.5)
    assert "no larger one was tried" in found.reason


def growing(monkeypatch, best: float, *, updates: int):
    """Batch norm and much left to learn; the best peak is 0.1 for short cycles and another for longer ones."""

    def probe(task, tried, *, first_loss, **options):
        first_loss[0], off = 1.0, log(tried.max_lr / (0.1 if tried.steps == 20 else best))
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=tried.steps, loss=0.8 + 0.02 * off**2)

    monkeypatch.setattr(probes, "probe_cycle", probe)
    task = replace(quadratic(), model=lambda: nn.Sequential(Quadratic(), nn.BatchNorm1d(4)))
    found = search_peak(task, recipe(steps=200), start=0.1, updates=updates, plan=PLAN)
    return found, [probe.max_lr for probe in found.probes if probe.length > 20]


def test_longer_probes_look_upwards_first_where_the_best_peak_grows(monkeypatch):
    found, longer = growing(monkeypatch, 0.4, updates=180)
    assert longer == pytest.approx([0.1, 0.3, 0.9])
    assert "no larger one was tried" not in found.reason
    assert found.max_lr == pytest.approx(0.4 * (200 / 40) ** 0.6, rel=0.05)


def test_a_peak_that_grows_is_not_lowered_because_none_below_was_tried(monkeypatch):
    found, longer = growing(monkeypatch, 0.1, updates=140)
    assert longer == pytest.approx([0.1, 0.3])
    assert "no smaller one was tried" not in found.reason
    assert found.max_lr == pytest.approx(0.1 * (200 / 40) ** 0.6, rel=0.05)


def test_few_updates_left_make_two_longer_probes(monkeypatch):
    """Short cycles that climb to 1.8 in four probes, longer ones that like 0.1 more."""

    def loss(peak: float, length: int) -> float:
        return 0.5 + 0.1 * log(peak / (1.8 if length == 20 else 0.1)) ** 2

    found = searched(monkeypatch, loss, start=0.6, updates=150)
    longer = [probe.max_lr for probe in found.probes if probe.length > 20]
    assert longer == pytest.approx([0.6, 1.8])
    assert 0.1 < found.max_lr < min(longer) / probes.FACTOR**0.5
    assert "no smaller one was tried" in found.reason
    assert "the best peak went from" in found.reason


def picky(limit: float):
    """A loss that raises where the output is too large, as binary cross-entropy does on NaN."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not output.abs().max() < limit:
            raise ValueError("outputs must be probabilities")
        return F.mse_loss(output, target)

    return loss


def test_an_error_under_too_large_a_rate_is_a_breakdown():
    task = replace(quadratic(), loss=picky(30.0))
    found = find_recipe(task, Choices(steps=50, weight_decay=0.0), plan=PLAN)
    ((_, reason),) = found.search.curve.stopped
    assert reason.startswith("ValueError: outputs must be probabilities at learning rate")
    tried = search_peak(task, recipe(), start=100.0, updates=400, plan=PLAN)
    assert "ValueError: outputs must be probabilities" in [probe.error for probe in tried.probes]
    assert tried.max_lr is not None


@pytest.mark.parametrize(("schedule", "momentum"), [("one_cycle", 0.85), ("cosine", 0.95)])
def test_a_sweep_has_the_momentum_that_the_run_has_at_its_largest_rate(schedule, momentum):
    seen = set()

    class Look(Hook):
        def on_update(self, trainer) -> None:
            seen.add(trainer.momentum)

    whole = Recipe(steps=200, batch_size=32, max_lr=1.0, schedule=schedule)
    sweep_rates(quadratic(), whole, max_lr=0.1, steps=20, plan=PLAN, hooks=[Look()])
    assert seen == {momentum}


def test_a_probe_of_the_curvature_that_breaks_down_ends_the_training():
    class Break(Hook):
        def on_update(self, trainer) -> None:
            if trainer.step == 5:
                trainer.model.module.weight.data.fill_(inf)

    task = replace(quadratic(), loss=picky(inf))  # which NaN and infinity are not below
    run = train(task, recipe(), plan=PLAN, hooks=[Break(), EstimateHook(Estimation(forms={}, probe_every=1))])
    assert (run.stopped, run.steps) == ("diverged", 5)


def test_an_error_of_the_first_update_is_the_users_to_see():
    task = replace(quadratic(), loss=picky(0.0))
    with pytest.raises(ValueError, match=r"^outputs must be probabilities$"):
        find_recipe(task, Choices(steps=50), plan=PLAN)
    with pytest.raises(ValueError, match=r"^outputs must be probabilities$"):
        search_peak(task, recipe(), start=1.0, updates=100, plan=PLAN)


def test_a_network_that_has_learned_already_is_trained_on():
    """Its first loss is next to nothing, of which every batch is a multiple."""
    task = image_task(ImageTask(data="digits", model="mlp"))
    learned = train(task, Recipe(steps=700, batch_size=32, max_lr=0.13), plan=PLAN).model
    again = replace(task, model=lambda: deepcopy(learned))
    for seed in range(3):
        options = {"start": 0.1, "updates": 150, "plan": PLAN, "seed": seed}
        found = search_peak(again, Recipe(steps=300, batch_size=32, max_lr=1.0), **options)
        assert found.max_lr is not None
        assert found.updates <= 150


def test_of_a_loss_that_starts_below_0_no_share_is_left(monkeypatch):
    def probe(task, tried, *, first_loss, **options):
        first_loss[0], off = -1.0, log(tried.max_lr / 0.1)
        return Probe(max_lr=tried.max_lr, length=tried.steps, steps=tried.steps, loss=-2 + 0.1 * off**2)

    monkeypatch.setattr(probes, "probe_cycle", probe)
    task = replace(quadratic(), model=lambda: nn.Sequential(Quadratic(), nn.BatchNorm1d(4)))
    found = search_peak(task, recipe(steps=2000), start=0.1, updates=180, plan=PLAN)
    assert found.max_lr == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(
    "shape",
    [{"annihilation": 0.02}, {"warmup": 0.02}, {"annihilation": 0.0}, {"schedule": "triangular", "warmup": 0.01}],
)
def test_a_cycle_with_short_phases_is_probed_without_them(shape):
    found = find_recipe(quadratic(), Choices(steps=600), plan=PLAN)
    long = recipe(**shape, steps=600, max_lr=found.recipe.max_lr)
    peak = search_peak(quadratic(), long, start=0.5, updates=200, plan=PLAN).max_lr
    assert peak is not None
    assert 0.01 < peak < 100


def test_fp16_that_skips_every_update_ends():
    """The bookkeeping of a fused optimizer whose scaler finds infinities from some update on."""

    def overflowing(after: int):
        def make(model, recipe):
            optimizer, steps = torch.optim.SGD(model.parameters(), lr=0.1), []

            def note(*_):
                steps.append(1)
                optimizer.found_inf = torch.tensor(float(len(steps) > after))

            optimizer.register_step_pre_hook(lambda *_: setattr(optimizer, "found_inf", None))
            optimizer.register_step_post_hook(note)
            return optimizer

        return replace(quadratic(), optimizer=make)

    assert search_peak(overflowing(0), recipe(), start=1.0, updates=100, plan=PLAN).max_lr is None
    assert "skipped" in sweep_rates(overflowing(15), recipe(), plan=PLAN).stopped[0][1]
    with pytest.raises(UserError, match="finite gradients"):
        sweep_rates(overflowing(0), recipe(), plan=PLAN)
    run = train(overflowing(15), recipe(), plan=PLAN)
    assert (run.stopped, run.steps) == ("diverged", 15)


def test_a_preset_keeps_its_shape_under_every_peak_that_is_tried(monkeypatch):
    tried = []

    def probe(task, recipe, *, first_loss, **options):
        tried.append(recipe)
        first_loss[0] = 1.0
        steps = recipe.steps
        return Probe(max_lr=recipe.max_lr, length=steps, steps=steps, loss=1 + abs(log(recipe.max_lr)))

    monkeypatch.setattr(probes, "probe_cycle", probe)
    record = Recipe.preset("record", steps=100, batch_size=32, max_lr=2.0)
    search_peak(quadratic(), record, start=0.1, updates=180, plan=PLAN)
    assert [r.base_lr for r in tried] == pytest.approx([0.2 * r.max_lr for r in tried])
    assert [r.final_lr for r in tried] == pytest.approx([0.07 * r.max_lr for r in tried])


def test_slow_running_statistics_do_not_spoil_a_probe():
    def loss(momentum: float | None) -> float:
        def model() -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(4, momentum=momentum, affine=False), Quadratic())

        found = search_peak(replace(quadratic(scale=5.0), model=model), recipe(), start=0.3, updates=60, plan=PLAN)
        return min(probe.loss for probe in found.probes if probe.loss is not None)

    assert loss(0.001) == pytest.approx(loss(None), rel=0.2)
