"""DenseNet for CIFAR (Huang et al., arXiv 1608.06993), as its authors' Caffe code builds it."""

import torch
from torch import Tensor, nn

from superconv.models.fillers import fill


class DenseNet(nn.Module):
    """Three blocks whose layers each add `growth` channels to what came before; no bottleneck, no compression.

    Args:
        depth: 3n+4.
        num_classes: Logits of the output (n, num_classes).
        in_channels: Channels of the input (n, in_channels, height, width).
        growth: Channels that a layer adds; 12 is the usual value.
        dropout: Share of activations dropped after each convolution but the first; the authors' code has 0.2 unless
            asked, their paper where images are not augmented.
    """

    def __init__(
        self, *, depth: int, num_classes: int, in_channels: int = 3, growth: int = 12, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        for block in range(3):
            if block:
                layers += [*_norm_conv(channels, channels, 1, dropout), nn.AvgPool2d(2, ceil_mode=True)]
            for _ in range((depth - 4) // 3):
                layers.append(_Layer(channels, growth, dropout))
                channels += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, num_classes)
        fill(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


class _Layer(nn.Module):
    def __init__(self, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.added = nn.Sequential(*_norm_conv(channels, growth, 3, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.added(x)], 1)


def _norm_conv(channels: int, wide: int, kernel: int, dropout: float) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, wide, kernel, padding=kernel // 2, bias=False)
    layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU(), convolution]
    return [*layers, nn.Dropout(dropout)] if dropout else layers
