"""Caffe's fillers: how the weights of its networks start."""

import torch
from torch import nn


@torch.no_grad()
def fill(model: nn.Module, *, xavier: tuple[type[nn.Module], ...] = (nn.Linear,)) -> None:
    """Fill convolutions by "msra" and the layers of the kinds in `xavier` by "xavier"; set their biases to 0.

    "msra" is normal with standard deviation sqrt(2 / fan_in), "xavier" uniform within ±sqrt(3 / fan_in); fan_in counts
    the inputs of one output. A layer of neither kind stays as it is.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if isinstance(layer, xavier):
            bound = (3 / layer.weight[0].numel()) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
