"""Optimizers by name, as a recipe states them."""

from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from superconv.errors import UserError, one_line
from superconv.optim import FUSED, CaffeSGD, caffe_groups
from superconv.recipe import Recipe


def make(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Make the optimizer of a recipe for all trainable parameters of a model.

    Momentum becomes `momentum`, or the first beta; the rate starts at that of update 0, or at the peak where that is 0.
    With `caffe_multipliers` among the optimizer's arguments, parameters are grouped by `caffe_groups`.

    Raises:
        UserError: torch.optim has no such class, it does not take these arguments or parameters, or nothing is
            trainable.
    """
    kind = CaffeSGD if recipe.optimizer == "CaffeSGD" else getattr(torch.optim, recipe.optimizer, None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer):
        raise UserError(f"torch.optim has no optimizer {recipe.optimizer!r}; try SGD or AdamW")
    accepted = signature(kind).parameters
    given = dict(recipe.optimizer_args)
    multiplied = given.pop("caffe_multipliers", False)
    arguments = {
        "lr": recipe.learning_rate()(0) or recipe.max_lr,  # groups keep their ratio to a first one that has a rate
        "weight_decay": recipe.weight_decay,
        **given,
    }
    if "weight_decay" not in accepted and not recipe.weight_decay:
        del arguments["weight_decay"]
    if "momentum" in accepted:
        arguments["momentum"] = recipe.momentum
    elif "betas" in accepted and "betas" not in arguments:
        arguments["betas"] = (recipe.momentum, *accepted["betas"].default[1:])
    if not recipe.momentum and recipe.min_momentum in (None, 0):
        arguments.pop("nesterov", None)  # torch refuses what would change nothing
    if recipe.optimizer in FUSED:
        arguments.setdefault("fused", not arguments.get("foreach"))
    if unknown := set(arguments) - set(accepted):
        raise UserError(f"{recipe.optimizer} takes no {', '.join(sorted(unknown))} (see optimizer_args)")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no trainable parameter")
    groups: list[Any] = parameters
    if multiplied:
        groups = caffe_groups(model, lr=arguments["lr"], weight_decay=arguments["weight_decay"])
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{recipe.optimizer} cannot be made with this model and these settings: {one_line(error)}"
        ) from error
