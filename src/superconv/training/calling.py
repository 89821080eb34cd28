"""How a task's network is made and called."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from superconv import nested
from superconv.data.source import TARGETS
from superconv.errors import UserError
from superconv.rates.modes import evaluating
from superconv.rates.snapshot import isolated_rng

Predict = Callable[[nn.Module, Any], Any]
LAZY_SAMPLES = 2  # of a batch that gives lazy layers their shapes; batch norm needs two


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The output of a model: `model(**inputs)` for a mapping, `model(*inputs)` for a tuple or list, `model(inputs)`.

    >>> call_model(torch.nn.Bilinear(2, 3, 4), (torch.ones(5, 2), torch.ones(5, 3))).shape
    torch.Size([5, 4])
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def label_argument(model: nn.Module) -> str | None:
    """The argument by which a model takes the targets too, as those of transformers take `labels`."""
    arguments = _arguments(model)
    return next((name for name in TARGETS if name in arguments), None)


def with_labels(inputs: Any, target: Any, name: str | None) -> Any:
    """The inputs, with the target under that name where they are a mapping that has it not."""
    if name is None or target is None or not isinstance(inputs, Mapping) or name in inputs:
        return inputs
    return {**inputs, name: target}


def in_double(value: Any) -> Any:
    """A structure with its real numbers in double precision."""
    return nested.mapped(lambda t: t.double() if t.is_floating_point() else t, value)


def in_channels_last(value: Any) -> Any:
    """A structure with its images, tensors of four dimensions, in channels-last memory."""
    return nested.mapped(lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t, value)


def refuse_unknown(model: nn.Module, inputs: Any) -> None:
    """Refuse a mapping with entries that a model does not take.

    Raises:
        UserError: It has such entries.
    """
    arguments = _arguments(model)
    if not isinstance(inputs, Mapping) or any(a.kind is Parameter.VAR_KEYWORD for a in arguments.values()):
        return
    if unknown := [str(name) for name in inputs if name not in arguments]:
        raise UserError(
            f"the model's forward takes {', '.join(arguments) or 'nothing'}, and a batch has {', '.join(unknown)} as "
            "well: give Task(predict=lambda model, inputs: …), or batch=, which splits a batch into (inputs, targets)"
        )


def make_lazy(model: nn.Module, read: Callable[[], tuple[Any, Any]], predict: Predict) -> None:
    """Give lazy layers their shapes by a forward pass of a batch; generators and modes are put back.

    Args:
        model: Model on the CPU.
        read: Gives the batch, (inputs, targets).
        predict: How the model is called.

    Raises:
        UserError: Layers are lazy still.
    """
    if not _lazy(model):
        return
    with isolated_rng(), torch.no_grad():
        inputs, target = read()
        inputs = with_labels(inputs, target, label_argument(model))
        with evaluating(model):  # leaves statistics alone
            predict(model, inputs)
        if _lazy(model):  # behind a branch that only training takes
            predict(model, inputs)
    if left := _lazy(model):
        raise UserError(f"a forward pass of a training batch does not reach the lazy {', '.join(left)} of the model")


def _lazy(model: nn.Module) -> list[str]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]


def _arguments(model: nn.Module) -> Mapping[str, Parameter]:
    try:
        return signature(model.forward).parameters
    except (TypeError, ValueError):  # written in C++
        return {}
