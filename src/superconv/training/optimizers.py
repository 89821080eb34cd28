"""Optimizers by name, as a recipe states them."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from superconv.errors import UserError, one_line
from superconv.optim import FUSED, CaffeSGD, caffe_groups, fuse_where_safe
from superconv.recipe import Recipe

SPARSE = ("SGD", "Adagrad", "SparseAdam", "CaffeSGD")
"""Those that take the gradients of an embedding with `sparse=True`."""


def make(model: nn.Module, recipe: Recipe) -> Optimizer | list[Optimizer]:
    """Make the optimizer of a recipe for all trainable parameters of a model.

    Momentum becomes `momentum`, or the first beta; the rate starts at that of update 0, or at the peak where that is 0.
    With `caffe_multipliers` among the optimizer's arguments, parameters are grouped by `caffe_groups`. Muon, which is
    for matrices, has an AdamW beside it for embeddings and all other shapes; its `adjust_lr_fn` is `match_rms_adamw` if
    not given, with which one rate serves both.

    Raises:
        UserError: torch.optim has no such class, it does not take these arguments or parameters, or nothing is
            trainable.
    """
    kind = CaffeSGD if recipe.optimizer == "CaffeSGD" else getattr(torch.optim, recipe.optimizer, None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer):
        raise UserError(f"torch.optim has no optimizer {recipe.optimizer!r}; try SGD or AdamW")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no trainable parameter")
    _check_sparse(model, recipe)
    given = dict(recipe.optimizer_args)
    multiplied = given.pop("caffe_multipliers", False)
    arguments = _arguments(kind, recipe, given, parameters)
    if recipe.optimizer == "Muon":
        return _muon(model, recipe, arguments)
    groups: list[Any] = parameters
    if multiplied:
        decay = arguments.get("weight_decay", 0.0)
        groups = caffe_groups(model, lr=arguments["lr"], weight_decay=decay)
    return _made(kind, groups, arguments)


def _arguments(
    kind: type[Optimizer], recipe: Recipe, given: dict[str, Any], parameters: Sequence[nn.Parameter]
) -> dict[str, Any]:
    accepted = signature(kind).parameters
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
        real = all(p.is_floating_point() for p in parameters)
        arguments.setdefault("fused", real and not arguments.get("foreach"))
    if unknown := set(arguments) - set(accepted):
        hint = "give it 0" if unknown == {"weight_decay"} else "see optimizer_args"
        raise UserError(f"{recipe.optimizer} takes no {', '.join(sorted(unknown))} ({hint})")
    return arguments


def takes(name: str, argument: str) -> bool:
    """Whether the class of this name takes an argument; one that is not known takes all."""
    kind = CaffeSGD if name == "CaffeSGD" else getattr(torch.optim, name, None)
    return not isinstance(kind, type) or argument in signature(kind).parameters


def _made(kind: type[Optimizer], groups: list[Any], arguments: dict[str, Any]) -> Optimizer:
    try:
        optimizer = kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{kind.__name__} cannot be made with this model and these settings: {one_line(error)}"
        ) from error
    if isinstance(optimizer, SGD):
        optimizer.register_step_pre_hook(fuse_where_safe)
    return optimizer


def _muon(model: nn.Module, recipe: Recipe, arguments: dict[str, Any]) -> list[Optimizer]:
    """Muon for matrices that are no embeddings, and AdamW for all else at the same rate, decay and first momentum."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and id(parameter) not in tables else others).append(parameter)
    if not matrices:
        raise UserError("Muon is for weights of two dimensions, and this model has none: use AdamW")
    muon = _made(torch.optim.Muon, matrices, {"adjust_lr_fn": "match_rms_adamw", **arguments})
    if not others:
        return [muon]
    shared = {name: arguments[name] for name in ("lr", "weight_decay")}
    real = all(p.is_floating_point() for p in others)
    return [muon, _made(AdamW, others, {**shared, "betas": (recipe.momentum, 0.999), "fused": real})]


def _check_sparse(model: nn.Module, recipe: Recipe) -> None:
    """Refuse an optimizer that does not take the gradients of sparse embeddings, or one that takes no others."""
    name = recipe.optimizer
    sparse = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    if name == "SparseAdam" and trained - sparse:
        raise UserError("SparseAdam takes sparse gradients only, which embeddings with sparse=True have: use Adam")
    if name not in SPARSE and trained & sparse:
        raise UserError(
            f"{name} takes no sparse gradients: make the embedding with sparse=False, or use {' or '.join(SPARSE[:2])}"
        )
    if recipe.clip_norm and trained & sparse:
        raise UserError("clip_norm is not for sparse gradients: make the embedding with sparse=False, or leave it out")
