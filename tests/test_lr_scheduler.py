"""Schedulers on real optimizers; every fault of torch's OneCycleLR that users met is a test here."""

import copy

import pytest
import torch
from torch import nn

from superconv.rates import schedules
from superconv.rates.lr_scheduler import CyclicalLR, RangeSweep, ScheduledLR
from superconv.rates.one_cycle import OneCycle


def sgd(lr: float | torch.Tensor = 0.1, **options) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], **{"lr": lr, "momentum": 0.9, **options})


def rates(optimizer, scheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.filterwarnings("ignore:OneCycle was made")
def test_it_drives_the_optimizer_by_the_schedule():
    optimizer = sgd()
    seen = rates(optimizer, OneCycle(optimizer, 1.0, 50), 60)
    assert seen == schedules.simulate(schedules.one_cycle(50, 1.0), 60)


def test_it_is_a_torch_scheduler():
    scheduler = OneCycle(sgd(), 1.0, 50)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert scheduler.get_last_lr() == [0.1]


def test_momentum_cycles_against_the_rate():
    optimizer = sgd()
    scheduler = OneCycle(optimizer, 1.0, 20)
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]["momentum"])
        scheduler.step()
    assert seen == schedules.simulate(schedules.cyclical_momentum(20), 20)


def test_torch_fault_momentum_zero_is_silently_cycled():
    optimizer = sgd(momentum=0.0)
    scheduler = OneCycle(optimizer, 1.0, 20)
    for _ in range(20):
        assert optimizer.param_groups[0]["momentum"] == 0.0
        scheduler.step()
    asked = sgd(momentum=0.0)
    OneCycle(asked, 1.0, 20, momentum=(0.95, 0.85))
    assert asked.param_groups[0]["momentum"] == 0.95


def test_momentum_none_leaves_it_alone():
    optimizer = sgd()
    OneCycle(optimizer, 1.0, 20, momentum=None)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_torch_fault_later_betas_are_touched():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=1e-3, betas=(0.9, 0.98))
    scheduler = OneCycle(optimizer, 1.0, 20)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.98)
    for _ in range(9):
        scheduler.step()
    assert optimizer.param_groups[0]["betas"] == (0.85, 0.98)


def test_an_optimizer_without_momentum_is_left_alone_unless_asked():
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.ones(2))], lr=0.1)
    OneCycle(optimizer, 1.0, 20)
    with pytest.raises(ValueError, match="neither momentum nor betas"):
        OneCycle(optimizer, 1.0, 20, momentum=(0.95, 0.85))


def test_torch_fault_groups_added_later_raise_keyerror():
    optimizer = sgd()
    scheduler = OneCycle(optimizer, 1.0, 20)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.01})
    for _ in range(9):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])


def test_torch_fault_the_peak_is_missed_when_the_fraction_falls_between_steps():
    optimizer = sgd()
    assert max(rates(optimizer, OneCycle(optimizer, 1.0, 101, warmup=0.3), 101)) == 1.0


@pytest.mark.filterwarnings("ignore:OneCycle was made")
def test_torch_fault_beyond_the_end_the_rate_goes_negative_or_up_and_then_raises():
    for anneal in ("linear", "cosine"):
        optimizer = sgd()
        seen = rates(optimizer, OneCycle(optimizer, 1.0, 100, anneal=anneal), 150)
        assert set(seen[99:]) == {0.001}


@pytest.mark.parametrize(("steps", "warmup"), [(2, 0.5), (10, 0.1), (10, 0.99), (1, 0.3)])
def test_torch_fault_tiny_schedules_divide_by_zero(steps, warmup):
    with pytest.raises(ValueError, match="updates"):
        schedules.one_cycle(steps, 1.0, warmup=warmup)


def _train(optimizer, scheduler, steps):
    parameter = optimizer.param_groups[0]["params"][0]
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
        scheduler.step()
    return parameter.detach().clone()


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_torch_fault_resume_depends_on_the_order_of_construction(optimizer_first):
    whole = sgd()
    expected = _train(whole, OneCycle(whole, 0.1, 40), 40)
    cut = sgd()
    scheduler = OneCycle(cut, 0.1, 40)
    weights = _train(cut, scheduler, 17)
    saved = copy.deepcopy((cut.state_dict(), scheduler.state_dict()))
    fresh = torch.optim.SGD([nn.Parameter(weights)], lr=0.1, momentum=0.9)
    if optimizer_first:
        fresh.load_state_dict(saved[0])
        again = OneCycle(fresh, 0.1, 40)
    else:
        again = OneCycle(fresh, 0.1, 40)
        fresh.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert torch.equal(_train(fresh, again, 23), expected)


