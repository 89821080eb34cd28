"""`find_peak`: the peak for a training that superconv cannot see."""

import subprocess
import sys
from math import inf, log, nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from superconv import OneCycle, PeakSearch, UserError, find_peak
from superconv.data.reading.digits import load_digits


def valley(best: float, *, power: float = 0.0, edge: float = inf):
    """Losses of cycles whose best peak changes with their length to a power; beyond the edge they break down."""

    def train(max_lr: float, steps: int) -> float | None:
        if max_lr > edge:
            return nan
        return 1 + log(max_lr / (best * (steps / 1000) ** power)) ** 2

    return train


@pytest.mark.parametrize("best", [1e-5, 3e-3, 0.2, 30.0])
def test_the_valley_is_found_within_its_budget_however_far_it_lies(best):
    found = find_peak(valley(best), total_steps=1000)
    assert isinstance(found, PeakSearch)
    assert best / 1.5 < found.max_lr < best * 1.5
    assert found.updates == sum(probe.steps for probe in found.probes) <= 300
    assert "best of cycles of" in found.reason


def test_a_best_peak_that_falls_with_the_length_is_followed():
    constant, falling = (find_peak(valley(0.1, power=p), total_steps=1000).max_lr for p in (0.0, -0.4))
    assert 0.05 < falling < 0.2
    assert falling != constant


def test_the_peak_keeps_below_an_edge():
    found = find_peak(valley(0.5, edge=0.25), total_steps=2000)
    assert 0.02 < found.max_lr <= 0.25


@pytest.mark.parametrize("broken", [None, nan, inf])
def test_where_every_cycle_breaks_down_there_is_no_peak_and_the_reason_says_so(broken):
    found = find_peak(lambda max_lr, steps: broken, total_steps=400)
    assert found.max_lr is None
    assert "broke down" in found.reason


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, float])
def test_numbers_of_any_kind_are_losses(kind):
    train = valley(0.1)
    assert find_peak(lambda lr, n: kind(train(lr, n)), total_steps=np.int64(500)).max_lr == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize(
    ("options", "train", "says"),
    [
        ({"total_steps": 5}, valley(0.1), "total_steps"),
        ({"total_steps": 500, "start_lr": 0.0}, valley(0.1), "start_lr"),
        ({"total_steps": 500, "share": -1}, valley(0.1), "share"),
        ({"total_steps": 500}, lambda lr, n: "low", "must return the validation loss"),
        ({"total_steps": 500}, lambda lr, n: {"loss": 1.0}, "must return the validation loss"),
    ],
)
def test_what_makes_no_sense_is_refused(options, train, says):
    with pytest.raises(UserError, match=says):
        find_peak(train, **options)


def test_a_fault_of_the_training_is_the_callers_to_see():
    def train(max_lr, steps):
        raise RuntimeError("no node answered")

    with pytest.raises(RuntimeError, match="no node answered"):
        find_peak(train, total_steps=500)


def test_a_training_in_another_process_gets_a_peak_that_trains(tmp_path):
    """The function knows only a command and the number that it prints."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "lr, steps = float(sys.argv[1]), int(sys.argv[2])\n"
        "print((lr - 0.3) ** 2 + 1 / steps if lr < 2 else 'nan')\n"
    )

    def train(max_lr: float, steps: int) -> float:
        ran = subprocess.run(
            [sys.executable, script, str(max_lr), str(steps)], capture_output=True, text=True, check=True
        )
        return float(ran.stdout)

    assert 0.1 < find_peak(train, total_steps=600).max_lr < 0.9


def test_digits_in_a_plain_loop_reach_what_a_known_peak_reaches():
    (x, y), (test_x, test_y) = (
        [torch.as_tensor(each) for each in load_digits().splits[split]] for split in ("train", "test")
    )
    x, test_x = (each.flatten(1).float() / 255 for each in (x, test_x))

    def trained(max_lr: float, steps: int) -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = OneCycle(optimizer, max_lr, steps)
        for _ in range(steps):
            picked = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[picked]), y[picked]).backward()
            optimizer.step()
            schedule.step()
        return model

    def loss(max_lr: float, steps: int) -> torch.Tensor:
        return F.cross_entropy(trained(max_lr, steps)(test_x), test_y).detach()

    found = find_peak(loss, total_steps=400)
    right = (trained(found.max_lr, 400)(test_x).argmax(1) == test_y).float().mean()
    assert right > 0.95
