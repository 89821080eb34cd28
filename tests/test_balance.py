"""Which settings are tried and chosen, and balances of real runs."""

import json
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import Parsed

from superconv import cli, files
from superconv.commands.study import _report_setting
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.report.words import shown
from superconv.runs import runner
from superconv.runs.executors import Pool
from superconv.runs.jobs import Failure
from superconv.specs.image_task import ImageTask
from superconv.specs.studies import Balancing
from superconv.studies.balance import trials as trials_module
from superconv.studies.balance.page import write_balance
from superconv.studies.balance.space import Setting, Trial, best_of, following, halfway, margin, near_the_best, nearest
from superconv.studies.balance.study import balance
from superconv.studies.balance.trials import borne, failure_of

CENTRE = Setting(max_lr=1.0, weight_decay=1e-4, batch_size=32, momentum=0.9)
DECAYS = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
RECIPE = Recipe(steps=40, batch_size=32, max_lr=1.0, momentum=0.9, min_momentum=None, optimizer_args={})
DIGITS = ImageTask(data="digits")
QUICK = Balancing(axes=("weight_decay",), max_lr=(0.1, 1.0), weight_decay=(0.0, 1e-3, 1.0), steps=40, sweep_steps=30)


def trial(decay, accuracy, loss=1.0, failure=None):
    return Trial(setting=CENTRE.at("weight_decay", decay), accuracy=accuracy, loss=loss, failure=failure)


def walk(values, start, accuracies, images=1000):
    tried = {}
    while more := following(values, start, tried, images):
        assert not tried.keys() & set(more)
        tried |= {value: trial(value, accuracies[value]) for value in more}
    return tried


@given(st.integers(2, 9), st.data())
def test_a_walk_finds_the_best_of_a_single_hill_with_both_neighbours(count, data):
    peak, start = (data.draw(st.integers(0, count - 1)) for _ in range(2))
    slope = data.draw(st.floats(0.001, 0.05))
    values = [float(i) for i in range(count)]
    gentle = {value: 0.9 - slope * abs(i - peak) for i, value in enumerate(values)}
    tried = walk(values, values[start], gentle)
    if slope < margin(trial(0, 0.9), 1000) / count or abs(start - peak) <= 1:
        assert best_of(tried).accuracy == 0.9
        assert {values[i] for i in (peak - 1, peak, peak + 1) if 0 <= i < count} <= tried.keys()


def test_only_what_lies_beyond_a_clearly_worse_setting_is_dropped():
    accuracies = dict(zip(DECAYS, (0.68, 0.683, 0.70, 0.716, 0.431, 0.1), strict=True))
    assert walk(DECAYS, 1e-4, accuracies, images=5000).keys() == set(DECAYS[1:5])  # 0.683 is 3.3 points below
    assert walk(DECAYS, 1e-4, accuracies, images=1000).keys() == set(DECAYS[:5])
    failing = dict.fromkeys(DECAYS)
    assert walk(DECAYS, 1e-5, failing).keys() == {1e-6, 1e-5, 1e-4}


def test_a_failed_trial_is_never_the_best_and_equal_ones_are_told_apart_by_their_loss():
    failed, good, sure = trial(1e-3, None, None, "out of memory"), trial(1e-4, 0.5), trial(1e-5, 0.5, loss=0.7)
    assert best_of({1e-3: failed, 1e-4: good, 1e-5: sure}) == sure
    assert near_the_best([failed, good, sure, trial(0.0, 0.1)], 100) == [good, sure]
    assert (failed.gap, failed.merit < trial(0, 0.0, 99.0).merit) == (None, True)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({1e-5: 0.7, 1e-4: 0.8, 1e-3: 0.6}, 3e-5),
        ({1e-5: 0.6, 1e-4: 0.8, 1e-3: 0.7}, 3e-4),
        ({0.0: 0.7, 1e-6: 0.8, 1e-5: 0.75}, 3e-6),
        ({0.0: 0.9, 1e-6: 0.8}, None),
        ({1e-4: 0.9}, None),
        ({1e-4: 0.9, 1e-3: None}, None),
        ({1e-4: None, 1e-3: None}, None),
        ({1e-4: 0.9, 1.2e-4: 0.8}, None),
    ],
)
def test_half_a_decade_towards_the_better_neighbour(accuracies, expected):
    assert halfway({decay: trial(decay, accuracy) for decay, accuracy in accuracies.items()}) == expected


