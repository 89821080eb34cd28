"""Schedulers as other people's code uses them: steps with losses, copies, pickles, handlers, odd momenta, NumPy."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

from superconv import CyclicalLR, OneCycle, RangeSweep, ScheduledLR
from superconv.rates import schedules


def made(lr: float = 0.1, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr, **{"momentum": 0.9, **options})


@pytest.mark.parametrize("loss", [0.37, 5, torch.tensor(2.0), None])
def test_a_positional_number_is_a_loss_and_no_epoch(loss):
    optimizer = made()
    scheduler = OneCycle(optimizer, max_lr=0.5, total_steps=50)
    optimizer.step()
    scheduler.step(loss)
    assert scheduler.last_epoch == 1
    scheduler.step(epoch=5)
    assert scheduler.last_epoch == 5
    with pytest.raises(TypeError):
        scheduler.step(0.1, 5)


def test_rates_can_be_asked_for_at_any_time_without_moving():
    """As ignite's handler does, which reads `get_lr` and `last_epoch` and steps in a rhythm of its own."""
    optimizer = made()
    scheduler = OneCycle(optimizer, max_lr=0.5, total_steps=50)
    for t in range(50):
        before = optimizer.param_groups[0]["lr"]
        assert scheduler.get_lr() == scheduler.get_lr() == [before] == scheduler.get_last_lr()
        assert scheduler.last_epoch == t
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_goes_on_by_itself(copied):
    optimizer = made()
    scheduler = OneCycle(optimizer, max_lr=0.5, total_steps=50)
    for _ in range(20):
        optimizer.step()
        scheduler.step()
    other = copied(scheduler)
    for _ in range(10):
        scheduler.step()
    for _ in range(10):
        other.step()
    assert other.get_last_lr() == scheduler.get_last_lr()
    assert other.optimizer is not optimizer


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(0.1),
        schedules.one_cycle(100, 0.5, anneal="cosine"),
        schedules.cyclical_momentum(100),
        schedules.exp_range(0.1, 1.0, 10, gamma=0.99),
        schedules.piecewise_constant(0.1, (10, 20)),
        schedules.cosine(100, 0.5, warmup=0.1),
        schedules.join([schedules.constant(0.1), schedules.cosine(50, 1.0)], [50]),
    ],
)
def test_schedules_are_pickled(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(t) for t in range(120)] == [schedule(t) for t in range(120)]


def test_steps_beyond_the_end_are_said_once_and_hold_the_last_rate():
    optimizer = made()
    scheduler = OneCycle(optimizer, max_lr=0.5, total_steps=50)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(100):
            optimizer.step()
            scheduler.step()
    assert ["made for 50 updates" in str(warning.message) for warning in said] == [True]
    assert scheduler.get_last_lr() == [0.0005]


@pytest.mark.parametrize(("momentum", "moved"), [(0.5, False), (0.0, False), (0.9, True), (0.95, True), (0.999, False)])
def test_a_momentum_that_was_chosen_for_a_reason_is_left_alone(momentum, moved):
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    adam = torch.optim.Adam(parameters, lr=1e-3, betas=(momentum, 0.999))
    scheduler = OneCycle(adam, max_lr=1e-2, total_steps=20)
    for _ in range(9):
        adam.step()
        scheduler.step()
    assert (adam.param_groups[0]["betas"][0] != momentum) == moved
    asked = OneCycle(adam, max_lr=1e-2, total_steps=20, momentum=(0.6, 0.4))
    assert adam.param_groups[0]["betas"][0] == 0.6
    assert asked.last_epoch == 0


@pytest.mark.parametrize(
    "scheduled",
    [
        lambda o: OneCycle(o, max_lr=np.logspace(-3, 0, 4)[2], total_steps=np.int64(30), warmup=np.float32(0.5)),
        lambda o: CyclicalLR(o, np.float64(0.1), np.float64(0.5), np.int64(5)),
        lambda o: RangeSweep(o, np.float32(1.0), np.int64(30)),
    ],
)
def test_numpy_s_numbers_do_not_reach_the_optimizer(scheduled):
    optimizer = made()
    scheduler = scheduled(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert type(optimizer.param_groups[0]["lr"]) is float
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["scheduler"]["last_epoch"] == 5


def test_a_rate_that_numpy_gave_the_optimizer_becomes_plain():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=np.float64(0.1), momentum=0.9)
    scheduler = ScheduledLR(optimizer, lambda t: np.float64(0.1) / (t + 1))
    assert {type(value) for value in scheduler.get_lr()} == {float}
    assert not [name for name, value in optimizer.param_groups[0].items() if type(value).__module__ == "numpy"]


def test_asking_for_rates_changes_no_group():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = ScheduledLR(optimizer, lambda t: 1.0 / (t + 1))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.05})
    assert scheduler.get_lr() == [1.0, 0.5]
    assert "initial_lr" not in optimizer.param_groups[1]
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 0.25]


def test_a_part_of_an_update_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match="whole number of updates, not 50"):
        OneCycle(optimizer, 1.0, 50.5)
