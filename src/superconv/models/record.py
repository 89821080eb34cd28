"""The network of the CIFAR-10 speed records (Jordan, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superconv.errors import UserError

PATCH = 2  # side in pixels of the patches that the first layer whitens
WHITENING_EPSILON = 5e-4  # added to the patches' variances: directions of less are noise


class RecordNet(nn.Module):
    """A frozen whitening convolution, three groups of two convolutions, a scaled linear classifier.

    Convolutions start as partial identities, batch norms have no scale, and in evaluation the logits are means over
    views of the image (section 3 of the paper). `whiten` sets the first layer from training images; until then it is a
    random one.

    Args:
        num_classes: Number of classes.
        image_shape: (channels, height, width), sides of 31 pixels or more.
        width: Channels of the first group; the other two have four times as many. 64 is the record's.
        views: Of an image in evaluation: 1 itself, 2 its mirror image too, 6 both shifted by a pixel as well, at half
            the weight.
    """

    def __init__(self, *, num_classes: int, image_shape: tuple[int, int, int], width: int = 64, views: int = 6) -> None:
        super().__init__()
        channels, *sides = image_shape
        if min(sides) < 31:
            raise UserError(f"the record network needs images of 31×31 pixels or more, not {sides[0]}×{sides[1]}")
        if views not in (1, 2, 6) or width < 1:
            raise UserError(f"views must be 1, 2 or 6 and width at least 1, not {views} and {width}")
        self.views = views
        directions = channels * PATCH**2
        self.whitening = nn.Conv2d(channels, 2 * directions, PATCH)
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]  # it has one
        self.whitening.weight.requires_grad_(False)
        self.groups = nn.Sequential(
            _group(2 * directions, width), _group(width, 4 * width), _group(4 * width, 4 * width), nn.MaxPool2d(3)
        )
        self.classifier = nn.Linear(4 * width * ((min(sides) - 1) // 24) * ((max(sides) - 1) // 24), num_classes, False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Make the first layer's outputs uncorrelated, of variance one and of both signs, over images (n, c, h, w)."""
        patches = F.unfold(images, PATCH).transpose(1, 2).flatten(0, 1)  # (n × places, c × 2 × 2)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + WHITENING_EPSILON).sqrt()).T.flip(0)
        self.whitening.weight.copy_(torch.cat([filters, -filters]).view_as(self.whitening.weight))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes); in evaluation the mean over `views`."""
        if self.training or self.views == 1:
            return self._logits(images)
        logits = self._mirrored(images)
        if self.views == 2:
            return logits
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = self._mirrored(padded[..., :-2, :-2]) + self._mirrored(padded[..., 2:, 2:])
        return logits / 2 + shifted / 4

    def _mirrored(self, images: Tensor) -> Tensor:
        return (self._logits(images) + self._logits(images.flip(-1))) / 2

    def _logits(self, images: Tensor) -> Tensor:
        features = self.groups(F.gelu(self.whitening(images)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits / 9  # logits this small keep the first updates of a large rate together


def _group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, outputs), nn.MaxPool2d(2), _norm(outputs), nn.GELU(),
        _convolution(outputs, outputs), _norm(outputs), nn.GELU(),
    )  # fmt: skip


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:inputs])
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
