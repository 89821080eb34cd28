"""How an update is computed: compiled, in fp16, in parts, and without waiting for the device."""

from dataclasses import replace

import pytest
import torch
from small_tasks import quadratic
from torch import nn
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode

from superconv.data.randomness import Stream, random_bits
from superconv.data.source import TensorSource
from superconv.errors import UserError
from superconv.models.dropout import dropout_rates
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.scores import Scores
from superconv.training.task import Task, image_task
from superconv.training.trainer import Trainer

CPU = ExecutionPlan(device="cpu")


def recipe(**fields) -> Recipe:
    return Recipe(**{"steps": 60, "batch_size": 32, "max_lr": 0.1, **fields})


@pytest.fixture(scope="module")
def task() -> Task:
    return image_task(ImageTask(data="digits"))


def test_fused_sgd_is_not_left_to_skip_updates_of_fp16_itself(task):
    """Skipping its first one, torch's kernel keeps uninitialised memory as momentum."""
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU"):
        trainer = Trainer(task, recipe(), plan=replace(CPU, precision="16-mixed"))
    optimizer, scaler = trainer.optimizers[0].optimizer, torch.amp.GradScaler("cpu")
    scaler.scale(sum(p.sum() for p in trainer.model.parameters()) * float("inf")).backward()
    scaler.step(optimizer)
    assert not optimizer.state


def test_fp16_refuses_several_optimizers_whose_scaling_it_would_mix_up(task):
    def two(model, recipe):
        return [torch.optim.SGD(half, lr=0.1) for half in zip(*[iter(model.parameters())] * 2, strict=False)][:2]

    with pytest.raises(UserError, match="fp16 is for one optimizer"), pytest.warns(UserWarning, match="fp16"):
        Trainer(replace(task, optimizer=two), recipe(), plan=replace(CPU, precision="16-mixed"))


def test_an_evaluation_of_few_samples_takes_them_from_everywhere():
    """The files of a folder lie class by class."""
    source = TensorSource(torch.arange(10.0)[:, None], torch.arange(10.0))
    told = replace(quadratic(), model=lambda: nn.Linear(1, 1), loss=lambda _, target: target.mean(), validation=source)
    trainer = Trainer(told, recipe(), plan=CPU)
    assert trainer.evaluate(source, samples=5)["loss"] == 4.0  # of 0, 2, 4, 6 and 8
    assert trainer.evaluate(source)["loss"] == 4.5


@pytest.mark.slow
def test_a_compiled_run_learns_as_an_eager_one(task):
    """The mode that replays CUDA graphs on a GPU; here it only compiles."""
    plain = replace(task, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), test=None)
    eager = train(plain, recipe(), plan=CPU, evaluations=3)
    before = counters["stats"]["unique_graphs"]
    compiled = train(plain, recipe(), plan=ExecutionPlan.choose(plan="fp32,compiled=reduce-overhead"), evaluations=3)
    assert counters["stats"]["unique_graphs"] > before
    assert compiled.scores["validation_accuracy"] == eager.scores["validation_accuracy"]
    for name, weight in eager.model.state_dict().items():
        assert torch.allclose(compiled.model.state_dict()[name], weight, atol=1e-4)


class Transfers(TorchFunctionMode):
    """Counts what is brought to the `meta` device, which stands for a GPU that the host would wait for."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = function in (torch.tensor, torch.as_tensor, torch.Tensor.to, torch.Tensor.copy_)
        here = not any(isinstance(a, torch.Tensor) and a.is_meta for a in args)
        self.count += made and here and result.is_meta
        return result


def test_an_update_brings_no_tensor_of_its_own_to_the_device():
    def mean(output, target):
        return output.mean()

    scores = Scores(mean, torch.device("meta"))
    with Transfers() as transfers:
        for samples in (4, 4, 3):
            scores.add(torch.empty(samples, 10, device="meta"), torch.empty(samples, device="meta"), scores.sums[0])
        assert scores.sums.is_meta
        assert random_bits(0, Stream.FIRST_FLIP, 0, torch.empty(4, dtype=torch.int64, device="meta")).is_meta
    assert transfers.count == 0


def test_a_recipe_s_dropout_is_the_most_of_every_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.3)
    model = nn.Sequential(layer, nn.GRU(8, 8, num_layers=2, dropout=0.4), nn.Dropout2d(0.05))
    assert dropout_rates(model) == (0.05, 0.3, 0.4)
    task = replace(quadratic(), model=lambda: model)
    Trainer(task, recipe(), plan=CPU)
    assert dropout_rates(model) == (0.05, 0.3, 0.4)
    Trainer(task, recipe(dropout=0.1), plan=CPU)
    assert dropout_rates(model) == (0.05, 0.1)
    assert (layer.self_attn.dropout, model[1].dropout) == (0.1, 0.1)


def test_scores_are_means_over_samples_of_batches_of_any_size():
    scores, generator = Scores(lambda output, target: output.mean(), torch.device("cpu")), torch.Generator()
    batches = [torch.randn(size, 1, generator=generator.manual_seed(size)) for size in (4, 4, 3, 4)]
    for batch in batches:
        scores.add(batch, batch, batch.square().mean())
    together = torch.cat(batches).double()
    assert scores.sums.tolist() == pytest.approx(
        [together.square().sum().item(), together.sum().item(), 15, 15], rel=1e-5
    )


@pytest.fixture
def modes(monkeypatch):
    """Modes that are asked for of a compiler that takes no time."""
    asked, compiler = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode: asked.append(mode) or compiler(f, backend="aot_eager"))
    return asked


def test_gradients_of_several_parts_are_not_kept_in_cuda_graphs(task, modes):
    for accumulate in (1, 2):
        Trainer(task, recipe(accumulate=accumulate), plan=replace(CPU, compiled="max-autotune"))
    assert modes == ["max-autotune", "default"]


def test_curvature_is_probed_eagerly_under_a_compiled_plan(task, modes):
    hooks = [EstimateHook(Estimation(forms={}, probe_every=2)) for _ in range(2)]
    for plan, hook in zip((CPU, replace(CPU, compiled="default")), hooks, strict=True):
        train(task, recipe(steps=2, schedule="constant"), plan=plan, hooks=[hook], evaluations=0)
    eager, compiled = (hook.rows[-1]["eigenvalue"] for hook in hooks)
    assert modes == ["default"]
    assert compiled == pytest.approx(eager, rel=1e-3)
