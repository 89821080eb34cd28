"""The record network and recipe, and a speed run of a few seconds."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_files import write_parquet
from PIL import Image
from torch import nn
from torch._dynamo.utils import counters

from superconv.cli import main
from superconv.errors import UserError
from superconv.models.record import RecordNet
from superconv.recipe import Recipe
from superconv.studies.speedrun import (
    ATTEMPTS,
    BIAS_RATE,
    ENDLESS,
    Attempt,
    FreezeWhitening,
    attempt,
    record_optimizer,
    record_recipe,
    speedrun,
)
from superconv.training.averaging import Lookahead
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan

SHAPE = (3, 32, 32)


def network(**options) -> RecordNet:
    torch.manual_seed(0)
    return RecordNet(num_classes=10, image_shape=SHAPE, **{"width": 4, **options})


def images(count: int = 64) -> torch.Tensor:
    """Images whose pixels resemble their neighbours, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=generator).cumsum(2).cumsum(3) / 20


def test_the_attempt_is_the_smallest_that_reaches_the_target():
    assert attempt(0.8) == attempt(0.8, width=ATTEMPTS[0].width)
    assert (attempt(0.9).width, attempt(0.9).epochs) == (ATTEMPTS[1].width, ATTEMPTS[1].epochs)
    assert attempt(0.96, width=128, epochs=30).epochs == 30
    for beyond in (0.96, 94.0, 0.0):
        with pytest.raises(UserError, match=r"target|beyond"):
            attempt(beyond)


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    model = network()
    model.whiten(images())
    outputs = model.whitening(images())[:, :12].transpose(0, 1).flatten(1)
    covariance = (outputs @ outputs.T / outputs.shape[1]).detach()
    # Directions of next to no variance stay small: the epsilon of the paper keeps noise from being blown up.
    strong = covariance.diagonal() > 0.9
    assert strong.sum() >= 6
    assert torch.allclose(covariance[strong][:, strong], torch.eye(int(strong.sum())), atol=0.1)
    both_signs = model.whitening.weight.detach()
    assert torch.equal(both_signs[:12], -both_signs[12:])


def test_logits_in_evaluation_are_means_over_views():
    model = network(views=2).eval()
    single = network(views=1).eval()
    single.load_state_dict(model.state_dict())
    batch = images(8)
    assert torch.allclose(model(batch), (single(batch) + single(batch.flip(-1))) / 2, atol=1e-6)
    padded = F.pad(batch, (1, 1, 1, 1), mode="reflect")
    shifted = (model(padded[..., :-2, :-2]) + model(padded[..., 2:, 2:])) / 2
    expected = (model(batch) + shifted) / 2
    model.views = 6
    assert torch.allclose(model(batch), expected, atol=1e-6)


def test_convolutions_begin_as_partial_identities():
    layer = next(m for m in network().groups.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 4)
    expected = torch.zeros(4, 4, 3, 3)
    nn.init.dirac_(expected)
    assert torch.equal(layer.weight[:4].detach(), expected)


def test_small_images_are_refused():
    with pytest.raises(UserError, match="31×31"):
        RecordNet(num_classes=10, image_shape=(1, 28, 28))


def test_the_recipe_is_the_published_one_at_its_batch():
    recipe = record_recipe(steps=480, batch_size=1024)
    scale = 1 + 1 / (1 - 0.85)
    assert recipe.max_lr == pytest.approx(11.5 / scale, rel=1e-3)
    assert recipe.max_lr * recipe.weight_decay == pytest.approx(0.0153 / scale, rel=1e-3)
    assert recipe.label_smoothing == 0.2
    rate = recipe.learning_rate()
    assert rate(round(0.23 * 480)) == pytest.approx(recipe.max_lr, rel=0.02)


def test_biases_of_batch_norms_have_64_times_the_rate_and_the_same_decay():
    model = network()
    optimizer = record_optimizer(model, record_recipe(steps=100, batch_size=512))
    others, biases = optimizer.param_groups
    assert len(biases["params"]) == 6
    assert biases["lr"] == pytest.approx(BIAS_RATE * others["lr"])
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(others["lr"] * others["weight_decay"])
    grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}


