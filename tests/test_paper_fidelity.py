"""What the paper's runs were made of, against slow references written from FACTS of the author's logs and files."""

from dataclasses import replace
from functools import partial

import numpy as np
import paper_networks as reference
import pytest
import torch
import torch.nn.functional as F
from data_files import write_folder
from PIL import Image
from torch import nn

from superconv import models, optim
from superconv.data import Augmentation, ImageTransform, load
from superconv.data.reading.digits import load_digits
from superconv.data.streaming import StreamedImages
from superconv.errors import UserError
from superconv.models.norm import GhostBatchNorm
from superconv.optim import CaffeSGD
from superconv.rates.hessian_free import CurvatureEstimate
from superconv.rates.one_cycle import OneCycle
from superconv.rates.range_test import RangeTest
from superconv.recipe import Recipe
from superconv.reproduction.experiments import experiments
from superconv.reproduction.scales import PAPER
from superconv.runs.classifier import load_run
from superconv.runs.folder import RunFolder
from superconv.runs.runner import run_task
from superconv.specs.image_task import ImageTask
from superconv.training import optimizers
from superconv.training.hooks import Stages
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import image_task
from superconv.training.trainer import Trainer

FP64 = ExecutionPlan(device="cpu", precision="64-true", channels_last=False)
CAFFE = {"optimizer": "CaffeSGD", "optimizer_args": {"caffe_multipliers": True}, "min_momentum": None}
PAPER_TASK = ImageTask(
    data="digits",
    model="resnet8-author",
    batch_norm_size=25,
    batch_norm_average=0.95,
    normalization="mean_image",
    shuffle=False,
    train_samples=500,
    validation=0,
)


pytestmark = pytest.mark.usefixtures("own_cache")


def triangular(t: int, base: float, peak: float, stepsize: int) -> float:
    cycle = t // (2 * stepsize)
    return base + (peak - base) * max(0.0, 1 - abs(t / stepsize - 2 * cycle - 1))


def digits(task: ImageTask) -> tuple[torch.Tensor, torch.Tensor]:
    """The task's training images less the mean image of all, in their order; labels."""
    everything, _ = load_digits().splits["train"]
    train = image_task(task).train
    mean = torch.tensor(everything.astype(np.float64).sum(0) / len(everything))
    return (train.images.double().float() - mean.float()).double(), train.labels


@pytest.mark.parametrize(("nesterov", "clip"), [(False, None), (True, None), (False, 0.5)])
def test_training_steps_are_those_of_the_author_s_files(nesterov, clip):
    """Network, mean image, order, batch norm by chunks and its averages, schedule, solver and multipliers at once."""
    steps, batch = 8, 100  # a cycle of stepsize 4 and more than an epoch of 500 images
    exact = 1e-9 if clip is None else 1e-5  # torch adds 1e-6 to the norm that it divides by
    paper = experiments(PAPER)["fig1a"].arms["cycle"].specs[0]  # everything but sizes and rates is the paper's
    task = replace(paper.task, data="digits", model="resnet8-author", batch_norm_size=25, train_samples=500)
    task = replace(task, flip="none")  # which images are mirrored was Caffe's chance
    fields = {"steps": steps, "batch_size": batch, "base_lr": 0.01, "max_lr": 0.09, "weight_decay": 1e-2}
    args = {**paper.recipe.optimizer_args, "nesterov": nesterov}
    recipe = replace(paper.recipe, **fields, optimizer_args=args, clip_norm=clip)
    unrounded = Stages(predict=lambda model, inputs: model.module(inputs))  # the wrapper rounds its output to fp32
    trainer = Trainer(image_task(task), recipe, plan=FP64, stages=unrounded)
    model = trainer.model.module
    weights = {name: p.detach().clone().requires_grad_(True) for name, p in model.named_parameters()}
    images, labels = digits(task)
    history, sums, count = {}, {}, 0.0
    batches = trainer.batches()
    for t in range(steps):
        rows = torch.arange(t * batch, (t + 1) * batch) % 500
        net = reference.Net(weights, chunk=25)
        loss = F.cross_entropy(reference.author_resnet(net, images[rows]), labels[rows])
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        if clip is not None:
            size = sum(g.square().sum() for g in gradients.values()).sqrt()
            assert size > clip
            gradients = {k: g * clip / size for k, g in gradients.items()}
        lr = triangular(t, 0.01, 0.09, 4)
        reference.caffe_step(weights, history, gradients, lr=lr, momentum=0.9, decay=1e-2, nesterov=nesterov)
        count = 0.95 * count + 1
        for name, statistics in net.statistics.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = tuple(0.95 * s + new for s, new in zip(old, statistics, strict=True))
        trainer.update(batches)
        assert trainer.lr == pytest.approx(lr, rel=1e-12)
        assert trainer.read()["loss"] == pytest.approx(loss.item(), rel=exact)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name].detach(), rtol=100 * exact, atol=exact)
    for name, (mean, variance) in sums.items():
        norm = model.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, mean / count, rtol=100 * exact, atol=exact)
        torch.testing.assert_close(norm.running_var, variance / count, rtol=100 * exact, atol=exact)