def test_torch_fault_a_new_length_loses_to_the_loaded_one():
    optimizer = sgd()
    scheduler = OneCycle(optimizer, 1.0, 20)
    rates(optimizer, scheduler, 10)
    longer = OneCycle(optimizer, 2.0, 200)
    longer.load_state_dict(scheduler.state_dict())
    assert optimizer.param_groups[0]["lr"] == schedules.one_cycle(200, 2.0)(10)
    assert scheduler.state_dict() == {"last_epoch": 10}


def test_torch_fault_the_warm_up_before_a_cycle_is_overwritten():
    optimizer = sgd()
    joined = schedules.join([schedules.linear_range(6, 0.05), schedules.one_cycle(50, 1.0)], [5])
    assert rates(optimizer, ScheduledLR(optimizer, joined), 7)[:6] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.1])


def test_tensor_rates_stay_the_same_tensor():
    lr = torch.tensor(0.1)
    optimizer = sgd(lr)
    scheduler = OneCycle(optimizer, 1.0, 20)
    held = optimizer.param_groups[0]["lr"]
    for _ in range(9):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == 1.0


def test_groups_keep_their_ratio_or_have_their_own_peak():
    def two():
        a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        return torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.02}], momentum=0.9)

    optimizer = two()
    scheduler = OneCycle(optimizer, 1.0, 20)
    for t in range(20):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 5), t
        scheduler.step()
    optimizer = two()
    scheduler = OneCycle(optimizer, [1.0, 3.0], 20)
    for _ in range(9):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 3.0]
    with pytest.raises(ValueError, match="3 schedules for 2"):
        OneCycle(two(), [1.0, 2.0, 3.0], 20)
    with pytest.raises(ValueError, match="leave them out"):
        OneCycle(two(), [1.0, 2.0], 20, base_lr=0.1)


def test_stepping_before_the_optimizer_or_after_a_skipped_update_warns_of_nothing():
    optimizer = sgd()
    scheduler = OneCycle(optimizer, 1.0, 20)
    scheduler.step()
    scheduler.step()


def test_cyclical_lr_and_range_sweep():
    optimizer = sgd()
    assert rates(optimizer, CyclicalLR(optimizer, 0.1, 1.0, 5), 21)[::5] == pytest.approx([0.1, 1.0, 0.1, 1.0, 0.1])
    optimizer = sgd()
    seen = rates(optimizer, CyclicalLR(optimizer, 0.0, 1.0, 5, mode="triangular2"), 21)
    assert seen[::5] == pytest.approx([0, 1, 0, 0.5, 0])
    optimizer = sgd()
    assert rates(optimizer, RangeSweep(optimizer, 3.0, 4), 5) == pytest.approx([0, 1, 2, 3, 3])
    optimizer = sgd()
    sweep = RangeSweep(optimizer, 1.0, 4, start_lr=1e-3, mode="exponential")
    assert rates(optimizer, sweep, 4) == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    for build in (lambda: CyclicalLR(sgd(), 0, 1, 5, mode="x"), lambda: RangeSweep(sgd(), 1.0, 5, mode="x")):
        with pytest.raises(ValueError, match="mode must be"):
            build()


def test_only_optimizers_are_driven():
    with pytest.raises(TypeError, match="not a torch optimizer"):
        ScheduledLR([1, 2], schedules.constant(1.0))


def test_groups_that_share_a_rate_in_one_tensor_have_their_own_peaks():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=torch.tensor(0.1))
    scheduler = OneCycle(optimizer, [1.0, 3.0], 20)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([1.0, 3.0])


def test_a_first_group_at_rate_zero_has_no_ratio():
    frozen, free = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [frozen], "lr": 0.0}, {"params": [free]}], lr=0.1)
    with pytest.raises(ValueError, match="a schedule for each group"):
        OneCycle(optimizer, 1.0, 20)


def test_a_group_without_momentum_that_is_added_later_stays_without():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = OneCycle(optimizer, 1.0, 20)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "momentum": 0.0})
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["momentum"] < 0.95
    assert optimizer.param_groups[1]["momentum"] == 0
