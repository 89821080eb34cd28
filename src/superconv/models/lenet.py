"""Caffe's LeNet, the paper's network for MNIST."""

from torch import nn

from superconv.errors import UserError
from superconv.models.fillers import fill


def lenet(*, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Convolution 5×5×20, max-pool 2, convolution 5×5×50, max-pool 2, 500 units, ReLU, logits (n, num_classes).

    As in Caffe's example there is no nonlinearity after the convolutions but the pools' own, and the pools round odd
    sizes up.

    Raises:
        UserError: Images of fewer than 13 pixels, of which the first pool leaves the second convolution too few.
    """
    channels, *sides = image_shape
    if min(sides) < 13:
        raise UserError(f"lenet needs images of 13×13 pixels or more, not {sides[0]}×{sides[1]}: take --model mlp")
    left = [((side - 3) // 2 - 3) // 2 for side in sides]
    network = nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(50 * left[0] * left[1], 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
    fill(network, xavier=(nn.Conv2d, nn.Linear))
    return network