@pytest.mark.parametrize(
    ("name", "network", "shape"),
    [
        ("resnet14-author", partial(reference.author_resnet, blocks=2), (3, 12, 8)),  # even sides, as the author's
        ("wrn8", partial(reference.author_resnet, growth=4), (3, 12, 8)),
        ("lenet", reference.lenet, (1, 16, 15)),
        ("bottleneck11-author", reference.author_bottleneck, (3, 12, 9)),
        ("bottleneck20-author", partial(reference.author_bottleneck, blocks=2), (3, 12, 9)),
        ("resnext11-author", partial(reference.author_bottleneck, groups=32), (3, 12, 12)),
        ("densenet10", reference.densenet, (3, 12, 9)),
        ("cifar10-full", reference.cifar10_full, (3, 17, 12)),
        ("resnet50", reference.resnet50, (3, 40, 33)),
    ],
)
def test_a_training_step_of_every_network(name, network, shape):
    torch.manual_seed(0)
    model = models.create(name, num_classes=5, image_shape=shape, batch_norm_size=3).double()
    if name == "cifar10-full":  # from its first weights of 1e-4 nothing would reach the normalisations
        for p in model.parameters():
            nn.init.normal_(p, std=0.1)
    images, labels = 20 * torch.randn(6, *shape, dtype=torch.float64), torch.arange(6) % 5
    weights = {k: p.detach().clone().requires_grad_(True) for k, p in model.named_parameters()}
    loss = F.cross_entropy(network(reference.Net(weights, chunk=3), images), labels)
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    reference.caffe_step(weights, {}, gradients, lr=0.1, momentum=0.9, decay=1e-3)
    optimizer = CaffeSGD(optim.caffe_groups(model, lr=0.1, weight_decay=1e-3), momentum=0.9)
    ours = F.cross_entropy(model(images), labels)
    ours.backward()
    optimizer.step()
    torch.testing.assert_close(ours, loss, rtol=1e-9, atol=1e-12)
    for k, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[k].detach(), rtol=1e-6, atol=1e-8, msg=k)


def test_the_author_s_bottleneck_tests_with_the_statistics_of_the_batch():
    torch.manual_seed(0)
    model = models.create("resnext11-author", num_classes=4, image_shape=(3, 8, 8), batch_norm_size=5).double().eval()
    images = torch.randn(12, 3, 8, 8, dtype=torch.float64)
    weights = dict(model.named_parameters())
    expected = reference.author_bottleneck(reference.Net(weights, chunk=5), images, groups=32)
    torch.testing.assert_close(model(images), expected)
    assert not list(model.buffers())


