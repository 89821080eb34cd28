"""ResNet-50 for ImageNet (He et al., arXiv 1512.03385, table 1), as Caffe's users have it."""

import torch.nn.functional as F
from torch import Tensor, nn

from superconv.models.fillers import fill


class ResNet50(nn.Module):
    """Bottleneck blocks, 3, 4, 6 and 3 of them at 256, 512, 1024 and 2048 channels; logits.

    Args:
        num_classes: Logits of the output (n, num_classes).
        in_channels: Channels of the input (n, in_channels, height, width).
        stride_in_3x3: Where a stage begins, subsample in the 3×3 convolution, as torchvision does, instead of in the
            first 1×1, as He et al. and the paper's network.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, stride_in_3x3: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_norm(in_channels, 64, 7, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),  # not padded, as in Caffe
        )
        blocks: list[nn.Module] = []
        channels = 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for i in range(count):
                blocks.append(_Block(channels, 64 << stage, 2 if stage and not i else 1, stride_in_3x3))
                channels = 256 << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        fill(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        features: Tensor = self.blocks(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, channels: int, inner: int, stride: int, stride_in_3x3: bool) -> None:
        super().__init__()
        first, second = (1, stride) if stride_in_3x3 else (stride, 1)
        self.residual = nn.Sequential(
            *_conv_norm(channels, inner, 1, first),
            nn.ReLU(),
            *_conv_norm(inner, inner, 3, second),
            nn.ReLU(),
            *_conv_norm(inner, 4 * inner, 1, 1),
        )
        same = channels == 4 * inner
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(channels, 4 * inner, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def _conv_norm(channels: int, wide: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, wide, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(wide)
