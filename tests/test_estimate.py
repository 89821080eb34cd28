"""The estimate measured in real runs, beside the range test, and in the report."""

import json
from dataclasses import replace

import pytest
from small_tasks import kept

from superconv import cli
from superconv.history import read
from superconv.rates.agreement import compare_estimate
from superconv.rates.curve import Curve
from superconv.rates.verdict import Verdict
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.studies.estimate import estimate
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.hooks import Hook
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import sweep_rates
from superconv.training.task import image_task

CPU = ExecutionPlan(device="cpu")
RECIPE = Recipe(steps=60, batch_size=32, max_lr=0.1)
VERDICT = Verdict("likely", lr_min=0.1, lr_max=1.0, lr_edge=None, width=10.0, confidence=1.0, reason="")


def test_agreement_is_the_median_over_the_plateau():
    lrs, estimates = [0.05, 0.1, 0.5, 1.0, 2.0], [99.0, 0.5, 2.0, 2.5, 99.0]
    found = compare_estimate(VERDICT, lrs, estimates)
    assert (found.estimate, found.agrees) == (2.0, True)
    assert compare_estimate(VERDICT, lrs, [e * 2 for e in estimates]).agrees is False
    assert "above" in compare_estimate(VERDICT, lrs, [e * 2 for e in estimates]).sentence
    assert "below" in compare_estimate(VERDICT, lrs, [e / 100 for e in estimates]).sentence


def test_where_there_is_nothing_to_compare_it_says_so():
    flat = replace(VERDICT, lr_min=None, lr_max=None)
    for verdict, estimates in ((flat, [1.0]), (VERDICT, [None]), (VERDICT, [float("nan")])):
        found = compare_estimate(verdict, [0.5], estimates)
        assert (found.estimate, found.agrees) == (None, None)
        assert "nothing to compare" in found.sentence


def test_measuring_changes_nothing_of_the_training_or_the_sweep():
    task = image_task(ImageTask(data="digits"))
    hook = EstimateHook(Estimation(forms={"plain": {"form": "plain"}, "corrected": {}}, probe_every=20))
    alone, watched = (train(task, RECIPE, plan=CPU, hooks=hooks) for hooks in ((), (hook,)))
    assert alone.scores == watched.scores
    assert [row["step"] for row in hook.rows] == list(range(1, 61))
    probes = [row for row in hook.rows if "eigenvalue" in row]
    assert [row["step"] for row in probes] == [20, 40, 60]
    assert all(row["stable_lr"] == pytest.approx(2 / row["eigenvalue"]) for row in probes)
    nesterov = [row["stable_lr_momentum"] / row["stable_lr"] for row in probes]  # (1 + m) / (1 + 2m), m 0.85 to 0.95
    assert all(1.95 / 2.9 - 1e-9 <= ratio <= 1.85 / 2.7 + 1e-9 for ratio in nesterov)
    assert hook.rows[27]["lr"] == 0.1
    plain, estimated = (sweep_rates(task, RECIPE, steps=30, max_lr=1.0, plan=CPU, estimate=e) for e in (False, True))
    assert plain.train_loss == estimated.train_loss
    assert len(estimated.estimate) == len(estimated.lr)
    assert Curve.from_json(estimated.to_json()) == estimated


def test_a_resumed_run_goes_on_with_its_estimates(tmp_path):
    class Stop(Hook):
        def on_update(self, trainer):
            trainer.stop = trainer.step == 25

    task = image_task(ImageTask(data="digits"))
    forms = {"plain": {"form": "plain", "stride": 10}, "corrected": {}}

    def run(name, *hooks, **options):
        (tmp_path / name).mkdir(exist_ok=True)
        measuring = [
            *hooks,
            *(EstimateHook(Estimation(forms=forms), path) for path in (None, tmp_path / name / "estimate.jsonl")),
        ]
        return train(task, RECIPE, plan=CPU, **kept(tmp_path / name), hooks=measuring, **options)

    run("whole")
    assert run("cut", Stop()).stopped == "interrupted"
    assert len(read(tmp_path / "cut" / "estimate.jsonl")) == 25
    run("cut", resume=True)
    assert read(tmp_path / "cut" / "estimate.jsonl") == read(tmp_path / "whole" / "estimate.jsonl")


def test_only_the_first_updates_are_made(tmp_path):
    task = image_task(ImageTask(data="digits"))
    found = estimate(task, RECIPE, tmp_path, forms=["plain", "plain_with_buffers"], steps=40, stride=10, plan=CPU)
    rows = read(tmp_path / "estimate.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40] == [row["step"] for row in found.rows]
    summary = json.loads((tmp_path / "estimate.json").read_text())
    assert summary["medians"]["plain"] == pytest.approx(found.medians["plain"])
    assert summary["medians"]["plain"] != summary["medians"]["plain_with_buffers"]
    assert summary["medians"]["stable_lr"] is None


def test_the_command_and_the_report(tmp_path, capsys):
    out = tmp_path / "estimate"
    options = ["--steps", "20", "--total-steps", "100", "--probe-every", "10", "--out", str(out), "--device", "cpu"]
    assert cli.main(["estimate", "digits", *options]) == 0
    assert "2/λ" in capsys.readouterr().out
    assert (out / "estimate.png").stat().st_size > 1000
    run = tmp_path / "run"
    options = ["--steps", "60", "--estimate", "--max-lr-from", "both", "--out", str(run), "--device", "cpu"]
    assert cli.main(["fit", "digits", *options]) == 0
    page = (run / "report.html").read_text()
    assert "What curvature allows" in page
    assert (run / "figures" / "agreement.png").exists()
    assert (run / "figures" / "estimate.png").exists()
    assert any("stable_lr" in row for row in read(run / "estimate.jsonl"))
    search = json.loads((run / "range_test.json").read_text())
    assert len(search["curve"]["estimate"]) == len(search["curve"]["lr"])


def test_a_training_that_diverges_is_called_so(tmp_path, capsys):
    command = ["estimate", "digits", "--max-lr", "1e30", "--steps", "30", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "became infinite at update" in capsys.readouterr().err
    stored = json.loads((tmp_path / "estimate.json").read_text())
    assert stored["diverged"]
    assert stored["steps"] < 30