def test_the_bottleneck_s_initialisation():
    model = models.create("resnext56-author", num_classes=10, image_shape=(3, 32, 32))
    grouped = model.blocks[-1].residual[5]
    assert grouped.weight.std().item() == pytest.approx((2 / (4 * 9)) ** 0.5, rel=0.05)  # 4 channels a group
    assert model.head.weight.abs().max().item() <= (3 / 256) ** 0.5
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_caffe_s_solver_differs_from_torch_s_by_where_the_rate_is():
    """Equal at a constant rate; at rate 0 Caffe's goes on by its history alone, unscaled."""
    first, second = (nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    ours = CaffeSGD([first], lr=torch.tensor(0.1, dtype=torch.float64), momentum=0.5, weight_decay=0.1)
    theirs = torch.optim.SGD([second], lr=0.1, momentum=0.5, weight_decay=0.1)
    for t in range(4):
        for p, optimizer in ((first, ours), (second, theirs)):
            p.grad = torch.tensor([t - 1.0, 2.0], dtype=torch.float64)
            optimizer.step()
    torch.testing.assert_close(first, second)
    before, history = first.detach().clone(), ours.state[first]["history"].clone()
    ours.param_groups[0]["lr"] = 0.0
    ours.step()
    torch.testing.assert_close(first.detach(), before - 0.5 * history)


def test_caffe_s_solver_follows_a_cycle_resumes_and_is_put_back():
    torch.manual_seed(0)

    def fresh():
        model = nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), nn.Linear(4, 2, dtype=torch.float64))
        model.load_state_dict(start)
        optimizer = CaffeSGD(optim.caffe_groups(model, lr=0.1, weight_decay=0.01), momentum=0.95, nesterov=True)
        return model, optimizer, OneCycle(optimizer, max_lr=0.02, total_steps=20)

    def steps(model, optimizer, scheduler, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step(), scheduler.step()

    x = torch.randn(5, 3, dtype=torch.float64)
    start = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().state_dict()
    whole, first, second = fresh(), fresh(), fresh()
    steps(*whole, 12)
    steps(*first, 7)
    for part, saved in zip(second, first, strict=True):
        part.load_state_dict(saved.state_dict())
    with RangeTest(second[0], second[1], max_lr=3.0, steps=5) as test:
        for _ in test.iterate(range(5)):
            second[1].zero_grad()
            loss = second[0](x).square().sum()
            loss.backward()
            second[1].step()
            test.record(loss)
    steps(*second, 5)
    assert whole[0](x).square().sum() < 0.5 * first[0](x).square().sum()
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True))
    rates = [group["lr"] for group in whole[1].param_groups]
    assert rates[1] == pytest.approx(2 * rates[0])  # a bias has twice the rate, wherever the cycle stands
    assert {"momentum", "nesterov"} <= whole[1].param_groups[0].keys()


def test_curvature_is_measured_along_caffe_s_solver_too():
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = CaffeSGD([w], lr=0.05, momentum=0.9, weight_decay=0.5)
    estimate = CurvatureEstimate(optimizer)
    for _ in range(20):
        w.grad = 1.5 * w.detach()  # curvature 1.5, and 0.5 of the decay
        optimizer.step()
    assert estimate.raw == pytest.approx(0.5, rel=1e-5)


def test_multipliers_are_those_of_the_author_s_files():
    model = models.create("resnet8-author", num_classes=10, image_shape=(3, 32, 32))
    model.stem[0].weight.requires_grad_(False)
    recipe = Recipe(steps=100, batch_size=10, max_lr=1.0, base_lr=0.0, weight_decay=0.25, **CAFFE)
    found = {id(p): g for g in optimizers.make(model, recipe).param_groups for p in g["params"]}
    weights = dict(model.named_parameters())
    for name, p in weights.items():
        if p.requires_grad:
            rate, decay = reference.multipliers(name, weights)
            # The cycle starts at rate 0: the groups' ratios are there all the same.
            assert (found[id(p)]["lr"], found[id(p)]["weight_decay"]) == (rate, decay * 0.25)
    assert id(model.stem[0].weight) not in found
    adam = optimizers.make(model, Recipe(**{**vars(recipe), "optimizer": "Adam"}))
    assert [g["lr"] for g in adam.param_groups] == [1.0, 2.0, 2.0]  # the author's Adam runs have the same files
    with pytest.raises(UserError, match="CaffeSGD takes no dampening"):
        optimizers.make(model, Recipe(**{**vars(recipe), "optimizer_args": {"dampening": 0.1}}))


