"""The experiments at full scale have the author's rates and settings, as his logs and 1803.09820 state them."""

import csv
from pathlib import Path

import pytest

from superconv import cli
from superconv.reproduction import author
from superconv.reproduction.experiments import experiments
from superconv.reproduction.scales import PAPER

approx = pytest.approx


@pytest.mark.parametrize("name", author.names())
def test_full_scale_has_the_author_s_rates(name):
    """Every logged rate of every log that an experiment at full scale names (DESIGN, section 7: Caffe's float32)."""
    arms = [arm for e in experiments(PAPER).values() for arm in e.arms.values() if arm.log == name]
    unused = {"lr35Tr20kTab1", "lrRange3SS520kClip10Fig12a", "range2SS80kRes56wd1"}
    assert arms or name in unused
    log = author.log(name)
    for arm in arms:
        recipe = arm.specs[0].recipe
        rates = recipe.learning_rate()
        assert log.iteration[-1] == recipe.steps or name in BROKEN_OFF, arm.name
        for t, rate in zip(log.iteration, log.lr, strict=True):
            if rate is not None:
                assert rates(t) == approx(rate, rel=1e-6, abs=3e-5 if "range" in name.lower() else 2e-7), (arm.name, t)


BROKEN_OFF = {"lrRange3SS520kClip5Fig12b": 12_800, "lrRange3SS520kClip10Fig12a": 12_800}


def author_runs():
    with (Path(__file__).parent / "author_runs.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("arm", "spec"),
    [
        pytest.param(arm, arm.specs[0], id=f"{name}-{key}")
        for name, e in experiments(PAPER).items()
        for key, arm in e.arms.items()
        if arm.log
    ],
)
def test_full_scale_has_the_author_s_settings(arm, spec):
    """All that his logs say of a run besides its rates; `bn_moving_average_fraction` of 0.9 is a cut-off 0.999."""
    row, recipe, task = author_runs()[arm.log], spec.recipe, spec.task
    nesterov = recipe.optimizer_args.get("nesterov", False)
    solver = "Nesterov" if nesterov else {"CaffeSGD": "SGD"}.get(recipe.optimizer, recipe.optimizer)
    assert solver.lower() == row["solver_type"].lower()
    assert recipe.steps == int(row["max_iter"])
    assert recipe.batch_size == int(row["batch_size"])
    assert recipe.weight_decay == float(row["weight_decay"])
    assert (task.data, task.train_samples or 50_000 - held_out(spec)) == (row["dataset"], trained(row, spec))
    network, _, dropout = row["architecture"].partition("+")
    depth = network.rpartition("-")[2]
    kind = {"bottleneck-resnet": "bottleneck"}.get(network.rpartition("-")[0], network.rpartition("-")[0])
    assert task.model == f"{kind}{depth}-author"
    assert (("dropout", 0.2) in task.model_args) == bool(dropout)
    if row["momentum"] and recipe.optimizer in ("CaffeSGD", "Adam"):
        assert recipe.momentum == float(row["momentum"])
    if row["test_bn_statistics"] == "running":
        assert task.batch_norm_average == float(row["bn_moving_average_fraction"])
    clip = arm.log.partition("Clip")[2].partition("Fig")[0]
    assert recipe.clip_norm == (float(clip) if clip else None)


def held_out(spec):
    return int(spec.task.validation)


def trained(row, spec):
    return int(row["train_samples"]) - held_out(spec)


def test_full_scale_has_the_table_of_1803_09820():
    """(first rate, peak, share of the rise, updates) of the runs that left no log (FACTS, section 7)."""
    made = experiments(PAPER)

    def shape(experiment, arm):
        recipe = made[experiment].arms[arm].specs[0].recipe
        return recipe.base_lr, recipe.max_lr, round(recipe.warmup * recipe.steps), recipe.steps

    def epochs(images, *numbers):
        return tuple(round(n * images / 512) for n in numbers)

    tables = {
        "mnist": (60_000, {12: (0.01, 0.1, 5), 25: (0.01, 0.1, 12), 50: (0.01, 0.1, 23), 85: (0.02, 0.2, 40)}),
        "densenet": (50_000, {50: (0.1, 4, 22), 75: (0.1, 4, 34), 100: (0.1, 4, 45), 150: (0.1, 4, 70)}),
    }
    for name, (images, rows) in tables.items():
        for length, (base, peak, rise) in rows.items():
            found = shape(name, f"cycle{length}")
            assert found == (base, peak, *(approx(n, abs=2) for n in epochs(images, rise, length))), (name, length)
    for steps, (base, peak, rise, length) in {
        2450: (0.1, 0.5, 12, 25),
        4900: (0.1, 1, 23, 50),
        9800: (0.1, 1, 45, 100),
    }.items():
        found = shape("wide", f"cycle{steps}")
        assert found == (base, peak, *(approx(n, rel=0.01) for n in epochs(50_000, rise, length))), steps
    lenet = made["mnist"].arms["cycle12"].specs[0]
    assert (lenet.task.normalization, lenet.evaluation_samples) == ("scale", None)


def test_full_scale_is_fp32(tmp_path, capsys):
    command = ["reproduce", "fig1a", "--scale", "paper", "--plan", "bf16", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "fp32" in capsys.readouterr().err


def test_full_scale_is_caffe_s():
    spec = experiments(PAPER)["fig1a"].arms["cycle"].specs[0]
    assert spec.recipe.optimizer == "CaffeSGD"
    assert spec.recipe.optimizer_args == {"caffe_multipliers": True}
    task = spec.task
    assert (task.model, task.batch_norm_size, task.batch_norm_average) == ("resnet56-author", 125, 0.95)
    assert (task.normalization, task.shuffle, task.watch_test, task.validation) == ("mean_image", False, True, 0)
    assert (spec.evaluations, spec.evaluation_samples) == (100, 25_000)
    assert experiments(PAPER)["fig1a"].arms["piecewise"].specs[0].task.batch_norm_average == 0.999