def test_decays_are_near_by_ratio_and_shown_short():
    assert (nearest(DECAYS, 4e-4), nearest(DECAYS, 2e-4), nearest([0.0], 1e-4)) == (1e-3, 1e-4, 0.0)
    assert [shown("weight_decay", v) for v in (0.0, 1e-5, 3e-4, 2.5e-3)] == ["0", "1e-5", "3e-4", "2.5e-3"]
    assert (shown("momentum", 0.85), shown("batch_size", 250)) == ("0.85", "250")


def test_what_stands_in_place_of_numbers_is_a_failure():
    assert failure_of(Failure(reason="killed by signal 9", attempts=3)) == "killed by signal 9"
    assert failure_of({"stopped": "diverged", "steps": 7}) == "diverged at update 7"
    assert "not finite" in failure_of({"stopped": None, "validation_loss": None})
    assert failure_of({"stopped": None, "validation_loss": 0.1}) is None
    assert borne("out of memory").failure == "out of memory"


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    root = tmp_path_factory.mktemp("balance")
    return root, balance(DIGITS, QUICK, RECIPE, root, plan="fp32", device="cpu")


def test_a_balance_of_real_runs(balanced):
    root, result = balanced
    at = {(t.setting.max_lr, t.setting.weight_decay): t for t in result.grid}
    assert at[1.0, 1.0].accuracy < 0.5 < at[1.0, 1e-3].accuracy  # too much decay at a large rate
    assert result.chosen.accuracy == max(t.accuracy for t in result.grid) > 0.8
    assert [t.setting.max_lr for t in result.best] == [0.1, 1.0]
    recipe = result.recipe
    assert (recipe.max_lr, recipe.weight_decay) == (result.chosen.setting.max_lr, result.chosen.setting.weight_decay)
    assert {"max_lr", "weight_decay", "steps"} == recipe.reasons.keys()
    stored = [files.read_json(path) for path in root.rglob("run.json")]
    assert not any("test_accuracy" in numbers for numbers in stored)
    first = {numbers["curve"]["train_loss"][0] for numbers in stored if "curve" in numbers}
    assert len(first) == 1  # the same weights and the same batch, whatever the decay


def test_what_is_finished_is_not_made_again(balanced):
    root, result = balanced
    before = {path: path.stat().st_mtime_ns for path in root.rglob("run.json")}
    assert balance(DIGITS, QUICK, RECIPE, root, plan="fp32", device="cpu") == result
    assert {path: path.stat().st_mtime_ns for path in root.rglob("run.json")} == before


def test_who_names_no_plan_goes_on_under_that_of_the_runs_there(balanced, monkeypatch):
    root, result = balanced
    monkeypatch.setattr(runner, "find_plan", None)  # a search may end otherwise than the one before
    assert balance(DIGITS, QUICK, RECIPE, root, device="cpu") == result


def test_the_other_axes_follow_from_the_best_of_the_grid(tmp_path):
    varied = replace(QUICK, axes=("batch_size", "momentum", "dropout"), weight_decay=(1e-4,), max_lr=(0.3,))
    result = balance(DIGITS, varied, RECIPE, tmp_path, plan="fp32", device="cpu")
    assert result.others.keys() == result.range_tests.keys() == {"batch_size", "momentum"}  # mlp takes no dropout
    assert [t.setting.batch_size for t in result.others["batch_size"]] == [16, 32, 64]
    batch = best_of(dict(enumerate(result.others["batch_size"]))).setting.batch_size
    assert {t.setting.batch_size for t in result.others["momentum"]} == {batch}
    assert result.recipe.batch_size == batch
    assert result.recipe.reasons["max_lr"] == "the only peak tried"
    assert result.recipe.steps == 40 * 32 // batch  # equally many images
    assert result.recipe.momentum == result.chosen.setting.momentum