@pytest.mark.parametrize("average", [0.0, 0.95, 0.999])
def test_running_averages_are_caffe_s_normalised_sums(average):
    torch.manual_seed(0)
    norm = GhostBatchNorm(3, batch_norm_size=4, average=average).double()
    total_mean = total_variance = count = 0.0
    for _ in range(5):
        x = 3 * torch.randn(10, 3, 2, 5, dtype=torch.float64) + 7
        norm(x)
        first = x[:4].transpose(0, 1).flatten(1)
        total_mean = average * total_mean + first.mean(1)
        total_variance = average * total_variance + first.var(1)  # with m / (m − 1)
        count = average * count + 1
        torch.testing.assert_close(norm.running_mean, total_mean / count)
        torch.testing.assert_close(norm.running_var, total_variance / count)
    expected = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(norm.eval()(x), expected)
    torch.optim.swa_utils.update_bn([x, 3 * x], nn.Sequential(norm))  # a recalibration is the plain mean all the same
    torch.testing.assert_close(norm.running_mean, 2 * x[:4].mean((0, 2, 3)))
    assert norm.num_batches_tracked == 2


def test_the_mean_image_is_taken_off_before_an_image_is_mirrored():
    images = torch.randint(0, 256, (64, 2, 5, 6), dtype=torch.uint8)
    mean = images.double().mean(0)
    nested = tuple(tuple(map(tuple, channel)) for channel in (mean / 255).tolist())
    transform = ImageTransform(nested, (1 / 255,) * 2, Augmentation(flip="random"))
    indices = torch.arange(64)
    batch = transform(images, (indices, indices), seed=0, augment=True)
    centred = (images - mean).float()
    mirrored = torch.isclose(batch, centred.flip(-1), atol=1e-4).flatten(1).all(1)
    kept = torch.isclose(batch, centred, atol=1e-4).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48
    torch.testing.assert_close(transform(images, (indices, indices), seed=0, augment=False), centred)
    shifted = ImageTransform(nested, (1 / 255,) * 2, Augmentation(shift=2))(
        images, (indices, indices), seed=0, augment=True
    )
    assert (shifted == 0).all(1).any(2).sum() > 64  # what a shift uncovers is the mean


def test_the_mean_image_is_that_of_all_training_images(tmp_path):
    everything, _ = load_digits().splits["train"]
    subset = load("digits", train_samples=50, validation=0.2, normalization="mean_image")
    np.testing.assert_allclose(np.array(subset.mean) * 255, everything.mean(0), rtol=1e-12)
    assert subset.std == (1 / 255,)
    write_folder(tmp_path, {"a": 10, "b": 10})  # no test split: two of the twenty are the test
    found = load(tmp_path, validation=0, normalization="mean_image")
    assert len(found.test) == 2
    np.testing.assert_allclose(np.array(found.mean) * 255, found.train.images.double().mean(0), rtol=1e-12)
    caffe = load("digits", normalization="scale")
    pixels, draw = caffe.train.images[:3], (torch.arange(3), torch.arange(3))
    scaled = ImageTransform(caffe.mean, caffe.std)(pixels, draw, seed=0, augment=False)
    torch.testing.assert_close(scaled, pixels.float() / 256)
    with pytest.raises(UserError, match="channel, mean_image, scale, not 'image'"):
        load("digits", normalization="image")


