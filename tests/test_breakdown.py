"""When a sweep ends early, and when it must not."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from range_loops import plain, sweep

from superconv.rates.range_test import RangeTest
from superconv.rates.stopping import Breakdown


def test_a_loss_that_is_not_finite_ends_the_sweep_even_without_stops():
    # B8: `nan > x` is False, so pytorch-lr-finder never stops
    for bad in (math.nan, math.inf, -math.inf):
        test = sweep(RangeTest(*plain(), max_lr=1.0, steps=20, stop=False), lambda i, bad=bad: bad if i == 4 else 1.0)
        assert len(test.curve.lr) == 5
        assert test.curve.stopped[0][0] == 0
        assert test.curve.stopped[0][1].startswith("non-finite")


def test_a_loss_that_is_not_finite_ends_the_sweep_when_the_scaler_skips_for_ever():
    model, optimizer = plain()
    with RangeTest(model, optimizer, max_lr=1.0, steps=20) as test:
        for i, _ in enumerate(test.iterate([0])):
            if i < 3:
                optimizer.step()
            test.record(1.0 if i < 3 else math.nan)
    assert len(test.curve.lr) == 3
    assert "non-finite" in test.stopped


def falling_then_rising(start: float, best: float, end: float) -> Callable[[int], float]:
    return lambda i: start + (best - start) * i / 20 if i < 20 else best + (end - best) * (i - 20) / 20


@pytest.mark.parametrize(
    ("start", "best", "end", "stops"),
    [
        (2.3, 1.0, 9.0, True),
        (2.3, 1.0, 2.6, False),
        (2.3, 1e-5, 0.5, False),  # five times the best, and still learned
        (2.3, 2.3, 12.0, True),  # nothing learned, and blown up
        (-1.0, -5.0, -1.0, False),  # Lightning stopped at the second step of a negative loss (B7)
        (-1.0, -5.0, 40.0, True),
        (0.5, -0.5, 0.5, False),
        (0.5, -0.5, 9.0, True),
    ],
)
def test_blow_up_knows_no_sign(start: float, best: float, end: float, stops: bool):
    losses = falling_then_rising(start, best, end)
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=40), losses)
    assert (test.stopped is not None) is stops
    assert (test.curve.stopped != ()) is stops
    if stops:
        assert "blow-up" in test.stopped
        assert 20 < len(test.curve.lr) < 40
    assert sweep(RangeTest(*plain(), max_lr=1.0, steps=40, stop=False), losses).stopped is None


def test_single_spikes_are_no_blow_up():
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=40), lambda i: 1e6 if i in (7, 20, 21) else 2.0)
    assert test.stopped is None


def test_the_first_points_count_in_full_after_earlier_training():
    # B7: Lightning debiased with the trainer's global step: its first point was halved, and it stopped at once
    model, optimizer = plain()
    for _ in range(50):
        optimizer.step()
    test = sweep(RangeTest(model, optimizer, max_lr=1.0, steps=30), lambda i: 2.3)
    assert test.curve.train_loss == (2.3,) * 30
    assert test.stopped is None


def accuracy(i: int) -> float:
    """Rises to 0.8 with the author's jumps, and falls at 60."""
    noise = 0.03 * ((i * 7919) % 13 - 6) / 6
    return min(0.8, 0.1 + i / 40) + noise - (0.15 if i % 9 == 4 else 0.0) if i < 60 else 0.1 + noise


def test_a_collapse_of_the_accuracy_ends_the_sweep():
    test = sweep(RangeTest(*plain(), max_lr=1.0, steps=100), metric=accuracy)
    assert "collapse" in test.stopped
    assert 60 < len(test.curve.lr) < 70


def test_a_metric_that_falls_when_better_collapses_upwards():
    error = RangeTest(*plain(), max_lr=1.0, steps=100, metric="error", higher_is_better=False)
    assert "collapse" in sweep(error, metric=lambda i: 1 - accuracy(i)).stopped
    assert error.curve.higher_is_better is False


def test_neither_jumps_nor_noise_at_chance_are_a_collapse():
    calm = sweep(RangeTest(*plain(), max_lr=1.0, steps=100), metric=lambda i: accuracy(i % 60) if i < 60 else 0.6)
    assert calm.stopped is None
    generator = np.random.default_rng(0)
    for _ in range(20):
        watch = Breakdown(4.0, window=5)
        assert not any(watch.seen(2.3, value) for value in generator.normal(0.1, 0.03, 200))


def test_a_collapse_is_looked_for_in_the_evaluations():
    values = [accuracy(3 * i) for i in range(40)]
    found = iter(values)
    test = RangeTest(*plain(), max_lr=1.0, steps=80, evaluate=lambda: next(found), evaluate_every=2)
    sweep(test, metric=lambda i: 0.9)
    assert "collapse" in test.stopped
    assert 40 < len(test.curve.lr) < 60
