"""`OneCycle(max_lr="auto")` in plain loops: the run's own ramp is the range test."""

import io
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from superconv import OneCycle, plot_curve
from superconv.data.reading.digits import load_digits

UPDATES = 200


@pytest.fixture(scope="module")
def digits():
    (x, y), (test_x, test_y) = (
        [torch.as_tensor(each) for each in load_digits().splits[split]] for split in ("train", "test")
    )
    scale = 8.0 if x.max() <= 16 else 127.5
    return x.float() / scale - 1, y, test_x.float() / scale - 1, test_y


def network(seed: int = 0, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10)
    )


def optimizer_of(model, kind: str, lr: float | None = None):
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr or 0.1, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=lr or 1e-3)


def probe_of(model, digits):
    return lambda: F.cross_entropy(model(digits[0][:200]), digits[1][:200])


def updates(model, optimizer, scheduler, digits, start: int, stop: int, *, pieces: int = 1) -> list[float]:
    """Updates `start` to `stop` of a loop whose batches follow from the update's number."""
    rates = []
    for t in range(start, stop):
        picked = torch.randperm(len(digits[0]), generator=torch.Generator().manual_seed(t))[:64]
        torch.manual_seed(t)  # dropout
        rates.append(scheduler.get_last_lr()[0])
        optimizer.zero_grad()
        for piece in picked.chunk(pieces):
            loss = F.cross_entropy(model(digits[0][piece]), digits[1][piece])
            (loss / pieces).backward()
            scheduler.observe(loss)
        optimizer.step()
        scheduler.step()
    return rates


def accuracy(model, digits) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("probed", [True, False])
@pytest.mark.parametrize("named", [1e-6, 1.0])
def test_the_rate_that_the_optimizer_names_does_not_matter(digits, kind, probed, named):
    model = network()
    optimizer = optimizer_of(model, kind, named)
    scheduler = OneCycle(optimizer, "auto", UPDATES, model=model, probe=probe_of(model, digits) if probed else None)
    assert isinstance(scheduler, OneCycle)
    assert scheduler.max_lr is None
    assert scheduler.phase == "ramp"
    rates = updates(model, optimizer, scheduler, digits, 0, UPDATES)
    assert accuracy(model, digits) > 0.94
    assert scheduler.phase == "fall"
    assert scheduler.max_lr > 30 * rates[1]
    assert scheduler.get_last_lr()[0] < scheduler.max_lr / 20
    assert 0 <= scheduler.lost < UPDATES / 4
    assert "The peak is" in scheduler.events[0].reason
    curve = scheduler.curve
    assert list(curve.lr) == sorted(curve.lr)
    assert list(curve.lr[1:]) == pytest.approx(rates[1 : len(curve.lr)])
    assert any(loss is not None for loss in curve.validation_loss) == (probed and kind == "adamw")
    assert plot_curve(curve)


