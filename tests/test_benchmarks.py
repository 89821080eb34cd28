"""The benchmarks: every method on the same terms, and rows that say where they were made. Nothing about time."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training.plan import ExecutionPlan
from superconv.training.task import image_task

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import overheads
import peers
import records
import time_to_accuracy
from time_to_accuracy import OURS, measure, wanted

PLACE = {"machine": "2 cores", "versions": {"torch": "2.13"}}
ASKED = SimpleNamespace(target=[0.65], seeds=[0, 1], epochs=None, plans=["default", "superconv"], methods=None)


@pytest.fixture
def digits(monkeypatch):
    task = replace(image_task(ImageTask(data="digits", model="mlp")), test=None)
    monkeypatch.setattr(time_to_accuracy, "cifar10", lambda model: task)
    threads = torch.get_num_threads()
    yield task
    torch.set_num_threads(threads)


def facts(method: str, plan: str, *, target: float, epochs: float) -> dict:
    return {"method": method, "plan": plan, "target": target, "epochs": epochs, "seed": 0, "model": "", "device": "cpu"}


@pytest.mark.parametrize("words", [None, "bf16,channels_last,eager,threads=1"])
@pytest.mark.parametrize("method", peers.PEERS)
def test_every_peer_runs_at_its_defaults_and_under_a_plan_of_superconvs(digits, method, words):
    row = measure(facts(method, "superconv" if words else "default", target=1.1, epochs=0.5), words)
    assert row["steps"] == row["points"][-1][1] == 5
    assert row["plan_words"] == (words or "fp32,channels_first,eager")
    assert not row["reached"]


def test_superconvs_row_ends_at_the_target_and_says_what_its_searches_took(digits):
    row = measure(facts(OURS, "superconv", target=0.5, epochs=4), None)
    assert row["reached"]
    assert row["best"] >= 0.5
    assert 0 < row["plan_seconds"] + row["search_seconds"] < row["seconds"]


def test_all_methods_are_run_at_the_same_lengths_and_superconv_once_at_each():
    rows = list(wanted(SimpleNamespace(**vars(ASKED), model="resnet20", device="cpu"), PLACE))
    for method in (OURS, *peers.PEERS):
        own = [row for row in rows if row["method"] == method]
        assert {row["epochs"] for row in own} == {1.25, 2.0}
        assert len(own) == 2 * 2 * (1 if method == OURS else 2)
    assert not records.having(rows, {**rows[0], "machine": "another"})
    assert records.having(rows, rows[0]) == [rows[0]]


def test_a_row_that_lacks_a_fact_was_made_nobody_knows_where():
    assert records.having([{"method": OURS}], {"method": OURS, **PLACE}) == []


def test_a_planned_network_computes_in_the_plans_format_and_answers_in_fp32():
    seen = {}
    network = torch.nn.Conv2d(3, 4, 3)
    network.register_forward_hook(lambda module, inputs, output: seen.update(input=inputs[0], output=output))
    plan = ExecutionPlan(precision="bf16-mixed", channels_last=True)
    output = peers.Planned(network, plan)(torch.randn(2, 3, 8, 8))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert seen["input"].is_contiguous(memory_format=torch.channels_last)
    assert (seen["output"].dtype, output.dtype) == (torch.bfloat16, torch.float32)


def test_the_finders_suggestion_is_that_of_its_own_plot():
    finders = pytest.importorskip("torch_lr_finder")
    from matplotlib.figure import Figure

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = torch.rand(100, generator=generator).tolist()
        finder = finders.LRFinder.__new__(finders.LRFinder)
        finder.history = {"lr": torch.logspace(-7, 2, 100).tolist(), "loss": losses}
        assert peers.suggested(finder.history) == finder.plot(ax=Figure().subplots())[1]
    assert peers.suggested({"lr": [0.1] * 15, "loss": [1.0] * 15}) == 1e-3


def test_the_overheads_parts_are_clocked_and_the_classes_put_back(digits):
    recipe, plan = Recipe(steps=20, batch_size=32, max_lr=0.05), ExecutionPlan(channels_last=False)
    task = replace(digits, validation=None)
    before = overheads.Scores.add
    found = overheads.parts(task, recipe, plan, overheads.bare(task, recipe, plan)() / recipe.steps)
    assert overheads.Scores.add is before
    assert set(found) == {"scheduler", "metrics", "history", "progress", "estimator", "checkpoint"}
    assert all(share > 0 for share in found.values())
