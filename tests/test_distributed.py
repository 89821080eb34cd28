"""Two real processes (gloo), started as a user would: by torchrun."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from superconv.recipe import Recipe

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TRAIN = r"""
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch import nn
from superconv import CurvatureEstimate
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import image_task
from superconv.training.hooks import Hook

class World(Hook):
    def on_start(self, trainer):
        os.write(1, f"world {trainer.fabric.world_size}\n".encode())  # one call: the other process writes too
        optimizers = [o.optimizer for o in trainer.optimizers]
        self.estimates = [CurvatureEstimate(optimizers, form=form) for form in ("plain", "corrected")]

    def on_end(self, trainer):
        values = [e.value for e in self.estimates]
        rank = os.environ.get("RANK", "0")
        Path(f"{sys.argv[3]}.estimate.{rank}").write_text(json.dumps(values))

batch_norm, batch_norm_size, out = sys.argv[1] == "bn", int(sys.argv[2]) or None, Path(sys.argv[3])
spec = ImageTask(data="digits", batch_norm_size=batch_norm_size)
task = image_task(spec)
if batch_norm:
    spec = ImageTask(data="digits", model="resnet8", batch_norm_size=batch_norm_size)
    task = image_task(spec)
else:
    task = replace(task, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))
plan = ExecutionPlan(device="cpu", precision="64-true", channels_last=False)
recipe = Recipe(steps=50, batch_size=32, max_lr=0.2, accumulate=int(sys.argv[4]))
run = train(task, recipe, plan=plan, seed=3, evaluations=0, hooks=[World()])
if int(os.environ.get("RANK", 0)) == 0:
    save_file(run.model.state_dict(), out)
    print("score", run.scores["test_loss"])
"""


def torchrun(script: Path | str, *arguments: str, processes: int = 2) -> str:
    module = ["-m", script] if isinstance(script, str) else [str(script)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *module, *arguments], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "accumulate"), [("plain", 2), ("bn", 1)], ids=["accumulated", "batch-norm"])
def test_two_processes_equal_one(tmp_path, kind, accumulate):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    size = "16" if kind == "bn" else "0"
    one = subprocess.run(
        [sys.executable, str(script), kind, size, str(tmp_path / "one"), str(accumulate)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert one.returncode == 0, one.stderr[-3000:]
    two = torchrun(script, kind, "0", str(tmp_path / "two"), str(accumulate))
    assert "world 1" in one.stdout
    assert two.count("world 2") == 2
    scores = [float(re.search(r"score (\S+)", said)[1]) for said in (one.stdout, two)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    single, double = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    for name, value in single.items():
        torch.testing.assert_close(double[name], value, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
    expected = json.loads((tmp_path / "one.estimate.0").read_text())
    for rank in range(2):
        assert json.loads((tmp_path / f"two.estimate.{rank}").read_text()) == pytest.approx(expected, rel=1e-6)


def test_fit_under_torchrun_writes_one_run(tmp_path):
    out = tmp_path / "run"
    torchrun("superconv", "fit", "digits", "--steps", "60", "--out", str(out), "--device", "cpu")
    numbers = json.loads((out / "run.json").read_text())
    assert numbers["steps"] == 60
    assert numbers["test_accuracy"] > 0.5
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, 61))
    assert (out / "report.html").exists()


def test_a_fit_of_minutes_is_as_long_in_both_processes(tmp_path):
    out = tmp_path / "run"  # a process that counted other updates than its peer would wait for it for ever
    torchrun("superconv", "fit", "digits", "--minutes", "0.05", "--out", str(out), "--device", "cpu")
    steps = json.loads((out / "run.json").read_text())["steps"]
    assert len((out / "history.jsonl").read_text().splitlines()) >= min(steps, 20)
    assert "minutes" in Recipe.load(out / "recipe.yaml").reasons["steps"]


def test_a_study_under_torchrun_makes_every_run_in_both_processes(tmp_path):
    """The best rate is the last that is tried, so that a run is asked for again as soon as it was made."""
    study = ["superconv", "compare", "digits", "--model", "mlp", "--train-samples", "640", "--steps", "20,40"]
    study += ["--schedules", "one_cycle", "--seeds", "2", "--batch-size", "32", "--plan", "fp32", "--device", "cpu"]
    losses = []
    for order in ("0.1,0.03", "0.03,0.1"):
        torchrun(*study, "--max-lr", f"one_cycle={order}", "--out", str(tmp_path / order))
        runs = [json.loads(path.read_text()) for path in (tmp_path / order).rglob("run.json")]
        losses.append({run["spec_hash"]: run["validation_loss"] for run in runs})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
