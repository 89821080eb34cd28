"""Schedules against closed forms, torch's where they are right, and the rates that the author's runs logged."""

import csv
import math
import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superconv.rates import schedules as s

STEPS = st.integers(20, 5000)
RATE = st.floats(1e-6, 100)


@given(steps=STEPS, peak=RATE, warmup=st.floats(0.1, 0.6), annihilation=st.floats(0.1, 0.3))
@pytest.mark.parametrize("anneal", ["linear", "cosine"])
def test_one_cycle_hits_foot_peak_foot_and_floor_on_a_step(steps, peak, warmup, annihilation, anneal):
    lr = s.one_cycle(steps, peak, warmup=warmup, annihilation=annihilation, anneal=anneal)
    values = s.simulate(lr, steps)
    top, foot = round(steps * warmup), round(steps * (1 - annihilation))
    assert values[0] == values[foot] == peak / 10
    assert values[top] == max(values) == peak
    assert values[-1] == min(values) == pytest.approx(peak / 1000, rel=1e-12)
    assert lr(steps) == lr(10 * steps) == values[-1] == pytest.approx(peak / 1000, rel=1e-12)
    assert all(a <= b for a, b in pairwise(values[: top + 1]))
    assert all(a >= b for a, b in pairwise(values[top:]))


def test_one_cycle_is_linear_between():
    lr = s.one_cycle(101, 1.0, base_lr=0.0, final_lr=0.0, warmup=50 / 101, annihilation=0)
    assert s.simulate(lr, 101) == pytest.approx([1 - abs(t - 50) / 50 for t in range(101)], abs=1e-12)


def test_the_imagenet_form():
    lr = s.one_cycle(1000, 1.0, base_lr=0.05, final_lr=0.0005, warmup=0.45, annihilation=0.1)
    assert (lr(0), lr(450), lr(900), lr(999)) == (0.05, 1.0, 0.05, 0.0005)


def test_a_cycle_may_start_at_its_peak():
    lr = s.one_cycle(100, 1.0, warmup=0, annihilation=0.2)
    assert (lr(0), lr(80), lr(99)) == (1.0, 0.1, 0.001)


@given(steps=STEPS)
def test_momentum_mirrors_the_rate_and_stays_up_at_the_end(steps):
    lr, momentum = s.one_cycle(steps, 1.0), s.cyclical_momentum(steps)
    top, foot = round(steps * 0.45), round(steps * 0.9)
    assert momentum(0) == 0.95
    assert momentum(top) == 0.85
    assert all(momentum(t) == 0.95 for t in range(foot, steps + 5))
    for t in range(foot):
        assert (lr(t) - 0.1) / 0.9 == pytest.approx((0.95 - momentum(t)) / 0.1, abs=1e-9)


@given(base=st.floats(0, 1), rise=RATE, step_size=st.integers(1, 500), t=st.integers(0, 5000))
def test_triangular_policies_are_torch_s(base, rise, step_size, t):
    t %= 2000 * step_size  # torch's own triangular2 overflows from cycle 1025 on
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    for mode, policy in (("triangular", s.triangular), ("triangular2", s.triangular2)):
        optimizer = torch.optim.SGD(parameter, lr=1.0)
        scheduler = torch.optim.lr_scheduler.CyclicLR(
            optimizer, base, base + rise, step_size_up=step_size, mode=mode, cycle_momentum=False
        )
        scheduler.last_epoch = t - 1
        optimizer.step()
        scheduler.step()
        expected = scheduler.get_last_lr()[0]
        assert policy(base, base + rise, step_size)(t) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_triangular2_outlives_a_thousand_cycles():
    lr = s.triangular2(0.1, 1.1, 1)
    assert (lr(1), lr(4001)) == (1.1, 0.1)


def test_exp_range_shrinks_with_every_update():
    lr = s.exp_range(0.1, 1.1, 10, gamma=0.99)
    assert (lr(0), lr(10), lr(20)) == pytest.approx((0.1, 0.1 + 0.99**10, 0.1))
    assert lr(30) == pytest.approx(0.1 + 0.99**30)


@given(steps=STEPS, peak=RATE, share=st.floats(0.01, 0.99))
def test_sweeps_end_exactly_and_rise(steps, peak, share):
    line, power = s.linear_range(steps, peak), s.exponential_range(steps, peak, start_lr=peak * share)
    assert (line(0), line(steps - 1), line(steps)) == (0.0, peak, peak)
    assert (power(0), power(steps - 1), power(steps + 7)) == (peak * share, peak, peak)
    assert power(steps // 2) == pytest.approx(peak * share ** (1 - (steps // 2) / (steps - 1)))
    assert all(a < b for a, b in pairwise(s.simulate(line, steps)))


def test_cosine_is_torch_s():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 99, eta_min=0.1)
    lr = s.cosine(100, 2.0, final_lr=0.1)
    for t in range(100):
        assert lr(t) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
    warm = s.cosine(100, 2.0, warmup=0.1)
    assert (warm(0), warm(5), warm(10), warm(99), warm(500)) == (0.0, 1.0, 2.0, 0.0, 0.0)


def test_warmup_stable_decay():
    lr = s.warmup_stable_decay(100, 1.0, warmup=0.1, decay=0.2, final_lr=0.01)
    assert (lr(0), lr(5), lr(10), lr(80), lr(99), lr(100)) == (0.0, 0.5, 1.0, 1.0, 0.01, 0.01)
    assert s.warmup_stable_decay(100, 1.0, warmup=0)(0) == 1.0


