"""The author's bottleneck and ResNeXt networks, on which large rates fail."""

import torch.nn.functional as F
from torch import Tensor, nn

from superconv.models.fillers import fill


class Bottleneck(nn.Module):
    """Pre-activation bottleneck blocks at 64, 128 and 256 channels, as in the author's files.

    Convolutions have biases, batch norm has neither scale nor shift and takes the statistics of the batch in tests as
    well, so an output depends on the other images of its batch (of `batch_norm_size` images: the author tested 100 at
    a time, 85 with ResNeXt).

    Args:
        depth: 9n+2.
        num_classes: Logits of the output (n, num_classes).
        in_channels: Channels of the input (n, in_channels, height, width).
        groups: Of the 3×3 convolutions; they have 16, 32 and 64 channels, or 1, 2 and 4 a group if that is more.
            The author's ResNeXt has 32.
    """

    def __init__(self, *, depth: int, num_classes: int, in_channels: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        blocks: list[nn.Module] = []
        channels = 16
        for stage in range(3):
            inner, outer = max(16, groups) << stage, 64 << stage
            for i in range((depth - 2) // 9):
                blocks.append(_Block(channels, inner, outer, 2 if stage and not i else 1, groups))
                channels = outer
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(channels)
        self.head = nn.Linear(channels, num_classes)
        fill(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        features: Tensor = F.relu(self.norm(self.blocks(self.stem(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, channels: int, inner: int, outer: int, stride: int, groups: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _norm(channels), nn.ReLU(), nn.Conv2d(channels, inner, 1, stride),
            _norm(inner), nn.ReLU(), nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
            _norm(inner), nn.ReLU(), nn.Conv2d(inner, outer, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if channels == outer else nn.Conv2d(channels, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.residual(x) + self.shortcut(x)
        return total


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)
