"""The plan search on networks of a second: what it refuses, keeps and leaves alone. Which plan is faster is no test."""

import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from superconv.data.source import TensorSource
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training import plan, plan_choice, plan_search
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_choice import PlanSearch, TimedPlan
from superconv.training.plan_search import find_plan
from superconv.training.task import image_task

RECIPE = Recipe(steps=200_000, batch_size=32, max_lr=1.0)


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path))
    return image_task(ImageTask(data="digits"))


def test_the_words_of_a_plan_name_it():
    named = ExecutionPlan(precision="bf16-mixed", channels_last=False, compiled="default", threads=3)
    assert named.words == "bf16,channels_first,compiled,threads=3"
    assert ExecutionPlan.choose(device="cpu", plan=named.words) == named
    named = replace(named, compiled="max-autotune")
    assert ExecutionPlan.choose(device="cpu", plan=named.words) == named
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
    assert find_plan(task, replace(RECIPE, steps=100), device="cpu") == found  # whatever the pace is then


def test_a_run_of_seconds_is_as_long_as_they_say(task, tmp_path):
    found = find_plan(task, replace(RECIPE, steps=1_000_000), device="cpu", seconds=1.0)
    assert "the run is over sooner" in found.reason
    assert not found.trials


def test_a_loss_that_refuses_its_input_leaves_the_default(task):
    def loss(output, target):
        if not output.abs().max() < 1e-9:
            raise ValueError("outputs must be small")
        return output.sum()

    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1,), float("inf")))

        def forward(self, images):
            return images.flatten(1) * self.weight

    found = find_plan(replace(task, model=Huge, loss=loss), RECIPE, device="cpu", limit=5.0)
    assert "none could be timed" in found.reason


def test_a_result_is_kept_for_the_same_network_and_batch_only(task, tmp_path, searches):
    found = find_plan(task, RECIPE, device="cpu")
    assert find_plan(task, RECIPE, device="cpu") == found
    assert len(searches) == 1
    find_plan(task, replace(RECIPE, batch_size=16), device="cpu")
    assert len(searches) == 2
    for path in tmp_path.rglob("*.json"):
        path.write_text(path.read_text()[:50])
    find_plan(task, RECIPE, device="cpu")
    assert len(searches) == 3


def measured(default: ExecutionPlan, *, compiled: bool) -> PlanSearch:
    """An update in 10 ms, or compiled within 40 s one in 5 ms."""
    trials = [TimedPlan(plan=default, seconds=0.01, quartiles=None, first=0.1)]
    if compiled:
        trials.append(TimedPlan(plan=replace(default, compiled="default"), seconds=0.005, quartiles=None, first=40.0))
    return PlanSearch(plan=default, reason="", batch_size=32, trials=tuple(trials), compiling_tried=compiled)


def test_compiling_must_save_three_times_what_it_costs():
    found = measured(ExecutionPlan(), compiled=True)
    assert plan_choice.chosen(found, 20_000).plan.compiled is None  # saves 100 s, costs 40
    assert plan_choice.chosen(found, 30_000).plan.compiled == "default"


@pytest.fixture
def searches(monkeypatch):
    """Searches that take no time, by whether compiling was tried in them."""
    made = []

    def search(task, recipe, default, samples, seconds, limit):
        made.append(samples / 32 * 0.01 > plan_choice.COMPILE_AFTER)
        return measured(default, compiled=made[-1])

    monkeypatch.setattr(plan_search, "_search", search)
    return made


def test_each_run_chooses_by_its_own_length_among_what_is_kept(task, searches):
    def compiled(steps):
        return find_plan(task, replace(RECIPE, steps=steps), device="cpu").plan.compiled

    assert (compiled(3000), compiled(200_000)) == (None, "default")
    assert searches == [False, True]
    assert (compiled(3000), compiled(200_000)) == (None, "default")
    assert len(searches) == 2