def trainer_of(module: nn.Module, steps: int) -> SimpleNamespace:
    recipe = Recipe(steps=steps, batch_size=1, max_lr=1.0)
    return SimpleNamespace(module=module, recipe=recipe, step=0)


def test_lookahead_follows_its_definition():
    module, steps = nn.Linear(1, 1, bias=False), 22
    hook, trainer = Lookahead(start=0.4, every=5, decay=0.9), trainer_of(module, steps)
    weight = average = None
    for step in range(1, steps + 1):
        trainer.step = step
        with torch.no_grad():
            module.weight.fill_(float(step) if weight is None else weight + 1)
        weight = module.weight.item()
        hook.on_update(trainer)
        if step == 10:
            average = weight
        elif step in (15, 20):
            kept = 0.9**5 * (step / steps) ** 3
            average = weight = kept * average + (1 - kept) * weight
        elif step == steps:
            weight = average  # the run ends on its average
        assert module.weight.item() == pytest.approx(weight, rel=1e-6)


def test_the_whitening_bias_learns_only_at_first():
    model = network()
    hook, trainer = FreezeWhitening(until=0.3), trainer_of(model, 20)
    learning = []
    for trainer.step in range(1, 21):
        hook.on_update(trainer)
        learning.append(model.whitening.bias.requires_grad)
    assert learning == [True] * 5 + [False] * 15


@pytest.fixture
def halves(tmp_path) -> str:
    """A folder of noisy images whose lower half is bright in one class of two."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        labels = [i % 2 for i in range(count)]
        bright = (np.arange(32)[:, None, None] > 15) * 150
        pictures = [_png(generator.integers(0, 80, (32, 32, 3)) + bright * label) for label in labels]
        write_parquet(tmp_path / "halves" / f"{split}-00000-of-00001.parquet", pictures, labels)
    return str(tmp_path / "halves")


def test_a_speed_run_learns_and_reports_every_seed(halves):
    seen = []
    chosen = Attempt(target=0.9, width=4, epochs=100, batch_size=60)
    plan = "fp32,channels_last,eager,threads=1"
    result = speedrun(halves, chosen, seeds=range(2), words=plan, report=lambda *row: seen.append(row))
    assert [row[0] for row in seen] == [0, 1]
    assert result.accuracies == [row[2] for row in seen]
    assert result.reached == sum(a >= 0.9 for a in result.accuracies) == 2
    assert result.reached == len(result.seconds)
    assert result.plan == plan


def test_everything_is_compiled_in_the_warm_up(halves, monkeypatch):
    compiler, graphs = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f, mode: compiler(f, backend="aot_eager"))

    class Counts(Hook):
        def on_start(self, trainer):
            graphs.append(counters["stats"]["unique_graphs"])

    before = counters["stats"]["unique_graphs"]
    speedrun(
        halves,
        Attempt(target=0.9, width=2, epochs=20, batch_size=60),
        seeds=(0,),
        words="fp32,compiled",
        hooks=[Counts()],
        report=lambda *_: graphs.append(counters["stats"]["unique_graphs"]),
    )
    assert before < graphs[0] == graphs[1]


def test_on_a_gpu_compiling_need_not_pay(halves, monkeypatch):
    searched = []

    def search(task, recipe, **options):
        searched.append(recipe.steps)
        return ExecutionPlan()

    monkeypatch.setattr("superconv.studies.speedrun.plan_for", search)
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(ExecutionPlan, "choose", lambda device: ExecutionPlan(device=device))
        speedrun(halves, Attempt(target=0.9, width=2, epochs=20, batch_size=60), seeds=(0,), device=device)
    assert searched == [ENDLESS, 20]


def test_the_command_writes_all_numbers(halves, tmp_path, capsys):
    out = tmp_path / "speedrun.json"
    line = ["speedrun", halves, "--target", "0.5", "--width", "2", "--seeds", "1", "--plan", "fp32,eager"]
    assert main([*line, "--out", str(out)]) == 0
    stored = json.loads(out.read_text())
    assert stored["attempt"] == {"target": 0.5, "width": 2, "epochs": 5, "batch_size": 512}
    assert stored["warmup_seconds"] > 0
    assert stored["command"].startswith("superconv speedrun")
    assert f"missed by {1 - stored['reached']} of 1" in " ".join(capsys.readouterr().out.split())


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
