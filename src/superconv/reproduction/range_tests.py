"""Range tests and curvature estimates."""

from typing import Any

from superconv.recipe import Recipe
from superconv.reproduction.experiment import Arm, Experiment
from superconv.reproduction.scales import Scale

SHALLOW: dict[str, Any] = {"model": "cifar10-full", "normalization": "mean_image"}
"""Caffe's example network of three convolutions, on pixels of 0 to 255."""
FIRST_UPDATES = 300  # of 10,000, in Figure 5a


def figure_2a(scale: Scale) -> Experiment:
    """The usual peak."""
    steps = max(400, scale.ranges[0])
    top = 0.02 if scale.exact else 0.05  # a short sweep peaks later
    recipe = scale.range_test(steps, top, batch_size=100, weight_decay=3e-3)
    return Experiment(
        name="fig2a",
        title="The usual range test: a shallow network peaks",
        figure="Figure 2a",
        kind="range_test",
        arms={"shallow": Arm(name=f"{steps:,} updates", specs=(scale.sweep(recipe, **SHALLOW),))},
        seeds=scale.seeds,
        note="The figure is taken from arXiv 1506.01186; the author left no log.",
    )


def figure_2b(scale: Scale) -> Experiment:
    """The flat one, at three lengths."""
    logs = {5000: "range3Iter5kFig2b", 20_000: "range3Iter20kFig2b"}
    arms: dict[str, Arm] = {}
    for steps, alike in zip(scale.ranges, (5000, 20_000, 100_000), strict=True):
        specs = (scale.sweep(scale.range_test(steps)),)
        arms[f"range{steps}"] = Arm(name=f"{steps:,} updates", specs=specs, log=logs.get(alike))
    return Experiment(
        name="fig2b",
        title="Range tests of a network that super-converges, at three lengths",
        figure="Figure 2b",
        kind="range_test",
        arms=arms,
        seeds=scale.seeds,
    )


def figure_4(scale: Scale) -> Experiment:
    """By depth."""
    logs = {20: "range2Res20Fig4b", 56: "range2SS80kRes56wd0"}
    if not scale.exact:
        logs = {scale.depths[0]: logs[20], scale.depths[-1]: logs[56]}
    steps, top = (80_000, 2.0) if scale.exact else (scale.ranges[1], 3.0)
    arms: dict[str, Arm] = {}
    for layers in scale.depths:
        own: dict[str, Any] = {"batch_size": 800} if scale.exact and layers == 110 else {}
        spec = scale.sweep(scale.range_test(steps, top, **own), model=scale.model(layers))
        arms[f"depth{layers}"] = Arm(name=f"{layers} layers", specs=(spec,), log=logs.get(layers))
    return Experiment(
        name="fig4",
        title="Range tests by depth",
        figure="Figures 4a and 4b of the repository",
        kind="range_test",
        arms=arms,
        seeds=scale.seeds,
        note="The author tested his 56 layers with the statistics of the test batches; here it is running ones."
        + ("" if scale.exact else " His curves are of 20 and 56 layers, up to 2."),
    )


def dropout_range(scale: Scale) -> Experiment:
    """With and without dropout."""
    recipe = scale.range_test(scale.ranges[1])
    dropped = scale.sweep(recipe, model_args=(("dropout", 0.2),))
    return Experiment(
        name="dropout-range",
        title="Range tests with and without dropout",
        figure="Figure 10",
        kind="range_test",
        arms={
            "without": Arm(name="without dropout", specs=(scale.sweep(recipe),), log="range3Iter20kFig2b"),
            "with": Arm(name="dropout 0.2", specs=(dropped,), log="lrRange3SS520kDropuoutFig10a"),
        },
        seeds=scale.seeds,
    )


