"""Other networks and data sets: wide, dense, shallow, LeNet, ImageNet."""

from dataclasses import replace
from typing import Any

from superconv.recipe import Recipe
from superconv.reproduction.experiment import Arm, Experiment
from superconv.reproduction.range_tests import SHALLOW
from superconv.reproduction.scales import Scale, steps_of
from superconv.specs.run import RunSpec

INCEPTION = "timm.models.inception_resnet_v2:inception_resnet_v2"
MNIST_IMAGES, IMAGENET_IMAGES = 60_000, 1_281_167
CYCLED = {"momentum": 0.95, "min_momentum": 0.85}


def wide(scale: Scale) -> Experiment:
    """The wide ResNet."""
    *cycles, longest = scale.wide_steps
    images, batch = scale.rest.images, scale.small_batch
    paper = {2450: 0.873, 4900: 0.913, 9800: 0.919} if scale.exact else {cycles[-1]: 0.919}
    rising = {2450: 12 / 25, 4900: 23 / 50}  # shares of the run, by the stepsizes of 1803.09820
    arms: dict[str, Arm] = {}
    for steps in cycles:
        fields = {"batch_size": batch, "base_lr": 0.1, "warmup": rising.get(steps, 0.45), **CYCLED}
        recipe = _one_cycle(scale, steps, 0.5 if steps == 2450 else 1.0, **fields)
        spec = scale.run(recipe, images=images, model=scale.wide)
        arms[f"cycle{steps}"] = Arm(name=f"one cycle, {steps:,} updates", specs=(spec,), paper=paper.get(steps))
    recipe = scale.piecewise(longest, 0.1, batch_size=batch)
    spec = scale.run(recipe, images=images, model=scale.wide)
    arms["piecewise"] = Arm(name=f"piecewise constant, {longest:,} updates", specs=(spec,), paper=0.903)
    return Experiment(
        name="wide",
        title="The wide ResNet",
        figure="Table 3; arXiv 1803.09820",
        arms=arms,
        seeds=scale.seeds,
        note="The paper's numbers are of 32 layers, cycles of 25, 50 and 100 passes, and 800 passes of the baseline."
        + ("" if scale.exact else f" Here: {scale.wide}, the paper's longest cycle standing beside the longest here."),
    )


def dense(scale: Scale) -> Experiment:
    """The dense network."""
    images, batch = scale.rest.images, scale.small_batch
    if not scale.dense_trains:
        recipe = scale.range_test(scale.block_steps, 4.0, batch_size=batch, weight_decay=1e-6)
        arms = {"range": Arm(name=scale.dense, specs=(scale.sweep(recipe, model=scale.dense),))}
        note = "At this scale it is swept, not trained."
    else:
        arms, note = {}, ""
        for epochs, half, accuracy in ((50, 22, 0.917), (75, 34, 0.921), (100, 45, 0.922), (150, 70, 0.928)):
            steps = steps_of(epochs, 50_000, batch)
            fields = {"momentum": 0.9, "min_momentum": 0.85, "weight_decay": 1e-6}
            recipe = _one_cycle(scale, steps, 4.0, batch_size=batch, base_lr=0.1, warmup=half / epochs, **fields)
            spec = scale.run(recipe, images=images, model=scale.dense)
            arms[f"cycle{epochs}"] = Arm(name=f"one cycle, {epochs} passes", specs=(spec,), paper=accuracy)
        recipe = scale.piecewise(steps_of(400, 50_000, batch), 0.1, batch_size=batch)
        spec = scale.run(recipe, images=images, model=scale.dense)
        arms["piecewise"] = Arm(name="piecewise constant, 400 passes", specs=(spec,), paper=0.927)
    return Experiment(
        name="densenet",
        title="DenseNet",
        figure="Table 3; arXiv 1803.09820",
        kind="training" if scale.dense_trains else "range_test",
        arms=arms,
        seeds=scale.seeds,
        note=note,
    )


def shallow(scale: Scale) -> Experiment:
    """A network whose range test peaks."""
    fields: dict[str, Any] = {"batch_size": 100, "weight_decay": 3e-3}
    cycle = scale.cycle(scale.rest.cycle, 0.005, **{**fields, "base_lr": 0.0005})
    recipes = {"cycle": cycle, "piecewise": scale.piecewise(scale.rest.piecewise, 0.001, **fields)}
    names = {"cycle": f"one cycle, {cycle.steps:,} updates", "piecewise": "piecewise constant, "}
    names["piecewise"] += f"{scale.rest.piecewise:,} updates"
    return Experiment(
        name="shallow",
        title="A shallow network, whose range test peaks",
        figure="arXiv 1803.09820, section 4.2; not in the paper",
        arms={
            key: Arm(name=names[key], specs=(scale.run(recipe, images=scale.rest.images, **SHALLOW),))
            for key, recipe in recipes.items()
        },
        seeds=scale.seeds,
        note="Caffe's example network of three convolutions, at its own rate of 0.001 and a cycle of 0.0005 to 0.005.",
    )