def test_what_is_kept_for_one_gpu_serves_another_of_its_name(task, searches, monkeypatch):
    monkeypatch.setattr(plan, "_check_device", lambda device: None)
    monkeypatch.setattr(plan, "computes_bf16", lambda device: True)
    monkeypatch.setattr(plan_search, "machine", lambda device: "a GPU")
    devices = ["cuda:0", "cuda:1"]
    assert [find_plan(task, RECIPE, device=device).plan.device for device in devices] == devices
    assert len(searches) == 1


def test_a_result_is_kept_for_the_same_inputs_and_processor_only(task, searches, monkeypatch):
    def sized(side, **kind):
        inputs = torch.zeros(64, 1, side, side, **kind)
        return replace(task, model=lambda: nn.Conv2d(1, 10, 3), train=TensorSource(inputs, torch.zeros(64).long()))

    for number, other in enumerate((sized(8), sized(16), sized(8, dtype=torch.float64)), start=1):
        find_plan(other, RECIPE, device="cpu")
        assert len(searches) == number
    monkeypatch.setattr(plan_search, "_processor", lambda: "another")
    find_plan(sized(8), RECIPE, device="cpu")
    assert len(searches) == 4


def test_quartiles_lie_within_what_was_measured():
    two = SimpleNamespace(plan=ExecutionPlan(), seconds=[1.0, 3.0], first=1.0, refused="")
    assert plan_search._Contender.trial(two).quartiles == (1.5, 2.5)


def test_a_second_mode_is_not_compiled_where_the_first_took_most_of_the_time(monkeypatch):
    asked = []

    def started(task, recipe, plans):
        asked.extend(p.compiled for p in plans)
        time.sleep(0.01)
        return []

    monkeypatch.setattr(plan_search, "_started", started)
    monkeypatch.setattr(plan_search, "_race", lambda *_: None)
    for limit in (60.0, 0.015):
        monkeypatch.setattr(plan_search, "COMPILED_LIMIT", limit)
        plan_search._compiled(None, None, SimpleNamespace(plan=ExecutionPlan(device="cuda")), None)
    assert asked == ["default", "reduce-overhead", "default"]


def test_bf16_that_a_gpu_only_imitates_is_no_default(monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "_check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: seen.append(device) or nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert ExecutionPlan.choose(device="cuda:1").precision == "32-true"
    assert seen == ["cuda:1"]


def test_a_cuda_plan_lets_cudnn_choose_its_kernels(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(plan, "Fabric", MagicMock())
    ExecutionPlan(device="cuda").fabric()
    assert torch.backends.cudnn.benchmark


class Picky(nn.Module):
    """A network that one precision changes."""

    def __init__(self, change, dtype=torch.bfloat16):
        super().__init__()
        self.head, self.change, self.dtype = nn.Linear(64, 10), change, dtype

    def forward(self, images):
        output = self.head(images.flatten(1))
        return self.change(output) if output.dtype == self.dtype else output


def test_a_plan_that_trains_differently_is_refused(task, monkeypatch):
    monkeypatch.setattr(plan_search, "HOPELESS", float("inf"))  # on a busy machine it may also look slow
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


def test_every_plan_is_checked_against_fp32(task, monkeypatch):
    def slow(output):
        time.sleep(0.05)
        return output

    monkeypatch.setitem(plan_choice.MOST, "cpu", float("inf"))
    checked, check = [], plan_search._Contender.check
    monkeypatch.setattr(
        plan_search._Contender, "check", lambda self, other: checked.append(other.plan.words) or check(self, other)
    )
    changed = replace(task, model=lambda: Picky(slow, torch.float32))
    found = find_plan(changed, replace(RECIPE, steps=9000), device="cpu", threads=2, limit=1.0, use_cache=False)
    assert found.plan.precision == "bf16-mixed"
    assert any(trial.plan.threads for trial in found.trials)
    assert set(checked) == {"fp32,channels_first,eager"}


def test_where_fp32_does_not_fit_the_default_is_taken(task):
    def too_large(output):
        raise torch.OutOfMemoryError("out of memory")

    changed = replace(task, model=lambda: Picky(too_large, torch.float32))
    found = find_plan(changed, RECIPE, device="cpu", limit=1.0)
    assert (found.plan, found.trials) == (ExecutionPlan.choose(device="cpu"), ())
    assert "out of memory" in found.reason


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