def decay_range(scale: Scale) -> Experiment:
    """Which rates a decay leaves room for."""
    arms: dict[str, Arm] = {}
    for decay in (1e-3, 1e-4, 1e-5):
        specs = (scale.sweep(scale.range_test(scale.ranges[1], weight_decay=decay)),)
        arms[f"decay{decay:g}"] = Arm(
            name=f"decay {decay:g}", specs=specs, log="range3Iter20kFig2b" if decay == 1e-4 else None
        )
    return Experiment(
        name="decay-range",
        title="Range tests by weight decay",
        figure="the paper's section on regularization",
        kind="range_test",
        arms=arms,
        seeds=scale.seeds,
    )


def bottleneck(scale: Scale) -> Experiment:
    """Networks that do not super-converge, with and without clipping."""
    logs = {("bottleneck", 2.0): "lrRange3SS520kClip2Fig12a", ("resnext", 5.0): "lrRange3SS520kClip5Fig12b"}
    logs[("resnext", 10.0)] = "lrRange3SS520kClip10Fig12a"
    arms: dict[str, Arm] = {}
    for net, sizes in (("bottleneck", (800, scale.small_batch)), ("resnext", (680, scale.small_batch))):
        for clip in (None, 2.0, 5.0, 10.0) if scale.exact else (None, 2.0):
            recipe = scale.range_test(scale.block_steps, clip_norm=clip, batch_size=sizes[not scale.exact])
            own: dict[str, Any] = {"model": f"{net}{scale.block_depth}-author"}
            own |= {} if scale.exact else {"batch_norm_size": scale.small_batch}
            alike = 5.0 if net == "resnext" and clip == 2.0 and not scale.exact else clip
            name = f"{net}, {'no clipping' if clip is None else f'clipped at {clip:g}'}"
            log = None if alike is None else logs.get((net, alike))
            arms[f"{net}-{clip or 0:g}"] = Arm(name=name, specs=(scale.sweep(recipe, **own),), log=log)
    return Experiment(
        name="bottleneck",
        title="Range tests of bottleneck and ResNeXt networks",
        figure="Figure 12",
        kind="range_test",
        arms=arms,
        seeds=scale.seeds,
        note="The author mirrored the bottleneck's test images too, which is not done here."
        + ("" if scale.exact else " No usable log of ResNeXt clipped at 2 is left; that at 5 stands in."),
    )


def figure_5(scale: Scale) -> Experiment:
    """The rate that curvature allows."""
    rise = {"schedule": "triangular", "base_lr": 0.1, "warmup": 1.0}
    last = 0.1 + 2.9 * FIRST_UPDATES / 5000  # where the author's cycle is by then
    long = scale.side
    first = scale.recipe(steps=FIRST_UPDATES, max_lr=last, **rise)
    shallow = scale.recipe(steps=FIRST_UPDATES, max_lr=0.001, schedule="constant", batch_size=100, weight_decay=3e-3)
    whole, constant = scale.cycle(long), scale.recipe(steps=long, max_lr=0.35, schedule="constant")

    def arm(name: str, recipe: Recipe, every: int, **task: Any) -> Arm:
        return Arm(name=name, specs=(scale.estimate(recipe, every=every, **task),))

    return Experiment(
        name="fig5",
        title="The learning rate that curvature allows",
        figure="Figures 5a and 5b",
        kind="estimate",
        arms={
            "first": arm(f"first {FIRST_UPDATES} updates of the author's cycle", first, 1),
            "cycle": arm(f"one cycle, {long:,} updates, iterates 10 apart", whole, 10),
            "constant": arm(f"rate 0.35, {long:,} updates, iterates 10 apart", constant, 10),
            "shallow": arm(f"shallow network at 0.001, first {FIRST_UPDATES} updates", shallow, 1, **SHALLOW),
        },
        seeds=scale.seeds,
        note="The author left no log: the paper's estimates are said to lie at 2 to 6. "
        "docs/estimating-learning-rates.md shows that those come from Caffe's batch-norm sums, which his scripts "
        "count like weights.",
    )
