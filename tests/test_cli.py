"""The commands as a user types them: what they print and write, and how they refuse."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from filelock import FileLock
from PIL import Image
from rich.console import Console

import superconv
from superconv import cli
from superconv.data.reading.digits import load_digits
from superconv.history import read
from superconv.recipe import Recipe
from superconv.report import terminal as screen
from superconv.report.terminal import print_found
from superconv.runs.replacement import REPLACED
from superconv.search.peak import PeakSearch
from superconv.search.probe import Probe
from superconv.search.recipe import Found
from superconv.training.sweep import RateSearch

CPU = ["--device", "cpu"]


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert run("fit", "digits", "--steps", 150, "--out", out, *CPU) == 0
    return out


def test_fit_writes_what_the_architecture_promises(fitted):
    numbers = json.loads((fitted / "run.json").read_text())
    assert numbers["test_accuracy"] > 0.9
    assert numbers["steps"] == 150
    assert numbers["seconds"] > 0
    assert numbers["search_seconds"] > 0
    assert numbers["images_per_second"] > 0
    assert numbers["seed"] == 0
    assert numbers["versions"]["torch"] == torch.__version__
    assert numbers["plan"]["device"] == "cpu"
    names = ("spec.json", "recipe.yaml", "range_test.json", "history.jsonl", "model.safetensors", "report.html")
    assert all((fitted / name).stat().st_size for name in names)
    assert list((fitted / "figures").glob("*.png"))
    recipe = Recipe.load(fitted / "recipe.yaml")
    assert recipe.steps == 150
    assert {"max_lr", "batch_size", "steps", "weight_decay"} <= recipe.reasons.keys()
    search = json.loads((fitted / "range_test.json").read_text())
    assert recipe.max_lr <= max(search["curve"]["lr"])
    assert len(search["curve"]["lr"]) >= 10
    assert read(fitted / "history.jsonl")[-1]["step"] == 150


@pytest.mark.parametrize("width", [80, 120])
def test_fit_says_what_it_decided_and_why(fitted, width, monkeypatch):
    terminal = Console(width=width, file=StringIO(), record=True)
    monkeypatch.setattr(screen, "console", terminal)
    recipe, probes = Recipe.load(fitted / "recipe.yaml"), json.loads((fitted / "probes.json").read_text())
    recipe = replace(recipe, dropout=0.1, reasons={**recipe.reasons, "dropout": "as the network has it"})
    made = tuple(Probe(**probe) for probe in probes["probes"])
    peak = PeakSearch(max_lr=probes["max_lr"], probes=made, reason=probes["reason"])
    print_found(Found(recipe=recipe, search=RateSearch.load(fitted / "range_test.json"), peak=peak, seconds=1.2))
    printed = terminal.export_text()
    assert max(map(len, printed.splitlines())) <= width
    words = " ".join(printed.split())
    for name, reason in recipe.reasons.items():
        row = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        assert row.startswith(f"  {name:14}")
        assert row[29:].startswith(reason[:20])  # the reasons stand under each other
    assert "0.95 → 0.85" in words
    assert all(f"{probe.max_lr:.2g}: " in words for probe in peak.probes)
    assert "search: " in words
    assert "of the run), 1.2 s" in words


def test_a_run_that_diverged_names_its_peak_and_a_lower_one(fitted, tmp_path, capsys):
    assert run("fit", "digits", "--max-lr", 1e5, "--steps", 100, "--out", tmp_path / "high", *CPU) == 0
    assert "peak 1e+05: try --max-lr 3.3e+04" in capsys.readouterr().err
    assert run("train", "digits", "--recipe", tmp_path / "high/recipe.yaml", "--out", tmp_path / "train", *CPU) == 0
    assert "try max_lr in the recipe: 3.3e+04" in " ".join(capsys.readouterr().err.split())


def test_fit_again_needs_a_word(fitted, capsys):
    assert run("fit", "digits", "--steps", 150, "--out", fitted, *CPU) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("fit", "digits", "--steps", 999, "--out", fitted, "--resume", *CPU) == 2
    assert "steps was 150, is 999" in capsys.readouterr().err
    before = (fitted / "run.json").read_bytes()
    assert run("fit", "digits", "--steps", 150, "--out", fitted, "--resume", *CPU) == 0
    assert (fitted / "run.json").read_bytes() == before


def test_one_process_at_a_time_works_in_a_folder(fitted, capsys):
    before = (fitted / "run.json").read_bytes()
    with FileLock(fitted / ".lock"):
        for word in ("--resume", "--overwrite"):
            assert run("fit", "digits", "--steps", 150, "--out", fitted, word, *CPU) == 2
            assert f"another process works in {fitted}" in capsys.readouterr().err
    assert run("fit", "digits", "--steps", 150, "--out", fitted, "--resume", *CPU) == 0
    assert (fitted / "run.json").read_bytes() == before


@pytest.mark.parametrize("word", ["--overwrite", "--resume"])
def test_a_run_that_was_to_be_replaced_outlives_two_failures(fitted, tmp_path, capsys, word):
    """A kill in the search of an overwrite leaves its `spec.json` only, with the old run put aside."""
    kept = tmp_path / "kept"
    old = kept / REPLACED
    shutil.copytree(fitted, old)
    shutil.copy(fitted / "spec.json", kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("superconv.studies.fit.fit_choices", MagicMock(side_effect=KeyboardInterrupt))
        assert run("fit", "digits", "--steps", 150, "--out", kept, word, *CPU) == 130
    assert (kept if word == "--overwrite" else old).joinpath("model.safetensors").exists()
    capsys.readouterr()


def test_bad_input_costs_no_data_and_leaves_nothing_behind(fitted, tmp_path, capsys):
    kept = tmp_path / "kept"
    shutil.copytree(fitted, kept)
    before = sorted((p.relative_to(kept), p.stat().st_size) for p in kept.rglob("*"))
    assert run("fit", "digits", "--model", "mlp", "--model-args", "depht", 2, "--out", kept, "--overwrite", *CPU) == 2
    assert "takes no depht; it takes widths" in capsys.readouterr().err
    assert sorted((p.relative_to(kept), p.stat().st_size) for p in kept.rglob("*")) == before
    assert run("fit", "digits", "--model", "resnet21", "--out", tmp_path / "new", *CPU) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert run("fit", "digits", "--max-lr", 0.1, "--steps", 20, "--out", kept, "--overwrite", *CPU) == 0
    assert Recipe.load(kept / "recipe.yaml").steps == 20
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)])
def test_what_fails_after_the_training_takes_nothing_from_it(error, status, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise error

    out, options = tmp_path / "run", ["--max-lr", 0.1, "--steps", 20]
    with monkeypatch.context() as patched:
        patched.setattr("superconv.report.html.write_report", fails)
        assert run("fit", "digits", *options, "--out", out, *CPU) == status
    assert "Traceback" not in capsys.readouterr().err
    assert {"run.json", "model.safetensors", "history.jsonl"} <= {path.name for path in out.iterdir()}
    assert run("fit", "digits", *options, "--out", out, "--resume", *CPU) == 0
    assert (out / "report.html").exists()


def test_arguments_of_a_model_are_numbers(tmp_path):
    options = ["--model", "resnet8", "--model-args", "width", 0.25, "--max-lr", 0.1, "--steps", 16]
    assert run("fit", "digits", *options, "--out", tmp_path / "run", *CPU) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["args"] == {"width": 0.25}


def test_what_is_given_is_not_searched(tmp_path):
    options = ["--max-lr", 0.2, "--weight-decay", 1e-3, "--batch-size", 64, "--steps", 40]
    assert run("fit", "digits", *options, "--out", tmp_path / "run", *CPU) == 0
    recipe = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert (recipe.max_lr, recipe.weight_decay, recipe.batch_size, recipe.steps) == (0.2, 1e-3, 64, 40)
    assert not (tmp_path / "run" / "range_test.json").exists()
    assert (tmp_path / "run" / "report.html").exists()


def test_refit_trains_on_the_validation_split_too(tmp_path):
    assert run("fit", "digits", "--max-lr", 0.2, "--steps", 30, "--refit", "--out", tmp_path / "run", *CPU) == 0
    numbers = json.loads((tmp_path / "run" / "run.json").read_text())
    assert numbers["samples"] == 1797 - 360
    assert "validation_accuracy" not in numbers
    assert "recipe.yaml --seed 0 --validation 0.0" in (tmp_path / "run" / "report.html").read_text()
    assert run("fit", "digits", "--max-lr", 0.2, "--steps", 30, "--resume", "--out", tmp_path / "run", *CPU) == 2


def test_refit_needs_images_that_were_held_out_of_the_others(tmp_path, capsys):
    options = ["--train-samples", 200, "--refit", "--max-lr", 0.1, "--steps", 20]
    assert run("fit", "digits", *options, "--out", tmp_path / "run", *CPU) == 2
    assert "--train-samples" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_brackets_in_a_path_are_no_markup(tmp_path, capsys):
    options = ["--max-lr", 0.1, "--steps", 20, "--plan", "fp32,eager"]
    assert run("fit", "digits", *options, "--out", tmp_path / "[abc]", *CPU) == 0
    assert "[abc]/report.html" in capsys.readouterr().err


def test_a_watched_test_split_is_called_one(tmp_path, capsys):
    options = ["--max-lr", 0.1, "--steps", 20, "--watch-test"]
    assert run("fit", "digits", *options, "--out", tmp_path / "run", *CPU) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "20/20" in line)
    assert "  test " in line
    assert "validation" not in line
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the test split, watched while training" in page
    assert "read once" not in page
    assert "no test score" not in page
    assert "the validation split" not in page


def test_dropout_without_a_layer_for_it_is_said(fitted, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(replace(Recipe.load(fitted / "recipe.yaml"), steps=20, dropout=0.2).to_yaml())
    assert run("train", "digits", "--recipe", path, "--out", tmp_path / "run", *CPU) == 0
    assert "--model-args dropout 0.2" in " ".join(capsys.readouterr().err.split())


def test_minutes_are_kept(tmp_path):
    options = ["--minutes", 0.05, "--max-lr", 0.2, "--out", tmp_path / "run"]
    assert run("fit", "digits", *options, *CPU) == 0
    assert "minutes" in Recipe.load(tmp_path / "run" / "recipe.yaml").reasons["steps"]


def test_fit_by_a_recipe_of_another_length_searches_nothing(fitted, tmp_path):
    out = tmp_path / "run"
    assert run("fit", "digits", "--recipe", fitted / "recipe.yaml", "--steps", 40, "--out", out, *CPU) == 0
    before, after = (Recipe.load(folder / "recipe.yaml") for folder in (fitted, out))
    assert (after.steps, after.max_lr, after.weight_decay) == (40, before.max_lr, before.weight_decay)
    assert not (out / "range_test.json").exists()
    assert run("fit", "digits", "--watch-test", "--steps", 40, "--out", tmp_path / "watched", *CPU) == 2


def test_train_by_a_recipe_repeats_a_fit(fitted, tmp_path):
    out = tmp_path / "again"
    assert run("train", "digits", "--recipe", fitted / "recipe.yaml", "--out", out, *CPU) == 0
    assert (out / "model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()
    assert "superconv train" in json.loads((out / "run.json").read_text())["command"]


def test_range_test_writes_a_curve_that_judge_reads(tmp_path, capsys):
    unused = ("--validation", 0, "--recalibrate-batch-norm", 4)  # there is nothing to read
    assert run("range-test", "digits", "--max-lr", 1, "--steps", 10, *unused, "--out", tmp_path, *CPU) == 0
    assert run("range-test", "digits", "--max-lr", 1, "--steps", 60, "--seeds", 2, "--out", tmp_path, *CPU) == 0
    capsys.readouterr()
    assert run("judge", tmp_path / "range_test.json", "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert {"outcome", "lr_min", "lr_max", "lr_edge", "confidence", "reason"} <= verdict.keys()
    assert (tmp_path / "range_test.png").stat().st_size > 1000


def test_report_and_comparison_of_runs(fitted, tmp_path):
    again = tmp_path / "copy"
    shutil.copytree(fitted, again)
    assert run("report", fitted, again, "--out", tmp_path / "page.html") == 0
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_predict_and_load(fitted, tmp_path, capsys):
    images, labels = (part[:40] for part in load_digits().splits["test"])
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image[0]).save(paths[-1])
    saved = superconv.load_run(fitted)
    right = sum(saved.predict(path).label == str(label) for path, label in zip(paths, labels, strict=True))
    assert right >= 35
    assert run("predict", fitted, paths[0], "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["probabilities"][line["label"]] == pytest.approx(line["probability"])
    assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    (tmp_path / "text.png").write_text("no image")
    assert run("predict", fitted, tmp_path / "text.png") == 2
    assert "text.png cannot be decoded" in capsys.readouterr().err


def test_an_image_is_read_as_those_of_the_training_were(fitted, tmp_path):
    saved = superconv.load_run(fitted)
    assert (saved.image_shape, saved.image_fit, saved.center) == ((1, 8, 8), "squash", 1.0)
    image = load_digits().splits["test"][0][0, 0]
    Image.fromarray(image).save(tmp_path / "8.png")
    usual = saved.predict(tmp_path / "8.png").probabilities
    Image.fromarray(image.astype("uint16") * 256).save(tmp_path / "16.png")
    assert saved.predict(tmp_path / "16.png").probabilities == usual  # the upper half of 16 bits
    turned = Image.fromarray(image).transpose(Image.Transpose.ROTATE_90)
    (exif := turned.getexif())[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert saved.predict(tmp_path / "turned.png").probabilities == usual
    Image.fromarray(image.repeat(2, axis=1)).save(tmp_path / "wide.png")
    Image.fromarray(image.repeat(2, axis=1)).resize((8, 8), Image.Resampling.BILINEAR).save(tmp_path / "whole.png")
    wide = saved.predict(tmp_path / "wide.png").probabilities  # nothing is cut off
    assert wide == saved.predict(tmp_path / "whole.png").probabilities


def test_doctor(capsys):
    assert run("doctor") == 0
    assert torch.__version__ in capsys.readouterr().out


def test_doctor_times_plans_and_says_when_compiling_was_not_tried(capsys, monkeypatch):
    monkeypatch.setattr("superconv.training.plan_search.LIMIT", 1.0)
    assert run("doctor", "--plan", "digits", "--batch-size", "32", "--steps", "50") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "fp32,channels_last,eager" in out
    assert "taken" in out
    assert "compiling was not tried: 50 updates" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "no_such_data"], "no_such_data"),
        (["fit", "digits", "--model", "resnet21"], "20 and 26"),
        (["fit", "digits", "--epochs", "3", "--steps", "5"], "epochs and steps"),
        (["fit", "digits", "--device", "tpu"], "tpu"),
        (["fit", "digits", "--plan", "fp8"], "fp8"),
        (["fit", "digits", "--optimizer", "Adamski"], "Adamski"),
        (["fit", "digits", "--preset", "fast"], "paper, record"),
        (["fit", "digits", "--resume"], "--out"),
        (["fit", "digits", "--out", "."], "working folder"),
        (["fit", "digits", "--out", "afile", "--max-lr", "0.1"], "afile is a file, not a folder"),
        (["fit", "digits", "--optimizer", "SparseAdam", "--max-lr", "0.1"], "SparseAdam takes sparse gradients only"),
        (["fit", "digits", "--momentum", "-0.1"], "momentum"),
        (["fit", "digits", "--max-lr", "nan"], "max_lr"),
        (["fit", "digits", "--epochs", "-5"], "epochs must be a number above 0"),
        (["fit", "digits", "--accumulate", "0"], "accumulate"),
        (["fit", "digits", "--shift", "-1"], "shift must be a number of at least 0, not -1"),
        (["fit", "digits", "--checkpoint-steps", "0"], "checkpoint_steps"),
        (["range-test", "digits", "--start-lr", "1"], "--max-lr"),
        (["range-test", "digits", "--max-lr", "3", "--mode", "exponential", "--plan", "fp32,eager"], "above 0"),
        (["range-test", "digits", "--validation-samples", "0"], "validation_samples"),
        (["range-test", "digits", "--watch-test"], "on the test split"),
        (
            ["fit", "digits", "--batch-size", "1", "--steps", "30", "--plan", "fp32,eager"],
            "batch norm needs two samples",
        ),
        (["balance", "digits", "--seeds", "0"], "seeds"),
        (["compare", "digits", "--seeds", "0"], "seeds"),
        (["compare", "digits", "--steps", "20", "20"], "--steps"),
        (["balance", "digits", "--sweep-steps", "0"], "sweep_steps"),
        (["speedrun", "digits", "--seeds", "0"], "seeds"),
        (["reproduce", "fig1a", "--seeds", "0"], "seeds"),
        (["estimate", "digits", "--stride", "0"], "stride"),
        (["train", "digits", "--recipe", "absent.yaml"], "absent.yaml"),
        (["judge", "absent.csv"], "absent.csv"),
        (["report", "."], "nothing to report"),
        (["predict", ".", "x.png"], "no finished run"),
        (["compare", "digits", "--schedules", "constant", "--max-lr", "cosine=1"], "constant"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_status_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    assert run(*arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("superconv: ")
    assert says in message


def test_a_reader_that_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    asked = [sys.executable, "-m", "superconv", "fit", "--help"]
    done = subprocess.run(asked, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


COMMANDS = "fit range-test train compare balance estimate speedrun reproduce judge report predict doctor"


@pytest.mark.parametrize("command", ["", *COMMANDS.split()])
def test_help_shows_units_and_defaults(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: superconv {command}".rstrip() in shown
    assert not command or "default:" in shown
    if command in ("fit", "compare"):
        assert "Samples per update" in shown
