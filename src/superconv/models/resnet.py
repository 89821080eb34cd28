"""The CIFAR ResNets of depth 6n+2, as He et al. wrote them and as the super-convergence author did.

They differ where a stage begins. He et al. (arXiv 1512.03385, section 4.2, option A) widen inside the first block and
subsample its shortcut. The author's first block keeps the old width, averages its shortcut over 3×3, and appends zero
channels only after the sum and its ReLU; its convolutions have biases.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from superconv.models.fillers import fill


class ResNet(nn.Module):
    """Stem, three stages of n blocks at 16, 32 and 64 channels, global average, logits.

    Args:
        depth: 6n+2.
        num_classes: Logits of the output (n, num_classes).
        in_channels: Channels of the input (n, in_channels, height, width).
        width: Factor on all channels.
        growth: Factor on the channels from one stage to the next.
        author: The author's network instead of He et al.'s.
        dropout: Share of activations dropped after each batch norm of a block (the author's variant has 0.2).

    Raises:
        ValueError: A width that leaves a stage without channels, a growth below 1, or a dropout outside 0 to 1.
    """

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1,
        growth: int = 2,
        author: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if growth < 1:
            raise ValueError(f"growth must be at least 1, not {growth}")
        widths = [round(16 * width * growth**stage) for stage in range(3)]
        if min(widths) < 1:
            raise ValueError(f"width must be large enough for 1 of 16 channels, not {width}")
        self.stem = nn.Sequential(*_conv_norm(in_channels, widths[0], 1, author, 0.0), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, wide in enumerate(widths):
            for i in range((depth - 2) // 6):
                begins = stage > 0 and i == 0
                blocks.append(_Block(channels, wide, 2 if begins else 1, author, dropout))
                channels = wide
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        fill(self, xavier=(nn.Linear,) if author else ())

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        features: Tensor = self.blocks(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, channels: int, wide: int, stride: int, author: bool, dropout: float) -> None:
        super().__init__()
        inner = channels if author else wide
        self.author, self.stride = author, stride
        self.added = wide - channels
        self.residual = nn.Sequential(
            *_conv_norm(channels, inner, stride, author, dropout),
            nn.ReLU(),
            *_conv_norm(inner, inner, 1, author, dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.author:
            shortcut = _averaged(x) if self.stride == 2 else x
            return self._widened(F.relu(self.residual(x) + shortcut))
        shortcut = self._widened(x[:, :, ::2, ::2] if self.stride == 2 else x)
        return F.relu(self.residual(x) + shortcut)

    def _widened(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x


def _averaged(x: Tensor) -> Tensor:
    """Caffe's 3×3 average pool of stride 2: the last window is cut at the border and divided by its real size."""
    odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2
    if odd_height or odd_width:  # the author has even sides only; the convolution beside rounds odd ones up
        x = F.pad(x, (0, odd_width, 0, odd_height), mode="replicate")
    return F.avg_pool2d(x, 3, 2, ceil_mode=True)


def _conv_norm(channels: int, wide: int, stride: int, bias: bool, dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(channels, wide, 3, stride, 1, bias=bias), nn.BatchNorm2d(wide)]
    return [*layers, nn.Dropout(dropout)] if dropout else layers
