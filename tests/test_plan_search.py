"""The plan search on networks of a second: what it refuses, keeps and leaves alone. Which plan is faster is no test."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.specs import ImageTask
from superconv.training import plan_search
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_search import find_plan
from superconv.training.task import image_task

RECIPE = Recipe(steps=200_000, batch_size=32, max_lr=1.0)


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path))
    return image_task(ImageTask(data="digits"))


def test_the_words_of_a_plan_name_it():
    plan = ExecutionPlan(precision="bf16-mixed", channels_last=False, compiled="default", threads=3)
    assert plan.words == "bf16,channels_first,compiled,threads=3"
    assert ExecutionPlan.choose(device="cpu", plan=plan.words) == plan
    plan = replace(plan, compiled="max-autotune")
    assert ExecutionPlan.choose(device="cpu", plan=plan.words) == plan
    assert ExecutionPlan.choose(device="cpu", plan=ExecutionPlan().words) == ExecutionPlan()


def test_every_plan_is_timed_and_one_of_them_taken(task):
    found = find_plan(task, RECIPE, device="cpu", limit=1.0)
    words = [trial.plan.words for trial in found.trials]
    for expected in ("fp32,channels_first", "fp32,channels_last", "bf16,channels_first", "bf16,channels_last"):
        assert f"{expected},eager" in words
    assert all(trial.refused or trial.seconds > 0 for trial in found.trials)  # bf16 may be imitated, and given up
    assert found.plan in [trial.plan for trial in found.trials]
    assert found.plan.words in found.reason


def test_a_run_that_is_soon_over_takes_the_default(task, tmp_path):
    found = find_plan(task, replace(RECIPE, steps=100), device="cpu")
    assert found.plan == ExecutionPlan.choose(device="cpu")
    assert not found.trials
    assert not list(tmp_path.rglob("*.json"))


def test_a_result_is_kept_for_the_same_network_and_batch_only(task, tmp_path, monkeypatch):
    searched = []
    search = plan_search._search
    monkeypatch.setattr(plan_search, "_search", lambda *a: searched.append(1) or search(*a))
    found = find_plan(task, RECIPE, device="cpu", limit=1.0)
    assert find_plan(task, RECIPE, device="cpu", limit=1.0) == found
    assert len(searched) == 1
    find_plan(task, replace(RECIPE, batch_size=16), device="cpu", limit=1.0)
    assert len(searched) == 2
    for path in tmp_path.rglob("*.json"):
        path.write_text(path.read_text()[:50])
    find_plan(task, RECIPE, device="cpu", limit=1.0)
    assert len(searched) == 3


class Picky(nn.Module):
    """A network that bfloat16 changes."""

    def __init__(self, change):
        super().__init__()
        self.head, self.change = nn.Linear(64, 10), change

    def forward(self, images):
        output = self.head(images.flatten(1))
        return self.change(output) if output.dtype == torch.bfloat16 else output


def test_a_plan_that_trains_differently_is_refused(task):
    changed = replace(task, model=lambda: Picky(lambda output: 30 * output))
    found = find_plan(changed, RECIPE, device="cpu", limit=1.0, use_cache=False)
    assert found.plan.precision == "32-true"
    refused = [trial for trial in found.trials if trial.plan.precision == "bf16-mixed"]
    assert refused
    assert all("departs from fp32's" in trial.refused for trial in refused)


def test_a_plan_that_cannot_run_is_left_out(task):
    def no_kernel(output):
        raise RuntimeError("no kernel for bfloat16")

    changed = replace(task, model=lambda: Picky(no_kernel))
    found = find_plan(changed, RECIPE, device="cpu", limit=1.0, use_cache=False)
    assert {trial.plan.precision for trial in found.trials} == {"32-true"}


def test_a_plan_that_is_hopelessly_slow_is_given_up(task):
    def imitated(output):
        time.sleep(0.2)
        return output

    changed = replace(task, model=lambda: Picky(imitated))
    found = find_plan(changed, RECIPE, device="cpu", limit=1.0, use_cache=False)
    slow = [trial for trial in found.trials if trial.plan.precision == "bf16-mixed"]
    assert slow
    assert all("times as slow as fp32" in trial.refused and trial.seconds is None for trial in slow)
    assert found.plan.precision == "32-true"


def test_nothing_is_left_behind(task):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    find_plan(task, RECIPE, device="cpu", limit=1.0, use_cache=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_several_processes_take_the_default(task, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = find_plan(task, RECIPE, device="cpu", limit=1.0)
    assert (found.plan, found.trials) == (ExecutionPlan.choose(device="cpu"), ())


def test_a_device_that_is_not_there_is_named(task):
    with pytest.raises(UserError, match="tpu"):
        find_plan(task, RECIPE, device="tpu")
