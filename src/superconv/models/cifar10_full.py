"""Caffe's example network for CIFAR-10, three convolutions and a classifier."""

import torch.nn.functional as F
from torch import Tensor, nn

from superconv.errors import UserError


def cifar10_full(*, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Convolutions 5×5 of 32, 32 and 64 channels, each pooled 3×3 with stride 2, and logits (n, num_classes).

    This is `cifar10_full` of Caffe's examples. The other, `cifar10_quick`, has a second linear layer and ends near 75 %
    where this one ends near 81, as the follow-up's "3-layer network" does (81.3 % in arXiv 1803.09820). Its first
    weights are as small as pixels of 0 to 255 need: use it with `normalization="mean_image"`.

    Raises:
        UserError: Images of fewer than 8 pixels, of which the pools leave nothing.
    """
    channels, *sides = image_shape
    if min(sides) < 8:
        raise UserError(f"cifar10-full needs images of 8×8 pixels or more, not {sides[0]}×{sides[1]}: take --model mlp")
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(), _ResponseNorm(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True), _ResponseNorm(),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(), nn.Linear(64 * (sides[0] // 8) * (sides[1] // 8), num_classes),
    )  # fmt: skip
    for i, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01 if i else 0.0001)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return network


class _ResponseNorm(nn.Module):
    """Caffe's local response normalisation within a channel: torch's own goes across channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 5e-5 * F.avg_pool2d(x.square(), 3, 1, 1)).pow(-0.75)