def test_dropout_is_varied_where_the_network_takes_it(tmp_path):
    task = ImageTask(data="digits", model="resnet8", model_args=(("width", 0.25), ("dropout", 0.2)), train_samples=200)
    asked = replace(QUICK, axes=("dropout",), weight_decay=(1e-4,), max_lr=(0.1,), steps=20, sweep_steps=20)
    result = balance(task, asked, RECIPE, tmp_path, plan="fp32", device="cpu")
    assert [t.setting.dropout for t in result.others["dropout"]] == [0.0, 0.1, 0.2]
    assert result.task["model_args"].get("dropout", 0.0) == result.recipe.dropout == result.chosen.setting.dropout
    assert result.task["model_args"]["width"] == 0.25


def test_the_peaks_follow_from_a_range_test(tmp_path):
    asked = replace(QUICK, max_lr=(), weight_decay=(1e-4,), sweep_steps=100)
    result = balance(DIGITS, asked, RECIPE, tmp_path, plan="fp32", device="cpu")
    ((_, test),) = result.range_tests["weight_decay"]
    peaks = [t.setting.max_lr for t in result.grid]
    assert test.lr_max is not None
    assert peaks == [float(f"{share * test.lr_max:.1g}") for share in (0.1, 0.3, 1.0)]


def test_failures_are_reported_and_not_chosen(tmp_path, monkeypatch):
    made = trials_module.run_all

    def failing(specs, root, **options):
        lost = Failure(reason="out of memory", attempts=1)
        numbers = iter(made([s for s in specs if s.recipe.weight_decay != 1e-3], root, **options))
        return [lost if spec.recipe.weight_decay == 1e-3 else next(numbers) for spec in specs]

    monkeypatch.setattr(trials_module, "run_all", failing)
    asked = replace(QUICK, max_lr=(0.1, 1e30))  # the second diverges by itself
    result = balance(DIGITS, asked, RECIPE, tmp_path / "runs", plan="fp32", device="cpu")
    reasons = {(t.setting.max_lr, t.setting.weight_decay): t.failure for t in result.grid}
    assert reasons[0.1, 1e-3] == reasons[1e30, 1e-3] == "out of memory"
    assert reasons[1e30, 0.0].startswith("diverged")
    assert [t.setting.max_lr for t in result.best] == [0.1]
    assert result.recipe.reasons["max_lr"] == "the only peak that trained"
    assert result.chosen.setting.weight_decay != 1e-3
    assert dict(result.range_tests["weight_decay"])[1e-3].failure == "out of memory"
    words = Parsed(write_balance(result, tmp_path / "report.html")).words
    assert "out of memory" in words
    assert "diverged at update" in words
    assert "1e-3 (out of memory)" in words  # in the recipe's reasons


