"""The author's ResNet with Caffe's batch-norm blobs as buffers, for the estimate that counts them.

    PYTHONPATH=benchmarks superconv estimate cifar10 --model caffe_buffers:resnet56 --batch-size 500 ... \
        --forms plain plain_with_buffers

Caffe keeps sums, s ← 0.999·s + batch statistic, beside their count, and the paper's images were pixels from 0 to 255.
The author's scripts count these sums like weights. Here images have unit deviation, so the first layer's statistics,
the only ones that the images' scale reaches, are scaled to what pixels give.
"""

from functools import partial

import torch
from torch import Tensor, nn

from superconv.models.norm import GhostBatchNorm, set_batch_norm_size
from superconv.models.resnet import ResNet

FRACTION = 0.999
PIXEL_DEVIATION = 63.0  # of CIFAR-10's training images, over all channels
IMAGES = 125  # that a batch norm of the author saw together


def resnet56(num_classes: int, in_channels: int) -> nn.Module:
    """The network; its own running statistics stand still, so that only the sums are counted."""
    network = set_batch_norm_size(
        ResNet(depth=56, num_classes=num_classes, in_channels=in_channels, author=True), IMAGES
    )
    norms = [module for module in network.modules() if isinstance(module, GhostBatchNorm)]
    for norm, scale in zip(norms, [PIXEL_DEVIATION] + [1.0] * (len(norms) - 1), strict=True):
        norm.momentum = 0.0
        for name, like in (("mean_sum", norm.bias), ("variance_sum", norm.bias), ("count", torch.zeros(1))):
            norm.register_buffer(name, torch.zeros_like(like.detach()))
        norm.register_forward_pre_hook(partial(_add, scale))
    return network


@torch.no_grad()
def _add(scale: float, norm: nn.Module, inputs: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0][:IMAGES].float(), dim=(0, 2, 3))
    for total, new in ((norm.mean_sum, mean * scale), (norm.variance_sum, variance * scale**2), (norm.count, 1.0)):
        total.mul_(FRACTION).add_(new)