def test_a_run_on_mean_image_input_predicts_and_says_how_it_is_repeated(tmp_path):
    from superconv.report.html import write_report

    task = image_task(PAPER_TASK)
    recipe = Recipe(steps=30, batch_size=50, max_lr=0.1, **CAFFE)
    about = {"task": PAPER_TASK.plain()}
    numbers = run_task(task, recipe, RunFolder(tmp_path), plan=ExecutionPlan(device="cpu"), seed=0, about=about)
    saved = load_run(tmp_path)
    images, labels = (part[:60] for part in load_digits().splits["test"])
    right = 0
    for image, label in zip(images, labels, strict=True):
        Image.fromarray(image[0]).save(tmp_path / "digit.png")
        right += saved.predict(tmp_path / "digit.png").label == str(label)
    assert right / 60 == pytest.approx(numbers["test_accuracy"], abs=0.15)
    assert right > 30
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "the mean image is subtracted" in page
    assert "--normalization mean_image --no-shuffle" in page


def test_unshuffled_training_visits_the_images_in_the_order_of_the_file():
    trainer = Trainer(image_task(PAPER_TASK), Recipe(steps=20, batch_size=200, max_lr=0.1), plan=FP64)
    everything, _ = load_digits().splits["train"]
    images, labels = digits(PAPER_TASK)
    batches = trainer.batches()
    for step in range(6):  # 2.4 epochs
        rows = torch.arange(200 * step, 200 * (step + 1)) % 500
        inputs, targets = next(batches)
        torch.testing.assert_close(inputs, images[rows])
        assert torch.equal(targets, labels[rows])
    places = [int(np.flatnonzero((everything == i.numpy()).all((1, 2, 3)))[0]) for i in trainer.task.train.images]
    assert places == sorted(places)


def test_a_test_of_more_images_than_there_are_goes_on_where_the_last_one_stopped():
    """Caffe reads 25,000 of 10,000 images each time: here 2.5 times the 360 of the digits' test split."""
    trainer = Trainer(image_task(PAPER_TASK), Recipe(steps=20, batch_size=200, max_lr=0.1), plan=FP64)
    trainer.model.eval()
    images = torch.cat([inputs for inputs, _ in trainer.task.test.batches(
        [(torch.zeros(360, dtype=torch.int64), torch.arange(360))], seed=0, augment=False)]).double()  # fmt: skip
    with torch.no_grad():
        right = (trainer.model.module(images).argmax(1) == trainer.task.test.labels).double()
    position = 0
    for test in range(3):
        seen = []
        for _ in range(900):
            seen.append(right[position])
            position = (position + 1) % 360
        found = trainer.evaluate(trainer.task.test, samples=900, start=900 * test)
        assert found["accuracy"] == pytest.approx(float(sum(seen) / 900), abs=1e-6)


def test_imagenet_s_recipe_trains_resnet_50_on_streamed_images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i:02}.png")
    data = load(tmp_path, image_size=64, resident_bytes=0, workers=1, validation=4)
    assert isinstance(data.train, StreamedImages)
    task = image_task(ImageTask(data=str(tmp_path), model="resnet50", image_size=64), data)
    paper = experiments(PAPER)["imagenet"].arms["resnet50-cycle"].specs[0]
    assert (paper.task.data, paper.task.model, paper.recipe.weight_decay) == ("imagenet-1k", "resnet50", 3e-6)
    phases = {"warmup": 0.25, "annihilation": 0.5}  # of a run this short
    recipe = replace(paper.recipe, steps=4, batch_size=4, **phases)
    assert [recipe.learning_rate()(t) for t in range(4)] == [0.05, 1.0, 0.05, 5e-4]
    run = train(task, recipe, plan=ExecutionPlan(device="cpu"), evaluations=1)
    assert run.steps == 4
    assert run.scores["test_accuracy"] in (0.0, 0.5, 1.0)
    assert run.model.head.out_features == 2
