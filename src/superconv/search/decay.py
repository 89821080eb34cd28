"""The weight decay that a recipe leaves room for."""

from math import exp

from torch import nn
from torch.optim import Optimizer

from superconv.rates.laws import DecayLaw
from superconv.rates.snapshot import isolated_rng
from superconv.rates.traits import Traits, traits_of
from superconv.recipe import Recipe
from superconv.training.optimizers import make, takes


def balanced_decay(
    recipe: Recipe, samples: int, *, traits: Traits | None = None, law: DecayLaw | None = None
) -> tuple[float, str]:
    """The weight decay that a recipe's rates leave room for, and why.

    Adaptive optimizers with decoupled decay, whose steps momentum does not lengthen, go without the law's factor of
    momentum. Where an adaptive optimizer takes the decay into the gradient, its normalisation undoes it: there is none.

    Args:
        recipe: All but the decay.
        samples: Number of training samples.
        traits: Traits of the training; those of the recipe's optimizer, if not given.
        law: Constants; the usual ones, if not given.
    """
    traits, law = traits or usual_traits(recipe), law or DecayLaw()
    if not (traits.heavy_ball or traits.decoupled):
        first, *others = dict.fromkeys(traits.optimizers)
        if others:
            return 0.0, f"none: no rule is known that serves {' and '.join([first, *others])} at once"
        if not takes(first, "weight_decay"):
            return 0.0, f"none: {first} takes no decay"
        return 0.0, f"none: {first} takes decay into the gradient that it normalises, and no rule for that is known"
    rate, momentum, plain = recipe.learning_rate(), recipe.momentum_schedule(), traits.heavy_ball
    travelled = 0.0
    for step in range(recipe.steps):
        held = (momentum(step) if momentum else recipe.momentum) if plain and traits.momentum else 0.0
        travelled += rate(step) / (1 - held) if held < 1 else rate(step)
    epochs = recipe.steps * recipe.batch_size / samples
    low, high = law.plain if plain else law.decoupled
    decay = min(high, max(low, law.shrinking * epochs**0.5 / travelled))
    decay = float(f"{decay:.2g}")
    shrink = 1 - exp(-decay * travelled)
    return decay, f"weights that get no gradient shrink by {shrink:.0%} over the run's {epochs:.3g} epochs"


def usual_traits(recipe: Recipe) -> Traits:
    """The traits of a training with the optimizer that a recipe names, of any network without normalisation."""
    with isolated_rng():
        model = nn.Linear(1, 1, bias=False)
        made = make(model, recipe)
        return traits_of(model, [made] if isinstance(made, Optimizer) else made)
