"""Training and evaluation mode, switched as a loop does: a module that overrides `train()` has its say.

Such an override keeps batch norm frozen or dropout off, or merges weights for the evaluation. Flags alone would not
call it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards each module is in its own mode again, as some may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training
        call_overrides(model)


def call_overrides(model: nn.Module) -> None:
    """Call `train()` of the outermost modules in training mode that override it; flags of all others stay."""
    if _overrides(model):
        if model.training:
            model.train()
        return
    for child in model.children():
        call_overrides(child)


def _overrides(module: nn.Module) -> bool:
    return type(module).train is not nn.Module.train or "train" in vars(module)
