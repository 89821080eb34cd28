"""A fully connected network, for small images."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn


def mlp(*, num_classes: int, image_shape: tuple[int, int, int], widths: Sequence[int] = (256, 128)) -> nn.Module:
    """Linear layers with batch norm and ReLU between them.

    Args:
        num_classes: Logits of the output (n, num_classes).
        image_shape: (channels, height, width) of the input.
        widths: Units of the hidden layers; none makes a linear classifier.

    Raises:
        ValueError: A width below 1.
    """
    if min(widths, default=1) < 1:
        raise ValueError(f"widths must be 1 or more, not {list(widths)}")
    sizes = [prod(image_shape), *widths]
    hidden = [
        layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_classes))
