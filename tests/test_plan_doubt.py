"""Timings on a busy machine: a plan counts only where its rounds agree and its gain is possible."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from report_files import write_run

from superconv.recipe import Recipe
from superconv.report.html import write_report
from superconv.specs.image_task import ImageTask
from superconv.training import plan_choice, plan_search
from superconv.training.plan import ExecutionPlan
from superconv.training.plan_choice import PlanSearch, TimedPlan
from superconv.training.plan_search import find_plan
from superconv.training.task import image_task

RECIPE = Recipe(steps=200_000, batch_size=32, max_lr=1.0)
PLAIN = ExecutionPlan(channels_last=False)
BF16 = replace(PLAIN, precision="bf16-mixed")


def timed(plan, seconds, spread) -> TimedPlan:
    return TimedPlan(plan=plan, seconds=seconds, quartiles=(seconds, seconds * spread), first=1.0)


def searched(gain: float, spread: float) -> PlanSearch:
    trials = (timed(PLAIN, 0.01, spread), timed(BF16, 0.01 / gain, 1.01))
    return PlanSearch(plan=ExecutionPlan(), reason="", batch_size=32, trials=trials, compiling_tried=True)


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERCONV_CACHE", str(tmp_path))
    return image_task(ImageTask(data="digits"))


@pytest.mark.parametrize(
    ("gain", "spread", "said"),
    [
        (59.0, 1.0, "no plan can be more than 8 times"),
        (250.0, 300.0, "no plan can be more"),
        (1.5, 1.8, "updates of one plan differ"),
    ],
)
def test_an_impossible_or_unsteady_gain_is_not_believed_nor_kept(task, monkeypatch, gain, spread, said):
    results = [searched(gain, spread), searched(1.5, 1.1)]
    monkeypatch.setattr(plan_search, "_search", lambda *_: results.pop(0))
    found = find_plan(task, RECIPE, device="cpu")
    assert found.plan == PLAIN
    assert said in found.reason
    assert find_plan(task, RECIPE, device="cpu").plan == BF16  # searched anew, when all was quiet
    assert find_plan(task, RECIPE, device="cpu").plan == BF16
    assert not results


def test_the_same_run_takes_the_same_plan_though_it_is_timed_anew(task, monkeypatch):
    recipe = replace(RECIPE, steps=100)
    first = find_plan(task, recipe, device="cpu")
    assert not first.trials
    monkeypatch.setattr(plan_search, "_search", lambda *_: searched(1.5, 1.1))  # a slower day: it would be searched now
    assert find_plan(task, RECIPE, device="cpu").plan == BF16
    assert find_plan(task, recipe, device="cpu") == first


def test_a_small_gain_within_the_spread_is_no_gain_but_a_result():
    found = plan_choice.chosen(searched(1.1, 1.2), 200_000)
    assert found.plan == PLAIN
    assert "no other pays" in found.reason
    assert not plan_choice.doubtful(searched(1.1, 1.2), 200_000)


def test_a_plan_that_is_faster_but_unsteady_is_no_reason_to_keep_fp32_for_ever():
    unsteady = timed(BF16, 0.003, 3.7)
    found = replace(searched(1.0, 1.0), trials=(timed(PLAIN, 0.01, 1.01), unsteady))
    assert plan_choice.chosen(found, 200_000).plan == PLAIN
    assert "updates of one plan differ 3.7 times" in plan_choice.doubtful(found, 200_000)


def test_a_run_keeps_its_plan_though_a_longer_one_has_timed_all_anew(task, monkeypatch):
    first, second = replace(searched(1.5, 1.1), compiling_tried=False), searched(1.0, 1.01)
    results = [first, second]
    monkeypatch.setattr(plan_search, "_search", lambda *_: results.pop(0))
    long = replace(RECIPE, steps=2_000_000)
    assert find_plan(task, replace(RECIPE, steps=20_000), device="cpu").plan == BF16
    assert find_plan(task, long, device="cpu").plan == PLAIN  # compiling was worth a try
    assert find_plan(task, replace(RECIPE, steps=20_000), device="cpu").plan == BF16
    assert find_plan(task, long, device="cpu").plan == PLAIN
    assert not results


def test_fp32_is_timed_in_every_round_since_all_gains_are_over_it():
    class Contender(SimpleNamespace):
        def update(self):
            self.seconds.append(self.pace)

        def trial(self):
            return self

        def check(self, reference):
            assert reference is slow

    slow, middle, fast = (Contender(pace=pace, seconds=[]) for pace in (5.0, 3.0, 1.0))
    plan_search._race([slow, middle, fast], slow, until=float("inf"))
    assert [len(c.seconds) for c in (slow, middle, fast)] == [plan_search.ROUNDS, 2, plan_search.ROUNDS]


def test_a_run_s_page_repeats_it_under_its_plan(tmp_path):
    run = write_run(tmp_path / "run")
    words = "bf16,channels_first,eager"
    numbers = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**numbers, "plan": vars(BF16)}))
    page = write_report([run], tmp_path / "page.html").read_text()
    assert f"superconv fit digits --model mlp --shift 1 --plan {words}" in page
    assert page.count(f"--plan {words}") == 2  # the whole run, and the training alone
