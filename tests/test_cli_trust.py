"""No code runs that nobody asked for: from a run's files, or from the working folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superconv import cli
from superconv.errors import UserError
from superconv.runs.classifier import load_run
from superconv.runs.folder import RunFolder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trust") / "run"
    length = ["--steps", "20", "--max-lr", "0.1", "--plan", "fp32,eager"]
    assert cli.main(["fit", "digits", *length, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("os:system", {"command": "touch OWNED"}),
        ("runpy:run_path", {"path_name": "owned.py"}),
        ("shutil:rmtree", {"path": "keep"}),
        ("owned:model", {}),
    ],
)
def test_a_run_that_names_code_runs_none_of_it(fitted, tmp_path, monkeypatch, capsys, name, args):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fitted, "run")
    Path("keep").mkdir()
    Path("owned.py").write_text("open('OWNED', 'w')\n")
    numbers = RunFolder(Path("run")).numbers
    described = {"name": name, "args": args, "num_classes": 10, "image_shape": [1, 8, 8]}
    numbers.write({**numbers.read(), "model": described})
    Path("image.png").touch()
    assert cli.main(["predict", "run", "image.png"]) == 2
    said = capsys.readouterr().err
    assert f"names {name} as its model" in said
    assert "--trust" in said
    assert said.count("\n") == 1
    assert cli.main(["report", "run"]) == 0
    with pytest.raises(UserError, match="trust=True"):
        load_run("run")
    assert not Path("OWNED").exists()
    assert Path("keep").exists()


OWN = """
from torch import nn
def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(cli.__file__).parents[1])
    whole = [sys.executable, "-m", "superconv", *arguments]
    return subprocess.run(whole, cwd=folder, capture_output=True, text=True, env=environment)


def test_an_own_model_is_used_where_it_is_trusted_and_found(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    length = ["--steps", "20", "--max-lr", "0.1", "--plan", "fp32,eager", "--out", "run"]
    assert command(tmp_path, "fit", "digits", "--model", "own:net", *length).returncode == 0
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    assert command(tmp_path, "predict", "run", "black.png").returncode == 2
    trusted = command(tmp_path, "predict", "run", "black.png", "--trust")
    assert trusted.returncode == 0, trusted.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lost = command(elsewhere, "predict", "../run", "../black.png", "--trust")
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert "run this in the folder that holds it" in lost.stderr


@pytest.mark.parametrize("arguments", [("report", "run"), ("doctor",), ("predict", "run", "black.png")])
def test_modules_in_the_working_folder_are_not_executed(fitted, tmp_path, arguments):
    from PIL import Image

    shutil.copytree(fitted, tmp_path / "run")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    for name in ("torch", "matplotlib", "PIL", "numpy", "yaml"):
        (tmp_path / f"{name}.py").write_text("open('OWNED', 'w')\nraise SystemExit(77)\n")
    done = command(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "OWNED").exists()


def test_predict_goes_on_after_a_bad_image_and_asks_for_images(fitted, tmp_path, capsys):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "bad.png").write_text("no image")
    asked = [str(tmp_path / name) for name in ("bad.png", "black.png", "absent.png")]
    assert cli.main(["predict", str(fitted), *asked, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["image"] == asked[1]
    assert "2 of 3 images could not be classified" in err
    assert cli.main(["predict", str(fitted)]) == 2
    assert "name the images to classify" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error(fitted, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    many = " ".join(["black.png"] * 3000)
    line = f"{sys.executable} -m superconv predict {fitted} {many} | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("black.png")


def test_a_folder_beside_the_run_is_never_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside = Path("x.replaced")
    beside.mkdir()
    (beside / "thesis.txt").write_text("years")
    fit = ["fit", "digits", "--max-lr", "0.1", "--steps", "20", "--plan", "fp32,eager", "--out", "x"]
    assert cli.main(fit) == 0
    assert cli.main([*fit, "--overwrite"]) == 0
    assert cli.main([*fit, "--overwrite", "--model", "resnet21"]) == 2
    assert (beside / "thesis.txt").read_text() == "years"
    assert sorted(path.name for path in Path().iterdir()) == ["x", "x.replaced"]


def test_a_linked_folder_and_an_empty_one_hold_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("link").symlink_to("real")
    fit = ["fit", "digits", "--max-lr", "0.1", "--steps", "20", "--plan", "fp32,eager", "--out", "link"]
    assert cli.main(fit) == 0
    assert cli.main([*fit, "--overwrite"]) == 0
    assert Path("link").is_symlink()
    assert RunFolder(Path("real")).finished


def test_a_resume_of_nothing_begins(tmp_path):
    fit = ["fit", "digits", "--max-lr", "0.1", "--steps", "20", "--plan", "fp32,eager", "--out", str(tmp_path / "new")]
    assert cli.main([*fit, "--resume"]) == 0
    assert RunFolder(tmp_path / "new").finished


def test_an_interruption_while_modules_are_imported_is_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main(["fit", "digits"]) == 130
    assert capsys.readouterr().err == "superconv: interrupted\n"
