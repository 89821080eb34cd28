"""Two processes whose networks leave parameters unused, whose members die, stay away or stop answering."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from superconv.training.world import JOINING, strategy

HERE = "127.0.0.1"

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NETWORKS = r"""
import json, os, signal, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import nn
from safetensors.torch import save_file
from superconv import Task, train
from superconv.recipe import Recipe
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan

class Experts(nn.Module):
    "Top-1 routing: with few samples some experts get none, in either process or in both."
    def __init__(self):
        super().__init__()
        self.router, self.head = nn.Linear(8, 6), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 16) for _ in range(6))
    def forward(self, x):
        gate, chosen = self.router(x).softmax(1).max(1)
        out = x.new_zeros(len(x), 16)
        for i, expert in enumerate(self.experts):
            if (at := chosen == i).any():
                out[at] = expert(x[at]).tanh()
        return self.head(gate[:, None] * out)

class Skipping(nn.Module):
    "A block that is first left out in update 20, then every fourth time; a head that learns from update 10 on."
    def __init__(self):
        super().__init__()
        self.first, self.block, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.late, self.calls = nn.Linear(16, 3), 0
    def forward(self, x):
        h = self.first(x).tanh()
        if self.training:
            self.calls += 1
        if self.calls < 20 or self.calls % 4:
            h = h + self.block(h).tanh()
        return self.head(h) + (self.late(h) if self.calls > 10 else 0)

draw = torch.Generator().manual_seed(0)
x = torch.randn(512, 8, generator=draw, dtype=torch.float64)
y = (x[:, :3] + 0.5 * x[:, 3:6]).argmax(1)
kinds = {"experts": Experts, "skipping": Skipping}
def task(kind):
    return Task(name=kind, model=kinds[kind], train=(x, y), validation=None, test=(x, y), loss=F.cross_entropy)
plan = ExecutionPlan(device="cpu", precision="64-true", channels_last=False)
"""
TRAIN = (
    NETWORKS
    + r"""
for kind in kinds:
    run = train(task(kind), Recipe(steps=60, batch_size=8, max_lr=0.3), plan=plan, seed=1, evaluations=0)
    if os.environ.get("RANK", "0") == "0":
        save_file(run.model.state_dict(), f"{sys.argv[1]}-{kind}")
        print(kind, run.scores["test_loss"])
"""
)
TROUBLE = (
    NETWORKS
    + r"""
from superconv.training import signals
from superconv.training.world import give_up, lost

signals.PATIENCE = 2.0

class Trouble(Hook):
    def on_update(self, trainer):
        if trainer.step == 20 and os.environ["RANK"] == "1":
            Path(sys.argv[1]).write_text(str(os.getpid()))
            if sys.argv[2] == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if sys.argv[2] == "freezes":
                os.kill(os.getpid(), signal.SIGSTOP)

try:
    train(task("experts"), Recipe(steps=20_000, batch_size=8, max_lr=0.1), plan=plan, evaluations=0, hooks=[Trouble()])
except Exception as error:
    if words := lost(error):
        give_up(words, 2)
    raise
"""
)


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in more.items()}}


def torchrun(*command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]


def finished(command: list[str], *, timeout: float = 150, cwd=None, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**more), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]


def started(script, *arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes without torchrun, as a cluster starts them."""
    command, port = [sys.executable, str(script), *arguments], free_port()
    return [
        subprocess.Popen(
            command,
            env=environment(RANK=r, LOCAL_RANK=r, LOCAL_WORLD_SIZE=2, WORLD_SIZE=2, MASTER_ADDR=HERE, MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]


def test_parameters_that_get_no_gradient_in_an_update_do_not_stop_the_others(tmp_path):
    """Experts that no sample is routed to, a block that is skipped from update 20 on: two processes equal one."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    one = finished([sys.executable, str(script), str(tmp_path / "one")])
    assert one.returncode == 0, one.stderr[-2000:]
    two = finished(torchrun(str(script), str(tmp_path / "two")))
    assert two.returncode == 0, two.stderr[-2000:]
    for kind in ("experts", "skipping"):
        single, double = load_file(tmp_path / f"one-{kind}"), load_file(tmp_path / f"two-{kind}")
        for name, value in single.items():
            torch.testing.assert_close(double[name], value, rtol=0, atol=1e-9)
        losses = [float(re.search(rf"{kind} (\S+)", done.stdout)[1]) for done in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        assert losses[0] < 0.9


def test_a_world_whose_member_dies_ends_with_one_line(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TROUBLE)
    began = time.monotonic()
    survivor, dead = started(script, str(tmp_path / "pid"), "dies")
    _, said = survivor.communicate(timeout=100)
    dead.communicate(timeout=10)
    assert time.monotonic() - began < 60
    assert dead.returncode == -signal.SIGKILL
    assert survivor.returncode == 2
    lines = [line for line in said.splitlines() if line.startswith("superconv:")]
    assert len(lines) == 1
    assert "another one no longer answers" in lines[0]
    assert "Traceback" not in said


def test_one_that_waits_for_a_frozen_member_heeds_sigterm(tmp_path):
    script, pid = tmp_path / "train.py", tmp_path / "pid"
    script.write_text(TROUBLE)
    waiting, frozen = started(script, str(pid), "freezes")
    try:
        while not (pid.exists() and pid.read_text()):
            assert waiting.poll() is None
            time.sleep(0.2)
        time.sleep(2)  # by now it waits
        waiting.terminate()
        _, said = waiting.communicate(timeout=30)
    finally:
        frozen.kill()
        waiting.kill()
        frozen.communicate()
    assert waiting.returncode == 128 + signal.SIGTERM
    assert "asked to stop while it waited for another process" in said
    assert "Traceback" not in said


def test_a_process_whose_world_never_comes_says_so_within_a_minute(tmp_path):
    assert JOINING.total_seconds() < 60
    code = (
        "import sys; from datetime import timedelta; from superconv.training import world; "
        "from superconv.cli import main; world.JOINING = timedelta(seconds=3); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", "digits", "--steps", "40", "--out", str(tmp_path), "--device", "cpu"]
    world = {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 2}
    done = finished(command, timeout=60, MASTER_ADDR=HERE, MASTER_PORT=free_port(), **world)
    assert done.returncode == 2
    assert "waited for the others in vain: start all of them" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_with_a_view_drops_channels_last_in_every_process(tmp_path):
    (tmp_path / "viewing.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, image_shape):\n"
        "        super().__init__()\n"
        "        self.conv, self.head = nn.Conv2d(image_shape[0], 4, 3), nn.Linear(4 * 36, num_classes)\n"
        "    def forward(self, x):\n"
        "        h = self.conv(x)\n"
        "        return self.head(h.view(len(h), -1))\n"
        "def make(num_classes, image_shape):\n"
        "    return Net(num_classes, image_shape)\n"
    )
    out = tmp_path / "run"
    command = ["-m", "superconv", "fit", "digits", "--model", "viewing:make", "--steps", "40", "--out", str(out)]
    done = finished(torchrun(*command, "--device", "cpu"), cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((out / "plan.json").read_text())["channels_last"] is False


def test_networks_of_torchs_own_modules_are_spared_the_search_for_unused_parameters():
    class Own(torch.nn.Linear):
        pass

    fixed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    looked_for = [strategy(model)._ddp_kwargs["find_unused_parameters"] for model in (fixed, Own(2, 2), None)]
    assert looked_for == [False, True, True]
