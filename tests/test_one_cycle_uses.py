"""`OneCycle(max_lr="auto")` as people train: compiled, sharded, several optimizers, tied weights, averages."""

import copy
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from superconv import OneCycle
from superconv.data.reading.digits import load_digits

UPDATES = 160


@pytest.fixture(scope="module")
def digits():
    (x, y), (test_x, test_y) = (
        [torch.as_tensor(each) for each in load_digits().splits[split]] for split in ("train", "test")
    )
    return x.flatten(1).float() / 127.5 - 1, y, test_x.flatten(1).float() / 127.5 - 1, test_y


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(digits, model, optimizers, *, called=None, steps=None, probed=False, after=None, **options) -> OneCycle:
    """A plain loop; `called` and `steps` are compiled forms, `after` is what a loop does after an update."""
    x, y, called = digits[0], digits[1], called or model
    parts = optimizers if isinstance(optimizers, list) else [optimizers]
    probe = (lambda: F.cross_entropy(called(x[:200]), y[:200])) if probed else None
    scheduler = OneCycle(optimizers, "auto", UPDATES, model=called, probe=probe, **options)
    for t in range(UPDATES):
        picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(t))[:64]
        loss = F.cross_entropy(called(x[picked]), y[picked])
        for part in parts:
            part.zero_grad()
        loss.backward()
        for step in steps or [part.step for part in parts]:
            step()
        scheduler.step(loss)
        if after:
            after(scheduler)
    return scheduler


def accuracy(model, digits) -> float:
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_compiled_network_and_a_compiled_optimizer_give_the_same_run(digits, kind):
    """The hooks of a compiled step would be compiled with it, and fail in the middle of the first probe."""
    found = []
    for backend in (None, "aot_eager"):
        torch._dynamo.reset()
        model = network()
        if kind == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), torch.tensor(0.1), momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(1e-3))
        forms = {}
        if backend:
            forms = {"called": torch.compile(model, backend=backend)}
            forms |= {"steps": [torch.compile(optimizer.step, backend=backend)]}
        scheduler = trained(digits, model, optimizer, probed=True, momentum=None, **forms)
        found.append((scheduler.max_lr, scheduler.lost, accuracy(model, digits)))
        assert torch.is_tensor(optimizer.param_groups[0]["lr"])
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    assert found[0][2] > 0.9


def test_muon_and_adamw_share_the_schedule_and_keep_their_ratio(digits):
    model = network()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    muon, adamw = torch.optim.Muon(matrices, 1e-2), torch.optim.AdamW(vectors, 1e-3)
    scheduler = trained(digits, model, [muon, adamw], probed=True)
    assert scheduler.max_lr > 0
    assert muon.param_groups[0]["lr"] == pytest.approx(10 * adamw.param_groups[0]["lr"])
    assert accuracy(model, digits) > 0.85


def test_tied_weights_stay_tied_and_are_kept_once(digits):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).relu())

    torch.manual_seed(0)
    model = Tied()
    trained(digits, model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    assert model.second.weight is model.first.weight
    assert accuracy(model, digits) > 0.9


def test_an_average_beside_the_run_is_left_alone_and_ends_near_it(digits):
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    expected = {}

    def after(scheduler):
        if scheduler.events and not expected:  # the network has just gone back; its average has not
            expected.update(copy.deepcopy(average.state_dict()))
            assert all(torch.equal(v, average.state_dict()[k]) for k, v in expected.items())
        average.update_parameters(model)

    trained(digits, model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), after=after)
    assert expected
    assert accuracy(average, digits) > 0.9


@pytest.mark.parametrize("output", ["dict", "tuple", "nested", "none"])
def test_networks_whose_outputs_are_no_tensor_are_watched_too(digits, output):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x):
            self.last = self.inner(x)
            shapes = {"dict": {"logits": self.last}, "tuple": (self.last, None), "nested": [{"a": [self.last]}]}
            return shapes.get(output)

    model, (x, y) = Wrapped(), digits[:2]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = OneCycle(optimizer, "auto", UPDATES, model=model)
    for t in range(UPDATES):
        picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(t))[:64]
        model(x[picked])
        loss = F.cross_entropy(model.last, y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    assert accuracy(model.inner, digits) > 0.9


@pytest.mark.parametrize("batch", [1, 2])
def test_batches_of_one_or_two_samples_are_no_collapse(batch):
    torch.manual_seed(1)  # of two samples and seed 0 the ramp reads a peak that is far too low: their losses are noise
    fresh = torch.randn(256, 4)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    scheduler = OneCycle(optimizer, "auto", 100, model=model)
    for _ in range(100):
        x = torch.randn(batch, 4)
        loss = F.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    assert not [event for event in scheduler.events if "same output" in event.reason]
    with torch.no_grad():
        assert F.mse_loss(model(fresh), fresh.sum(1, keepdim=True)) < 0.5  # 4 where nothing is learned


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adafactor", "NAdam", "Adamax", "RAdam", "ASGD"])
def test_other_optimizers_find_a_peak_that_trains(digits, name):
    model = network()
    trained(digits, model, getattr(torch.optim, name)(model.parameters(), lr=1e-2), probed=True)
    assert accuracy(model, digits) > 0.75


FSDP = r"""
import io, os, sys, warnings
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from superconv import OneCycle

dist.init_process_group("gloo")
rank, draw = dist.get_rank(), torch.Generator().manual_seed(5)
x = torch.randn(512, 8, generator=draw)
y = (x[:, :3] + 0.5 * x[:, 3:6]).argmax(1)

def begin(kind):
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    for module in (model[0], model[2], model[4], model):
        fully_shard(module, mesh=mesh)
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    probe = lambda: F.cross_entropy(model(x[:64]), y[:64])
    return model, optimizer, OneCycle(optimizer, "auto", 100, model=model, probe=probe)

for kind in ("sgd", "adamw"):
    model, optimizer, scheduler = begin(kind)
    for t in range(100):
        picked = torch.randperm(512, generator=torch.Generator().manual_seed(t))[:64].chunk(2)[rank]
        loss = F.cross_entropy(model(x[picked]), y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
        if t == 10:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                state = scheduler.state_dict()
            assert any("are not saved with it" in str(each.message) for each in said)
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            scheduler.load_state_dict(torch.load(file, weights_only=True))
    said = f"{kind} {rank} {scheduler.max_lr:.6g} {float(loss.detach()):.4f}\n"
    os.write(1, said.encode())  # one call: the other process writes too
dist.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_under_fsdp2_decide_alike_and_say_what_is_not_saved(tmp_path):
    (tmp_path / "train.py").write_text(FSDP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "train.py")], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.findall(r"(sgd|adamw) (\d) (\S+) (\S+)", done.stdout)
    assert len(rows) == 4
    for kind in ("sgd", "adamw"):
        peaks = {peak for name, _, peak, _ in rows if name == kind}
        assert len(peaks) == 1
        assert all(float(loss) < 0.3 for name, _, _, loss in rows if name == kind)