def test_a_loop_may_hand_the_loss_to_step(digits):
    model = network()
    optimizer = optimizer_of(model, "sgd")
    scheduler = OneCycle(optimizer, max_lr="auto", total_steps=60, model=model)
    for t in range(60):
        picked = torch.randperm(len(digits[0]), generator=torch.Generator().manual_seed(t))[:64]
        loss = F.cross_entropy(model(digits[0][picked]), digits[1][picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    assert scheduler.max_lr is not None
    assert accuracy(model, digits) > 0.85


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_run_that_is_resumed_at_any_update_is_the_same_run(digits, kind):
    def begin():
        model = network(dropout=0.1)
        optimizer = optimizer_of(model, kind)
        return model, optimizer, OneCycle(optimizer, "auto", 80, model=model, probe=probe_of(model, digits))

    whole = begin()
    rates = updates(*whole, digits, 0, 80)
    model, optimizer, scheduler = begin()
    again = []
    for at in range(0, 80, 10):
        again += updates(model, optimizer, scheduler, digits, at, at + 10)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (model, optimizer, scheduler)], file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        model, optimizer, scheduler = begin()
        for part, state in zip((model, optimizer, scheduler), saved, strict=True):
            part.load_state_dict(state)
    assert again == rates
    assert scheduler.events == whole[2].events
    assert scheduler.curve == whole[2].curve
    assert scheduler.lost == whole[2].lost
    for mine, its in zip(model.state_dict().values(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def test_accumulated_losses_count_by_their_mean(digits):
    peaks = []
    for pieces in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = optimizer_of(model, "sgd")
        scheduler = OneCycle(optimizer, "auto", 100, model=model)
        updates(model, optimizer, scheduler, digits, 0, 100, pieces=pieces)
        peaks.append(scheduler.max_lr)
    assert peaks[0] == pytest.approx(peaks[1], rel=0.05)


def test_the_probe_leaves_no_trace(digits):
    model = network(dropout=0.5)
    optimizer = optimizer_of(model, "adamw")
    scheduler = OneCycle(optimizer, "auto", 100, model=model, probe=probe_of(model, digits))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    scheduler._seen.probe_loss()
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert not model[2].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_groups_keep_their_ratio_and_frozen_layers_their_weights(digits):
    model = network()
    model[1].weight.requires_grad_(False)
    frozen = model[1].weight.clone()
    groups = [{"params": [model[1].bias, *model[2].parameters()]}, {"params": model[5].parameters(), "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = OneCycle(optimizer, "auto", 100, model=model)
    updates(model, optimizer, scheduler, digits, 0, 100)
    first, second = scheduler.get_last_lr()
    assert second == pytest.approx(first / 2)
    assert torch.equal(model[1].weight, frozen)
    assert accuracy(model, digits) > 0.8


def test_a_step_that_a_scaler_skips_is_no_update(digits):
    model = network()
    optimizer = optimizer_of(model, "sgd")
    scheduler = OneCycle(optimizer, "auto", 50, model=model)
    updates(model, optimizer, scheduler, digits, 0, 3)
    rate, made = scheduler.get_last_lr(), scheduler.last_epoch
    scheduler.step(torch.tensor(1.0))  # no optimizer.step() before
    assert scheduler.get_last_lr() == rate
    assert scheduler.last_epoch == made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"total_steps": 100}, "give model="),
        ({"total_steps": 10, "model": True}, "take 20 whole updates or more"),
        ({"total_steps": 100, "model": True, "base_lr": 0.1}, "no choice of base_lr: leave that out"),
        ({"total_steps": 100, "model": True, "max_lr": "car"}, "not 'car'"),
        ({"total_steps": 100, "model": True, "max_lr": 0.1}, "belong to max_lr='auto'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, said):
    model = network()
    options = {"max_lr": "auto", **options} | ({"model": model} if options.get("model") else {})
    with pytest.raises(ValueError, match=said) as refused:
        OneCycle(optimizer_of(model, "sgd"), **options)
    assert "\n" not in str(refused.value)


def test_without_a_loss_it_says_what_to_call(digits):
    model = network()
    optimizer = optimizer_of(model, "sgd")
    scheduler = OneCycle(optimizer, "auto", 50, model=model)
    F.cross_entropy(model(digits[0]), digits[1]).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"scheduler.step\(loss\)"):
        scheduler.step()


def test_a_longer_run_holds_its_last_rate(digits):
    model = network()
    optimizer = optimizer_of(model, "sgd")
    scheduler = OneCycle(optimizer, "auto", 40, model=model)
    updates(model, optimizer, scheduler, digits, 0, 40)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rates = updates(model, optimizer, scheduler, digits, 40, 44)
    assert len({round(rate, 12) for rate in rates[1:]}) == 1
    assert sum("made for 40 updates" in str(each.message) for each in said) == 1


TWO = """
import gc, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
from superconv import OneCycle
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = KIND(model.parameters(), lr=1e-3)
parallel = torch.nn.parallel.DistributedDataParallel(model)
draw = torch.Generator().manual_seed(rank)
x0 = torch.randn(64, 4, generator=draw)
probe = lambda: F.mse_loss(model(x0), x0.sum(1, keepdim=True))
scheduler = OneCycle(optimizer, "auto", 60, model=parallel, probe=probe)
for _ in range(60):
    x = torch.randn(8, 4, generator=draw)
    loss = F.mse_loss(parallel(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step(loss)
sys.stdout.write(f"rank {rank}: {scheduler.max_lr} {scheduler.events} {model[0].weight.sum().item()}\\n")
del parallel, scheduler
dist.destroy_process_group()
gc.collect()  # the last reference to the group joins gloo's threads; one that still works while Python ends aborts it
"""


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_two_processes_decide_alike(tmp_path, kind):
    script = tmp_path / "two.py"
    script.write_text(TWO.replace("KIND", f"torch.optim.{kind}"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith("rank"))
    assert told["rank 0"] == told["rank 1"]
    assert "The peak is" in told["rank 0"]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_scaled_loss_in_bf16_finds_about_the_same_peak(digits, kind):
    peaks = []
    for scale in (None, 2.0**10):
        model = network()
        optimizer = optimizer_of(model, kind)
        scheduler = OneCycle(optimizer, "auto", 100, model=model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for t in range(100):
            picked = torch.randperm(len(digits[0]), generator=torch.Generator().manual_seed(t))[:64]
            with torch.autocast("cpu", torch.bfloat16, enabled=scale is not None):
                loss = F.cross_entropy(model(digits[0][picked]), digits[1][picked])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step(loss)
        assert accuracy(model, digits) > 0.9
        peaks.append(scheduler.max_lr)
    assert 0.5 < peaks[0] / peaks[1] < 2
