"""More of what `regret.py` trains: where the search failed, or fell far short, when it was first tried."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from regret_further import digits_task
from regret_tasks import ADAMW, Problem, made
from torch import Tensor, nn

from superconv.training.task import Task, accuracy


def _mlp(inputs: int, outputs: int, unit: Callable[[], nn.Module], *, layers: int = 2) -> nn.Sequential:
    """Layers of 64 units without any normalisation."""
    sizes = [inputs, *[64] * (layers - 1)]
    hidden = [part for size in sizes for part in (nn.Linear(size, 64), unit())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, outputs))


def _of_digits(name: str, model: Callable[[], nn.Module]) -> Task:
    return digits_task(name, lambda pixels, labels: (pixels, labels), model, loss=F.cross_entropy, metric=accuracy)


def sigmoids() -> Task:
    """Recognise a digit by two layers of sigmoids, which learn nothing in the first fifty updates."""
    return _of_digits("digits, MLP of sigmoids", lambda: _mlp(64, 10, nn.Sigmoid))


def tangents() -> Task:
    """Recognise a digit by six layers of tangents, which do not bear for a whole run what short cycles like."""
    return _of_digits("digits, MLP of tangents", lambda: _mlp(64, 10, nn.Tanh, layers=6))


def hundreds() -> Task:
    """Which of three numbers in the hundreds is the largest, by a network whose units large rates kill."""
    x = 300 + 300 * torch.rand(2000, 12, generator=torch.Generator().manual_seed(5))
    model, options = lambda: _mlp(12, 3, nn.ReLU), {"loss": F.cross_entropy, "metric": accuracy}
    return made("numbers in the hundreds, MLP", model, x, x[:, :3].argmax(1), **options)


def spread() -> Task:
    """The mean and the deviation of a number by its likelihood, whose logarithm has no bound."""
    draw = torch.Generator().manual_seed(2)
    x = 4 * torch.rand(3000, 4, generator=draw) - 2
    mean, deviation = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2], 0.05 + 0.3 * torch.sigmoid(2 * x[:, 3])
    y = mean + deviation * torch.randn(3000, generator=draw)

    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        return F.gaussian_nll_loss(output[:, 0], target, output[:, 1].exp())

    return made("mean and deviation, MLP", lambda: _mlp(4, 2, nn.ReLU), x, y, loss=likelihood, metric=None)


class Attention(nn.Module):
    """(b, n) numbers to (b,), by one post-norm layer of attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 32), nn.Linear(32, 1)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)

    def forward(self, numbers: Tensor) -> Tensor:
        """One number of all."""
        return self.head(self.layer(self.embed(numbers[..., None])).amax(1)).flatten()


def second() -> Task:
    """The second largest of twelve numbers."""
    x = torch.randn(4000, 12, generator=torch.Generator().manual_seed(4))
    return made("second largest, attention", Attention, x, x.sort(1).values[:, -2], loss=F.mse_loss, metric=None)


def squeeze() -> Task:
    """Rebuild a digit from sixteen numbers, by convolutions with batch norm."""

    def block(channels: int, wide: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]

    def model() -> nn.Module:
        down = [*block(1, 16), nn.MaxPool2d(2), *block(16, 16), nn.MaxPool2d(2), *block(16, 4)]
        up = [nn.Upsample(scale_factor=2), *block(4, 16), nn.Upsample(scale_factor=2), *block(16, 16)]
        return nn.Sequential(*down, *up, nn.Conv2d(16, 1, 3, padding=1))

    return digits_task("digits, convolutional autoencoder", lambda pixels, _: (pixels, pixels), model, loss=F.mse_loss)


HARD: dict[str, Problem] = {
    "sigmoids": Problem(make=sigmoids, epochs=20, seeds=5, rates=(0.1, 0.3, 1.0, 3.0, 10.0)),
    "tangents": Problem(make=tangents, epochs=12, seeds=5, rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "hundreds": Problem(make=hundreds, epochs=30, seeds=5, chance=1 / 3, rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    "spread": Problem(make=spread, epochs=15, seeds=5, chance=0.9, rates=(1e-3, 3e-3, 0.01, 0.03, 0.1)),
    "second": Problem(make=second, epochs=8, seeds=5, chance=0.4, **ADAMW),
    "squeeze": Problem(make=squeeze, epochs=12, seeds=5, chance=0.15, rates=(0.03, 0.1, 0.3, 1.0, 3.0)),
}
