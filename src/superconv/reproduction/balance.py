"""What else regularizes or steps, under large rates: momentum, weight decay, dropout, adaptive optimizers."""

from dataclasses import replace
from typing import Any

from superconv.recipe import Recipe
from superconv.reproduction.experiment import Arm, Experiment
from superconv.reproduction.scales import Scale
from superconv.specs.run import RunSpec

ADAPTIVE = ("Adam", "AdamW", "Adagrad", "Adadelta")
PEAKS = {"Adam": (0.0035, 0.01), "AdamW": (0.0035, 0.01), "Adagrad": (0.1, 0.35), "Adadelta": (1.0, 3.0)}
"""Peaks of the cycle that each chooses among; the author's are not known."""
CONSTANT = {"Adam": 0.0035, "AdamW": 0.0035, "Adagrad": 0.35, "Adadelta": 0.35}
"""Initial rates of the author's piecewise-constant runs."""
LOGS = {"Adam": "lr35AdamFig9", "Adagrad": "lr35AdaGradFig9", "Adadelta": "lr35AdaDeltaFig9"}


def adaptive(scale: Scale) -> Experiment:
    """Adaptive optimizers, and Nesterov's momentum, with and without the cycle."""
    steps, longer = scale.side, scale.adaptive_steps
    arms = {"cycle": replace(_base(scale), specs=_held_out(scale, scale.cycle(steps)))}
    for name in ADAPTIVE:
        decay = {"weight_decay": 0.01} if name == "AdamW" else {}
        args: dict[str, Any] = {"rho": 0.0} if scale.exact and name == "Adadelta" else {}  # Caffe's, momentum unset
        fields = {**scale.solver(name, **args), **decay}
        cycles = [scale.cycle(steps, rate, **{**fields, "base_lr": rate / 10}) for rate in PEAKS[name]]
        constant = scale.piecewise(longer, CONSTANT[name], **fields)
        arms[f"{name}-cycle"] = Arm(name=f"{name}, one cycle", specs=_held_out(scale, *cycles))
        specs = _held_out(scale, constant)
        arms[f"{name}-piecewise"] = Arm(name=f"{name}, piecewise constant", specs=specs, log=LOGS.get(name))
    nesterov = scale.solver(nesterov=True)
    for key, recipe, log in (
        ("cycle", scale.cycle(steps, **nesterov), "clr3SS5kNestFig9"),
        ("piecewise", scale.piecewise(longer, **nesterov), "lr35NestFig9"),
    ):
        name = "one cycle" if key == "cycle" else "piecewise constant"
        arms[f"Nesterov-{key}"] = Arm(name=f"Nesterov, {name}", specs=_held_out(scale, recipe), log=log)
    return Experiment(
        name="adaptive",
        title="Adaptive optimizers with and without the cycle",
        figure="Figure 9",
        arms=arms,
        seeds=scale.seeds,
        note="The peaks of the adaptive optimizers' cycles are the better of two, by seed 0 on images held out."
        + (f" The piecewise-constant runs have {longer:,} updates, as the cycles." if longer == steps else ""),
    )


def momentum(scale: Scale) -> Experiment:
    """Constant momentum against momentum that moves with the rate or against it."""
    logs = {0.8: "clr3SS5kMom8Fig11", 0.85: "clr3SS5kMom85Fig11", 0.9: "clr3SS5kFig1a", 0.95: "clr3SS5kMom95Fig11"}
    arms: dict[str, Arm] = {}
    for value, log in logs.items():
        arms[f"constant{value}"] = Arm(name=f"constant {value}", specs=_specs(scale, momentum=value), log=log)
    for key, first, middle in (("down", 0.95, 0.85), ("up", 0.85, 0.95)):
        specs = _specs(scale, momentum=first, min_momentum=middle)
        arms[key] = Arm(name=f"{first} → {middle} → {first}", specs=specs)
    return Experiment(
        name="momentum",
        title="Momentum",
        figure="Figure 11a; arXiv 1803.09820, section 4.2",
        arms=arms,
        seeds=scale.seeds,
        note="The cycled runs of 1803.09820 had rates up to 0.8, these have them up to 3.",
    )


def weight_decay(scale: Scale) -> Experiment:
    """Weight decay under one cycle."""
    logs = {1e-3: "clr3SS5kWD-3Fig11", 1e-4: "clr3SS5kFig1a", 1e-5: "clr3SS5kWD-5Fig11", 1e-6: "clr3SS5kWD-6Fig11"}
    arms = {
        f"decay{value:g}": Arm(name=f"decay {value:g}", specs=_specs(scale, weight_decay=value), log=log)
        for value, log in logs.items()
    }
    return Experiment(name="weight-decay", title="Weight decay", figure="Figure 11b", arms=arms, seeds=scale.seeds)


def dropout(scale: Scale) -> Experiment:
    """Dropout under one cycle; its range test is an experiment of its own."""
    spec = scale.run(scale.cycle(scale.side), images=scale.rest.images, model_args=(("dropout", 0.2),))
    return Experiment(
        name="dropout",
        title="Dropout under one cycle",
        figure="Figure 10",
        arms={"without": replace(_base(scale), name="without dropout"), "with": Arm(name="dropout 0.2", specs=(spec,))},
        seeds=scale.seeds,
    )


def _base(scale: Scale) -> Arm:
    return Arm(name="SGD, one cycle", specs=_specs(scale), log="clr3SS5kFig1a")


def _held_out(scale: Scale, *recipes: Recipe) -> tuple[RunSpec, ...]:
    return scale.tuned(recipes, images=scale.rest.images)


def _specs(scale: Scale, **fields: Any) -> tuple[Any, ...]:
    return (scale.run(scale.cycle(scale.side, **fields), images=scale.rest.images),)