MODEL = """
import os, signal
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, dropout=0.0):
        super().__init__()
        self.layer, self.dropout = nn.Linear(64, num_classes), dropout

    def forward(self, images):
        if self.dropout == 0.0:
            torch.empty(2**50)
        if self.dropout == 0.2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(images.flatten(1))
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_settings_that_fill_memory_or_are_killed_are_named_and_the_balance_ends_with_a_recipe(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "greedy.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    task = ImageTask(data="digits", model="greedy:Net", model_args=(("dropout", 0.1),))
    asked = replace(QUICK, axes=("dropout",), weight_decay=(1e-4,), max_lr=(0.1,), steps=20, sweep_steps=20)
    options = {"plan": "fp32,threads=1", "device": "cpu", "report": partial(_report_setting, dropout=True)}
    with Pool(workers=2, device="cpu") as pool:
        result = balance(task, asked, RECIPE, tmp_path / "runs", executor=pool, **options)
    tests, cycles = result.range_tests["dropout"], result.others["dropout"]
    for memory, fine, killed in (dict(tests).values(), cycles):
        assert (memory.failure[:14], fine.failure, killed.failure[:7]) == ("out of memory:", None, "killed:")
    assert (result.task["model_args"], result.recipe.max_lr) == ({"dropout": 0.1}, 0.1)
    assert all(word in result.recipe.reasons["dropout"] for word in ("0 (out of memory", "0.1 (", "0.2 (killed"))
    printed = [line.split("dropout")[1].split() for line in capsys.readouterr().err.splitlines()]
    assert {(words[0], words[3]) for words in printed} >= {("0", "out"), ("0.1", "bears"), ("0.2", "killed:")}


def test_nothing_to_choose_from_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing that was tried trained digits.*peak 1e\+30: diverged.*--max-lr"):
        balance(DIGITS, replace(QUICK, max_lr=(1e30,)), RECIPE, tmp_path, plan="fp32", device="cpu")
    with pytest.raises(UserError, match="--validation must not be 0"):
        balance(replace(DIGITS, validation=0), QUICK, RECIPE, tmp_path)
    with pytest.raises(UserError, match="--weight-decay takes decays of 0 or more"):
        balance(DIGITS, replace(QUICK, weight_decay=(-1e-4,)), RECIPE, tmp_path)
    with pytest.raises(UserError, match="leave out --watch-test"):
        balance(replace(DIGITS, watch_test=True), QUICK, RECIPE, tmp_path)


def test_a_base_rate_above_a_peak_is_refused_before_the_grid(tmp_path):
    high = replace(RECIPE, base_lr=5.0)
    with pytest.raises(UserError, match=r"--base-lr 5 is above the smallest peak, 0\.1"):
        balance(DIGITS, QUICK, high, tmp_path / "given", plan="fp32", device="cpu")
    assert not (tmp_path / "given").exists()
    with pytest.raises(UserError, match=r"--base-lr 5 is above the smallest peak"):
        balance(DIGITS, replace(QUICK, max_lr=()), high, tmp_path, plan="fp32", device="cpu")
    assert len(list(tmp_path.rglob("run.json"))) == 2


def test_the_command_leaves_json_recipe_and_a_page_with_pictures(tmp_path, capsys):
    line = ["balance", "digits", "--axes", "weight_decay,momentum", "--weight-decay", "0,1e-3", "--max-lr", "0.1,0.3"]
    line += ["--steps", "40", "--sweep-steps", "30", "--batch-size", "32", "--plan", "fp32", "--device", "cpu"]
    assert cli.main([*line, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().err
    told = [line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line[2] != " "]
    assert told == ["steps", "batch_size", "max_lr", "schedule", "momentum", "weight_decay"]
    for words in ("seed 0 bears ", "best of the peaks, each with its best decay", "at peak 0.1", "may be chance"):
        assert words in " ".join(printed.split())
    value = json.loads((tmp_path / "balance.json").read_text())
    assert value["command"].startswith("superconv balance digits --axes weight_decay,momentum")
    assert Recipe.load(tmp_path / "recipe.yaml").max_lr == value["chosen"]["setting"]["max_lr"]
    parsed = Parsed(tmp_path / "report.html")
    assert parsed.loads == []
    assert set(parsed.references) <= set(parsed.ids)
    assert parsed.tags.count("svg") == 2
    for expected in ("Weight decay against the peak rate", "Momentum", "superconv train digits --recipe recipe.yaml"):
        assert expected in parsed.words
    names = ("best-decay", "decay-and-peak")
    assert all((tmp_path / "figures" / f"{n}.png").read_bytes().startswith(b"\x89PNG") for n in names)
