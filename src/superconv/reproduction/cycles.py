"""One cycle against the piecewise-constant rate: headline, lengths, sizes of the training set, depths, batches."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from superconv.reproduction.experiment import Arm, Experiment
from superconv.reproduction.scales import Length, Scale

SIZE_LOGS = {n: (f"clr3SS5kTr{n // 1000}kTab1", f"lr35Tr{n // 1000}kTab1") for n in (10_000, 20_000, 30_000, 40_000)}
SIZE_LOGS |= {50_000: ("clr3SS5kFig1a", "lr35Fig1a")}
BLOWN_UP = 20_000  # images of the author's piecewise run that blew up; the paper has 82.7 % for it
DEPTH_LOGS: Mapping[int, tuple[str, str]] = {
    20: ("clr3SS5kRes20Tab1", "lr35Res20Fig6b"),
    56: ("clr3SS5kFig1a", "lr35Fig1a"),
    110: ("clr3SS5kRes110Tab1", "lr35Res110Fig6b"),
}
SHALLOWEST, DEEPEST = min(DEPTH_LOGS), max(DEPTH_LOGS)
PEAKS = {"cosine": (0.1, 0.35, 1.0), "piecewise": (0.1, 0.35, 1.0)}
"""Initial rates that the strong baselines choose among."""


def figure_1a(scale: Scale) -> Experiment:
    """The headline."""
    return Experiment(
        name="fig1a",
        title="One cycle against a piecewise-constant rate",
        figure="Figure 1a",
        arms=_pair(scale, scale.headline, logs=SIZE_LOGS[50_000]),
        seeds=scale.seeds,
    )


def baseline(scale: Scale) -> Experiment:
    """What the paper did not compare with."""
    length = scale.rest
    cycle = scale.tuned([scale.cycle(length.cycle)], images=length.images, fraction=0.95)
    arms = {"cycle": Arm(name=f"one cycle, {length.cycle:,} updates", specs=cycle)}
    for schedule, rates in PEAKS.items():
        recipes = [scale.recipe(steps=length.cycle, max_lr=rate, schedule=schedule) for rate in rates]
        specs = scale.tuned(recipes, images=length.images, fraction=0.95)
        arms[schedule] = Arm(name=f"{schedule}, its rate chosen, {length.cycle:,} updates", specs=specs)
    return Experiment(
        name="baseline",
        title="Against strong baselines of the same length",
        figure="not in the paper",
        arms=arms,
        seeds=scale.seeds,
        note="Cosine and piecewise-constant rates from the best of 0.1, 0.35 and 1, by seed 0 on images held out.",
    )


def figure_1b(scale: Scale) -> Experiment:
    """Lengths of the cycle, and the baseline it has to reach."""
    arms: dict[str, Arm] = {}
    for steps in scale.lengths:
        log = "clr3SS5kFig1a" if steps == (10_000 if scale.exact else scale.lengths[-1]) else None
        paper = {2000: 0.897, 6000: 0.921, 20_000: 0.927}.get(steps) if scale.exact else None
        spec = scale.run(scale.cycle(steps), images=scale.rest.images)
        arms[f"cycle{steps}"] = Arm(name=f"one cycle, {steps:,} updates", specs=(spec,), log=log, paper=paper)
    arms["piecewise"] = _pair(scale, scale.rest, logs=SIZE_LOGS[50_000])["piecewise"]
    return Experiment(
        name="fig1b",
        title="Lengths of the cycle",
        figure="Figure 1b",
        arms=arms,
        seeds=scale.seeds,
    )


def max_rate(scale: Scale) -> Experiment:
    """Peaks of the cycle."""
    arms: dict[str, Arm] = {}
    for rate in scale.max_lrs:
        spec = scale.run(scale.cycle(scale.side, rate), images=scale.rest.images)
        log = "clr3SS5kFig1a" if rate == 3.0 else None
        arms[f"peak{rate:g}"] = Arm(name=f"up to {rate:g}", specs=(spec,), log=log)
    return Experiment(
        name="max-rate",
        title="The largest rate of the cycle",
        figure="the author's scripts (max LR 1.0 to 3.5)",
        arms=arms,
        seeds=scale.seeds,
    )


def table_1(scale: Scale) -> Experiment:
    """Fewer training images."""
    arms: dict[str, Arm] = {}
    largest = scale.sizes[0].images
    for length in scale.sizes:
        matching = length.images if scale.exact else {largest: 50_000}.get(length.images, 10_000)
        pair = _pair(scale, length, logs=SIZE_LOGS[matching])
        if matching == BLOWN_UP:
            pair["piecewise"] = replace(pair["piecewise"], log=None, paper=0.827)
        arms |= {f"{key}{length.images}": _named(arm, f"{length.images:,} images") for key, arm in pair.items()}
    return Experiment(
        name="table1",
        title="The gain as training images get fewer",
        figure="Table 1, Figure 4a",
        arms=arms,
        seeds=scale.seeds,
        note="" if scale.exact else f"The author's curves are those of 50,000 and 10,000 images.{_epochs(scale)}",
    )


def depth(scale: Scale) -> Experiment:
    """Shallow and deep networks."""
    arms: dict[str, Arm] = {}
    alike = {scale.depths[0]: SHALLOWEST, scale.depths[-1]: DEEPEST}
    for layers in scale.depths:
        options: dict[str, Any] = {"batch_size": 800} if scale.exact and layers == DEEPEST else {}
        logs = DEPTH_LOGS.get(layers if scale.exact else alike.get(layers, layers))
        pair = _pair(scale, scale.rest, logs=logs, model=scale.model(layers), **options)
        arms |= {f"{key}{layers}": _named(arm, f"{layers} layers") for key, arm in pair.items()}
    return Experiment(
        name="depth",
        title="The gain by depth",
        figure="Figure 4b",
        arms=arms,
        seeds=scale.seeds,
        note="Summaries of the paper say that shallower networks gain more; its logs have 1.8, 2.1 and 1.2 points for "
        "20, 56 and 110 layers."
        + (
            ""
            if scale.exact
            else " The author's curves beside the shallowest and the deepest network are of 20 and 110."
        ),
    )


def batch(scale: Scale) -> Experiment:
    """Batch sizes at the same number of updates."""
    arms: dict[str, Arm] = {}
    for size in scale.batch_sizes:
        spec = scale.run(scale.cycle(scale.side, batch_size=size), images=scale.rest.images)
        log = "clr3SS5kFig1a" if size == scale.batch_size else None
        arms[f"batch{size}"] = Arm(name=f"batches of {size:,}", specs=(spec,), log=log)
    return Experiment(
        name="batch",
        title="Batch size, and the gap between training and test",
        figure="Figure 6",
        arms=arms,
        seeds=scale.seeds,
        note="The number of updates is the same, so larger batches see more images.",
    )


def cifar100(scale: Scale) -> Experiment:
    """Another data set."""
    logs = ("clr3SS5kCifar100Fig8", "lr35Cifar100Fig8")
    return Experiment(
        name="cifar100",
        title="CIFAR-100",
        figure="Figure 8, Table 4",
        arms=_pair(scale, scale.rest, logs=logs, data="cifar100"),
        seeds=scale.seeds,
    )


def _pair(
    scale: Scale, length: Length, *, logs: tuple[str, str] | None = None, batch_size: int | None = None, **task: Any
) -> dict[str, Arm]:
    """The cycle and the baseline on so many images."""
    own: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    recipes = {
        "cycle": (f"one cycle, {length.cycle:,} updates", scale.cycle(length.cycle, **own)),
        "piecewise": (f"piecewise constant, {length.piecewise:,} updates", scale.piecewise(length.piecewise, **own)),
    }
    return {
        key: Arm(name=name, specs=(scale.run(recipe, images=length.images, **task),), log=log)
        for (key, (name, recipe)), log in zip(recipes.items(), logs or (None, None), strict=True)
    }


def _named(arm: Arm, of: str) -> Arm:
    return replace(arm, name=f"{of}: {arm.name}")


def _epochs(scale: Scale) -> str:
    passes = {round(n.cycle * scale.batch_size / n.images) for n in scale.sizes}
    return (
        " Each size has the same number of passes over its images, where the paper's had the same number of updates."
        * (len(passes) == 1)
    )
