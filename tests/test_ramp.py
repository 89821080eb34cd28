"""The policy of the watched ramp, on made curves."""

import json
from dataclasses import replace
from itertools import pairwise
from math import exp, inf, nan

import numpy as np
import pytest

from superconv.rates.laws import RampLaw
from superconv.rates.ramp import advance, begin, momentum_share, replay
from superconv.rates.watch import Plan, Watch, from_dict, to_dict

SGD = Plan(updates=1000, start_lr=1e-4, top_lr=100.0, fallback_lr=0.1, heavy_ball=True, probed=False)
ADAM = replace(SGD, start_lr=1e-5, top_lr=0.1, fallback_lr=1e-3, heavy_ball=False, probed=True)


def valley(lr: float, *, best: float) -> float:
    """A loss that falls while the rate rises to `best`, and rises steeply after it."""
    return 2.0 - 1.5 * min(1.0, lr / best) + (0.0 if lr < best else 5.0 * (lr / best - 1))


def ramped(plan: Plan, loss, *, noise: float = 0.0, seed: int = 0):
    """The state after the ramp, with its event and the number of updates."""
    watch, draw = begin(plan, probe=loss(0.0) if plan.by_probe else None), np.random.default_rng(seed)
    for _ in range(plan.updates):
        level = loss(watch.lr)
        noisy = level + noise * draw.standard_normal()
        decision = advance(plan, watch, noisy, level if plan.by_probe else None)
        watch = decision.watch
        if decision.action == "back":
            return watch, decision
    raise AssertionError("the ramp never ended")


@pytest.mark.parametrize("best", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_peak_of_sgd_is_a_share_of_the_rate_at_the_lowest_smoothed_loss(best, noise):
    watch, decision = ramped(SGD, lambda lr: valley(lr, best=best), noise=noise)
    assert 0.3 * best < watch.peak < 1.5 * best
    assert 0 < watch.kept[0][1] <= watch.peak  # the rise begins from a network that has seen no rate above it
    assert watch.line == watch.kept[0][0] > 0
    assert f"The peak is {watch.peak:.3g}" in decision.event.reason
    assert watch.made - watch.line < 20  # lost


def test_the_peak_of_an_adaptive_optimizer_is_read_from_the_probe_alone():
    watch, _ = ramped(ADAM, lambda lr: valley(lr, best=3e-3))
    assert watch.peak == pytest.approx(RampLaw().probed * 3e-3, rel=0.25)
    blind, _ = ramped(replace(ADAM, probed=False), lambda lr: valley(lr, best=3e-3))
    assert blind.peak < 0.75 * watch.peak  # err low, as training losses read too high


def test_a_ramp_that_reaches_its_top_says_so_and_takes_the_lowest_loss():
    watch, decision = ramped(ADAM, lambda lr: 2 - lr)
    assert "half the size of the weights" in decision.event.reason
    assert watch.peak <= RampLaw().probed * ADAM.top_lr


def test_where_nothing_is_told_the_rate_of_the_optimizer_is_taken():
    flat, decision = ramped(replace(SGD, updates=200, top_lr=inf), lambda lr: 1.0)
    assert flat.peak == SGD.fallback_lr
    assert "the rate that the optimizer was made with" in decision.event.reason


def test_a_loss_that_only_rises_takes_a_share_of_where_it_rose():
    watch, decision = ramped(SGD, lambda lr: 1.0 if lr < 1.0 else 1.0 + lr)
    assert decision.place == 0
    assert watch.peak < 0.5
    assert "nothing was learned" in decision.event.reason


@pytest.mark.parametrize("broken", [nan, inf])
def test_a_loss_that_is_not_finite_ends_the_ramp(broken):
    watch, decision = ramped(SGD, lambda lr: valley(lr, best=1.0) if lr < 1.0 else broken)
    assert watch.phase == "rise"
    assert "not finite" in decision.event.reason
    assert watch.peak < 1.0


def run(plan: Plan, loss, *, updates: int | None = None):
    """All rates of a run, and its events."""
    watch, rates, events = begin(plan), [], []
    for t in range(updates or plan.updates):
        rates.append(watch.lr)
        decision = advance(plan, watch, loss(t, watch.lr))
        watch = decision.watch
        events += [decision.event] if decision.event else []
    return watch, rates, events


def test_the_cycle_fills_the_run_hits_its_peak_and_ends_at_a_thousandth():
    watch, rates, events = run(SGD, lambda t, lr: 2 * exp(-t / 300) + (0.0 if lr < 1.0 else 50.0))
    ramp = events[0].update
    assert [event.what for event in events] == ["peak"]
    assert max(rates[ramp:]) == pytest.approx(watch.peak)
    assert rates[-1] == pytest.approx(0.001 * watch.peak)
    assert rates[ramp] == pytest.approx(0.1 * watch.peak)
    falling = rates[rates.index(max(rates[ramp:]), ramp) :]
    assert all(a >= b for a, b in pairwise(falling))


def test_a_rise_that_leaves_its_best_behind_is_cut_short():
    def loss(t: int, lr: float) -> float:
        return 2 * exp(-t / 100) + (0.0 if lr < 0.3 else 20.0 if t < 100 else 3 * (lr - 0.3))

    watch, rates, events = run(replace(SGD, law=RampLaw(heavy_ball=3.0)), loss)
    cap = next(event for event in events if event.what == "cap")
    assert "instead of" in cap.reason
    assert rates[cap.update + 1] < 0.3
    assert watch.top == pytest.approx(0.5 * 0.3, rel=0.5)


def test_a_breakdown_goes_back_and_on_at_a_third_of_the_rate():
    _, rates, events = run(SGD, lambda t, lr: nan if t == 500 else 2 * exp(-t / 300) + (0.0 if lr < 1.0 else 50.0))
    breakdown = next(event for event in events if event.what == "breakdown")
    assert breakdown.update == 501
    assert rates[501] == pytest.approx(rates[500] / 3, rel=0.01)


def test_the_state_is_plain_json_and_goes_on_as_if_never_stopped():
    def loss(t: int, lr: float) -> float:
        return 2 * exp(-t / 300) + (0.0 if lr < 1.0 else 50.0)

    watch = begin(SGD)
    for t in range(300):
        again = from_dict(json.loads(json.dumps(to_dict(watch))))
        assert again == watch
        watch = advance(SGD, again, loss(t, watch.lr)).watch
    assert watch == run(SGD, loss, updates=300)[0]


def test_a_stored_ramp_is_replayed():
    losses, watch = [], begin(SGD)
    while watch.phase == "ramp":
        losses.append(valley(watch.lr, best=0.1))
        watch = advance(SGD, watch, losses[-1]).watch
    again, events = replay(SGD, losses)
    assert again == watch
    assert len(events) == 1
    lower, _ = replay(replace(SGD, law=RampLaw(heavy_ball=RampLaw().heavy_ball / 2)), losses)
    assert lower.peak == pytest.approx(watch.peak / 2)


def test_momentum_moves_against_the_rate():
    watch = Watch(phase="rise", peak=1.0, lr=1.0)
    assert momentum_share(SGD, watch) == 1.0
    assert momentum_share(SGD, replace(watch, lr=0.1)) == 0.0
    assert momentum_share(SGD, begin(SGD)) == 0.5