def mnist(scale: Scale) -> Experiment:
    """LeNet on MNIST."""
    *cycles, longest = scale.mnist_epochs
    paper = dict(zip((12, 25, 50, 85), (0.9925, 0.9928, 0.9927, 0.9935), strict=True))
    rising: dict[float, float] = {12: 5 / 12, 25: 12 / 25, 50: 23 / 50, 85: 40 / 85} if scale.exact else {}
    arms: dict[str, Arm] = {}
    for epochs in scale.mnist_epochs if scale.exact or longest == 85 else cycles:
        low, high = (0.02, 0.2) if epochs == 85 else (0.01, 0.1)
        steps = steps_of(epochs, MNIST_IMAGES, scale.small_batch)
        fields = {"weight_decay": 5e-4, "momentum": 0.95, "min_momentum": 0.8, "batch_size": scale.small_batch}
        fields |= {"base_lr": low, "warmup": rising.get(epochs, 0.45)}
        spec = _mnist(scale, _one_cycle(scale, steps, high, **fields))
        arms[f"cycle{epochs:g}"] = Arm(
            name=f"one cycle, {epochs:g} passes", specs=(spec,), paper=paper.get(int(epochs))
        )
    steps = steps_of(longest, MNIST_IMAGES, scale.small_batch)
    recipe = scale.piecewise(steps, 0.01, weight_decay=5e-4, batch_size=scale.small_batch)
    name = f"piecewise constant, {longest:g} passes"
    arms["piecewise"] = Arm(name=name, specs=(_mnist(scale, recipe),), paper=0.9900)
    return Experiment(
        name="mnist",
        title="LeNet on MNIST",
        figure="Table 3; arXiv 1803.09820",
        arms=arms,
        seeds=scale.seeds,
        note="The paper has cycles of 12, 25, 50 and 85 passes, and 85 of the baseline: 99.00 % piecewise constant, "
        "99.03 % with Caffe's policy inv, which is left out here.",
    )


def imagenet(scale: Scale) -> Experiment:
    """ImageNet, where somebody has it."""
    arms: dict[str, Arm] = {}
    batch = 256
    steps, longer = (steps_of(epochs, IMAGENET_IMAGES, batch) for epochs in (20, 100))
    task: dict[str, Any] = {"data": "imagenet-1k", "shuffle": True, "normalization": "channel", "validation": 0}
    nets = (("resnet50", "resnet50", 224, 0.676, 0.637), ("inception", INCEPTION, 299, 0.740, 0.676))
    for key, model, side, cycled, standard in nets if scale.imagenet else ():
        fields = {"base_lr": 0.05, "final_lr": 0.0005, "weight_decay": 3e-6, "batch_size": batch, **CYCLED}
        plain: dict[str, Any] = {"optimizer": "SGD", "optimizer_args": {}}
        cycle = scale.recipe(steps=steps, max_lr=1.0, **fields, **plain)
        usual = scale.recipe(steps=longer, max_lr=0.045, batch_size=batch, schedule="piecewise", **plain)
        for name, recipe, accuracy in (("cycle", cycle, cycled), ("piecewise", usual, standard)):
            spec = scale.run(recipe, **{**task, "model": model, "image_size": side, "batch_norm_size": None})
            spec = replace(spec, evaluations=20, evaluation_samples=None)
            arms[f"{key}-{name}"] = Arm(name=f"{key}, {name}", specs=(spec,), paper=accuracy)
    return Experiment(
        name="imagenet",
        title="ImageNet",
        figure="Figure 7",
        arms=arms,
        seeds=1,
        note="Batch size and length of the cycle are not known: 256, and nine tenths of 20 passes. The baseline is "
        "piecewise constant over 100 passes, where the paper's lowered 0.045 by 0.94 every second. Inception-ResNet-v2 "
        "is timm's, which has to be installed."
        if scale.imagenet
        else "The data are absent; it is run at full scale only (--scale paper).",
    )


def _one_cycle(scale: Scale, steps: int, max_lr: float, *, warmup: float = 0.45, **fields: Any) -> Recipe:
    """The 1cycle of arXiv 1803.09820: down to a hundredth of the base rate at the end."""
    shape = {"schedule": "one_cycle", "warmup": warmup, "annihilation": 1 - 2 * warmup, "base_lr": max_lr / 10}
    return scale.recipe(steps=steps, max_lr=max_lr, **{**shape, **fields})


def _mnist(scale: Scale, recipe: Recipe) -> RunSpec:
    spec = scale.run(
        recipe, data="mnist", model="lenet", flip="none", normalization="scale" if scale.exact else "channel"
    )
    return replace(spec, evaluation_samples=None)  # Caffe's example tests on the whole split
