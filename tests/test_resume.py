"""What a resumed run must know again, besides weights and optimizers."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_tasks import PLAN, kept, quadratic, recipe
from torch import nn

from superconv.errors import UserError
from superconv.training import loop
from superconv.training.averaging import Lookahead
from superconv.training.collapse import CollapseHook
from superconv.training.hooks import Hook
from superconv.training.loop import train


class Stops(Hook):
    """Interrupts a run at an update, after it has done something to the network."""

    def __init__(self, at: int, also=lambda module: None) -> None:
        self.at, self.also = at, also

    def on_update(self, trainer) -> None:
        if trainer.step == self.at:
            self.also(trainer.model.module)
            trainer.stop = True


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_a_network_that_died_before_the_interruption_has_broken_down_after_it(tmp_path):
    task = replace(quadratic(), model=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))

    def dies(module: nn.Module) -> None:
        module[0].bias.data.fill_(-1e3)

    def run(*hooks: Hook):
        return train(
            task, recipe(max_lr=0.01), plan=PLAN, **kept(tmp_path), resume=True, hooks=[*hooks, CollapseHook()]
        )

    assert run(Stops(50, dies)).stopped == "interrupted"
    assert run().stopped == "diverged"


def test_lookahead_goes_on_with_its_average(tmp_path):
    def run(folder: str, *hooks: Hook):
        (tmp_path / folder).mkdir(exist_ok=True)
        options = {"plan": PLAN, **kept(tmp_path / folder), "resume": True, "hooks": [*hooks, Lookahead()]}
        return train(quadratic(), recipe(max_lr=0.05), **options)

    whole = run("whole")
    assert run("cut", Stops(101)).stopped == "interrupted"
    assert torch.equal(weights(run("cut")), weights(whole))


@pytest.mark.parametrize("persistent", [False, True])
def test_buffers_that_are_made_or_grow_while_training_are_resumed(tmp_path, persistent):
    class Counts(nn.Module):
        """Multiplies by a buffer that the first forward makes, and lengthens another."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("mask", None, persistent=persistent)
            self.register_buffer("seen", torch.zeros(0), persistent=persistent)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.mask is None:
                self.mask = torch.ones(4)
            if self.training:
                self.seen = torch.cat([self.seen, inputs.mean()[None]])
            return self.linear(inputs * self.mask)

    task = replace(quadratic(), model=Counts)

    def run(folder: str, *hooks: Hook):
        (tmp_path / folder).mkdir(exist_ok=True)
        return train(task, recipe(max_lr=0.05), plan=PLAN, **kept(tmp_path / folder), resume=True, hooks=hooks)

    whole = run("whole")
    run("cut", Stops(100))
    resumed = run("cut")
    assert torch.equal(weights(resumed), weights(whole))
    assert len(whole.model.seen) == 200
    assert torch.equal(resumed.model.seen, whole.model.seen)
    assert resumed.model.state_dict().keys() == whole.model.state_dict().keys()


def test_a_checkpoint_runs_no_code(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"model": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="cannot be resumed from"):
        train(quadratic(), recipe(), plan=PLAN, **kept(tmp_path), resume=True)
    assert not marker.exists()


def test_a_killed_run_loses_no_more_than_the_minutes_between_checkpoints(tmp_path, monkeypatch):
    clock = [0.0]

    class Slow(Hook):
        """Ten seconds an update, and the plug is pulled."""

        def on_update(self, trainer) -> None:
            clock[0] += 10
            if trainer.step == 37:
                raise RuntimeError("pulled the plug")

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with pytest.raises(RuntimeError, match="plug"):
        train(quadratic(), recipe(), plan=PLAN, **kept(tmp_path), checkpoint_minutes=1.0, hooks=[Slow()])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 35


def test_one_command_can_be_sent_again_after_an_interruption_in_the_search(tmp_path):
    """Ctrl-C there had kept nothing, and `--resume` then refused to begin."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "superconv", "fit", "digits", "--epochs", "24", "--resume", "--out", str(out)]
    process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (out / "spec.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"superconv: " in said
    assert b"Traceback" not in said
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "run.json").read_text())["test_accuracy"] > 0.95