def test_linear_is_torch_s():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=99)
    lr = s.linear(100, 2.0, final_lr=0.1)
    for t in range(100):
        assert lr(t) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
    warm = s.linear(100, 2.0, warmup=0.5)
    assert [warm(t) for t in (0, 25, 50, 99, 500)] == [0.0, 1.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(("anneal", "middle"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5)])
def test_warmup_stable_decay_falls_in_three_shapes(anneal, middle):
    lr = s.warmup_stable_decay(101, 1.0, warmup=0.1, decay=21 / 101, anneal=anneal)
    assert [lr(t) for t in (0, 5, 10, 80, 90, 100, 200)] == pytest.approx([0, 0.5, 1, 1, middle, 0, 0])
    assert s.simulate(lr, 101)[80:] == sorted(s.simulate(lr, 101)[80:], reverse=True)
    assert pickle.loads(pickle.dumps(lr))(90) == lr(90)


def test_warmed_up_schedules_rise_from_zero_and_then_are_themselves():
    lr = s.warmed_up(s.piecewise_constant(1.0, [50]), 10)
    assert [lr(t) for t in (0, 5, 10, 49, 50)] == pytest.approx([0, 0.5, 1, 1, 0.1])


def test_join_counts_each_schedule_from_its_own_start():
    lr = s.join([s.linear_range(11, 1.0), s.constant(5.0), s.linear_range(11, 2.0)], [10, 20])
    assert [lr(t) for t in (0, 9, 10, 19, 20, 25, 30, 99)] == pytest.approx([0, 0.9, 5, 5, 0, 1, 2, 2])


@pytest.mark.parametrize(
    "build",
    [
        lambda: s.one_cycle(1, 1.0),
        lambda: s.one_cycle(2, 1.0),
        lambda: s.one_cycle(10, 1.0, warmup=0.01),
        lambda: s.one_cycle(100, 1.0, warmup=0.6, annihilation=0.6),
        lambda: s.one_cycle(100, 1.0, warmup=1.0),
        lambda: s.one_cycle(100, math.inf),
        lambda: s.one_cycle(100, -1.0),
        lambda: s.one_cycle(100, 1.0, anneal="zigzag"),
        lambda: s.cyclical_momentum(100, max_momentum=1.0),
        lambda: s.triangular(0, 1, 0),
        lambda: s.exp_range(0, 1, 10, gamma=1.5),
        lambda: s.linear_range(1, 1.0),
        lambda: s.exponential_range(10, 1.0, start_lr=0.0),
        lambda: s.piecewise_constant(0.1, [50, 20]),
        lambda: s.piecewise_constant(math.nan, [50]),
        lambda: s.cosine(10, 1.0, warmup=0.9),
        lambda: s.warmup_stable_decay(100, 1.0, warmup=0.7, decay=0.5),
        lambda: s.cosine(100, 1.0, warmup=0.001),
        lambda: s.linear(10, 1.0, warmup=-0.1),
        lambda: s.warmed_up(s.constant(1.0), 0),
        lambda: s.warmup_stable_decay(100, 1.0, anneal="zigzag"),
        lambda: s.join([s.constant(1)], [5]),
        lambda: s.join([s.constant(1), s.constant(2)], [0]),
    ],
)
def test_what_makes_no_schedule_is_refused(build):
    with pytest.raises(ValueError, match=r"."):
        build()


def test_an_exponential_sweep_from_zero_says_what_to_do():
    with pytest.raises(ValueError, match="sweep linearly"):
        s.exponential_range(10, 1.0, start_lr=0.0)


def test_every_logged_rate_of_the_author_is_reproduced(shared_logs: Path):
    with (shared_logs / "INDEX.csv").open() as file:
        index = list(csv.DictReader(file))
    assert len(index) >= 30
    compared = 0
    for run in index:
        base, iterations = float(run["base_lr"]), int(run["max_iter"])
        if run["lr_policy"] == "multistep":
            marks = [int(value) for value in run["stepvalues"].split("/")]
            lr = s.piecewise_constant(base, marks, gamma=float(run["gamma"]))
        else:
            lr = s.triangular(base, float(run["max_lr"]), int(run["stepsize"]))
        swept = run["lr_policy"] == "triangular" and base == 0 and int(run["stepsize"]) == iterations
        with (shared_logs / f"{run['name']}.csv").open() as file:
            for row in csv.DictReader(file):
                if row["lr"]:
                    expected = pytest.approx(float(row["lr"]), rel=1e-6, abs=3e-5 if swept else 2e-7)
                    assert lr(int(row["iteration"])) == expected, (run["name"], row["iteration"])
                    compared += 1
    assert compared > 10_000


def test_a_plateau_has_room_for_its_phases_or_is_refused():
    assert s.simulate(s.warmup_stable_decay(10, 1.0, warmup=1.0, decay=0.0), 10)[-1] == 1.0
    for steps, warmup, decay in ((3, 0.5, 0.5), (10, 0.01, 0.2), (10, 0.2, 0.01)):
        with pytest.raises(ValueError, match="too few"):
            s.warmup_stable_decay(steps, 1.0, warmup=warmup, decay=decay)
