"""The speed-up's arithmetic, the intervals, and a comparison of real runs."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from filelock import FileLock

from superconv import files
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.runs import runner
from superconv.runs.folder import RunFolder
from superconv.runs.runner import run, run_all
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RunSpec
from superconv.specs.studies import COMPARED_RATES, Comparison
from superconv.stats import mean_interval, speed_up
from superconv.studies.compare import compare

RECIPE = Recipe(steps=40, batch_size=32, max_lr=0.1, momentum=0.9, min_momentum=None)
DIGITS = ImageTask(data="digits")


def test_the_interval_is_student_s():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - 4.303 / 3**0.5, 2.0 + 4.303 / 3**0.5), rel=1e-4)
    assert mean_interval([5.0]) == (5.0, None, None)
    mean, low, high = mean_interval([0.0, 1.0] * 50)
    assert high - mean == pytest.approx(1.96 * 0.50252 / 10, rel=1e-3)


def test_the_speed_up_is_the_shortest_cycle_that_reaches_the_baseline():
    cycle = {100: [0.50, 0.51, 0.52], 200: [0.70, 0.71, 0.72], 400: [0.80, 0.81, 0.82]}
    baseline = {100: [0.40, 0.41, 0.42], 400: [0.68, 0.69, 0.70], 800: [0.95, 0.96, 0.97]}
    first, second, third = speed_up(cycle, baseline, name="piecewise")
    assert (first.one_cycle_steps, first.ratio, first.low, first.high) == (100, 1.0, 1.0, 1.0)
    assert (second.one_cycle_steps, second.ratio) == (200, 2.0)
    assert (third.one_cycle_steps, third.ratio, third.low) == (None, None, None)
    assert "no one-cycle run" in third.reason


def test_the_interval_of_the_speed_up_shows_where_seeds_disagree():
    cycle = {100: [0.60, 0.80, 0.70], 200: [0.9, 0.9, 0.9]}
    (only,) = speed_up(cycle, {400: [0.69, 0.70, 0.71]}, name="piecewise")
    assert (only.low, only.high) == (2.0, 4.0)


def test_three_close_seeds_do_not_prove_a_length():
    """Resampled, none of their means would lie beyond the seeds: an interval of 4 to 4."""
    cycle = {100: [0.700, 0.702, 0.704], 200: [0.9, 0.9, 0.9]}
    (only,) = speed_up(cycle, {400: [0.6985, 0.699, 0.6995]}, name="piecewise")
    assert (only.ratio, only.low, only.high) == (4.0, 2.0, 4.0)


def test_one_seed_has_no_interval():
    (only,) = speed_up({100: [0.8]}, {400: [0.69]}, name="piecewise")
    assert (only.ratio, only.low, only.high, only.seeds) == (4.0, None, None, 1)


@pytest.mark.parametrize(
    ("fields", "says"), [({"steps": ()}, "--steps"), ({"steps": (9, 9)}, "--steps"), ({"schedules": ()}, "--schedules")]
)
def test_lengths_and_schedules_are_named_once(fields, says):
    with pytest.raises(UserError, match=says):
        Comparison(**fields).candidates()


def test_losses_are_compared_the_other_way_round():
    (only,) = speed_up({100: [0.5], 200: [0.2]}, {400: [0.3]}, name="piecewise", higher_is_better=False)
    assert only.one_cycle_steps == 200


def test_rates_are_read_and_those_of_other_schedules_refused():
    words = ("one_cycle=1,3", "piecewise=0.1")
    comparison = Comparison(schedules=("one_cycle", "piecewise"), max_lr=words)
    assert comparison.candidates() == {"one_cycle": (1.0, 3.0), "piecewise": (0.1,)}
    assert replace(comparison, max_lr=words[:1]).candidates()["piecewise"] == COMPARED_RATES
    with pytest.raises(UserError, match="piecewise, but compared are one_cycle, cosine"):
        replace(comparison, schedules=("one_cycle", "cosine")).candidates()
    with pytest.raises(UserError, match="one_cycle=fast"):
        replace(comparison, max_lr=("one_cycle=fast",)).candidates()


def test_equal_specs_are_made_once_and_another_recipe_is_another_run(tmp_path):
    spec = RunSpec(task=DIGITS, recipe=RECIPE, device="cpu", evaluations=0)
    first, again = run_all([spec, replace(spec, recipe=replace(RECIPE, reasons={"max_lr": "why not"}))], tmp_path)
    assert first == again
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [spec.hash]
    assert replace(spec, seed=1).hash != spec.hash
    with pytest.raises(UserError, match="another spec"):
        run(replace(spec, seed=1), RunFolder(tmp_path / spec.hash))


def test_one_process_at_a_time_makes_the_runs_of_a_folder(tmp_path):
    spec = RunSpec(task=DIGITS, recipe=RECIPE, device="cpu", evaluations=0)
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process works in"):
        run_all([spec], tmp_path)
    assert run_all([spec], tmp_path)[0]["stopped"] is None


def test_a_spec_is_found_again_whose_arguments_json_writes_otherwise(tmp_path):
    adam = replace(RECIPE, optimizer="AdamW", optimizer_args={"betas": (0.9, 0.99)})
    spec = RunSpec(task=DIGITS, recipe=adam, device="cpu", evaluations=0)
    (first,), (again,) = (run_all([spec], tmp_path) for _ in range(2))
    assert first == again
    assert isinstance(first, dict)


def test_a_length_that_is_too_short_is_refused_before_any_run(tmp_path):
    comparison = Comparison(schedules=("one_cycle",), steps=(4, 40), seeds=1, max_lr=("one_cycle=0.1,0.3",))
    with pytest.raises(UserError, match="cannot be built"):
        compare(DIGITS, comparison, RECIPE, tmp_path, device="cpu", plan="fp32,eager")
    assert not list(tmp_path.rglob("run.json"))


def test_a_comparison_of_real_runs_is_not_made_twice(tmp_path, monkeypatch):
    comparison = Comparison(
        schedules=("one_cycle", "piecewise"), steps=(20, 60), seeds=2, max_lr=("one_cycle=0.1,0.3", "piecewise=0.1")
    )
    made = []
    result = compare(DIGITS, comparison, RECIPE, tmp_path, device="cpu", report=lambda s, n: made.append(s.hash))
    assert len(set(made)) == len(list(tmp_path.rglob("run.json")))
    rows = result["schedules"]["one_cycle"]
    assert [row["steps"] for row in rows] == [20, 60]
    assert rows[1]["mean"] == pytest.approx(sum(rows[1]["validation"]) / 2)
    assert rows[1]["mean"] > rows[0]["mean"]
    assert {line["baseline_steps"] for line in result["speed_up"]} == {20, 60}
    stored = {files.read_json(path)["validation_accuracy"] for path in tmp_path.rglob("run.json")}
    shown = [score for rows in result["schedules"].values() for row in rows for score in row["validation"]]
    assert len(shown) == 8
    assert set(shown) <= stored  # what the test split says is compared nowhere
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    monkeypatch.setattr(runner, "find_plan", None)  # a search may end otherwise than the one before
    assert compare(DIGITS, comparison, RECIPE, tmp_path, device="cpu") == result
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == before
    json.dumps(result, allow_nan=False)


def test_what_diverged_is_no_score_to_be_reached(tmp_path):
    comparison = Comparison(
        schedules=("one_cycle", "piecewise"), steps=(20, 60), seeds=1, max_lr=("one_cycle=0.1", "piecewise=1e9")
    )
    result = compare(DIGITS, comparison, RECIPE, tmp_path, device="cpu", plan="fp32")
    assert [row["validation"] for row in result["schedules"]["piecewise"]] == [[0.0], [0.0]]
    assert result["speed_up"] == []


@pytest.mark.parametrize(("split", "says"), [({"validation": 0}, "validation"), ({"watch_test": True}, "--watch-test")])
def test_without_a_validation_split_of_its_own_nothing_can_be_chosen(tmp_path, split, says):
    with pytest.raises(UserError, match=says):
        compare(
            ImageTask(data="digits", **split),
            Comparison(schedules=("constant",), max_lr=("constant=0.1",)),
            RECIPE,
            tmp_path,
        )


@pytest.mark.slow
def test_the_command_writes_json_and_a_page(tmp_path):
    command = [sys.executable, "-m", "superconv", "compare", "digits", "--schedules", "one_cycle,cosine"]
    command += ["--steps", "20", "40", "--seeds", "2", "--max-lr", "one_cycle=0.3", "cosine=0.1"]
    command += ["--final-lr", "0.01", "--out", str(tmp_path / "out"), "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert result["seeds"] == [0, 1]
    assert result["command"].startswith("superconv compare digits")
    specs = [json.loads(path.read_text())["recipe"] for path in (tmp_path / "out").rglob("spec.json")]
    assert {spec["final_lr"] for spec in specs} == {0.01}
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
