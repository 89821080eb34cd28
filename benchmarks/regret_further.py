"""More of what `regret.py` trains: kinds of networks and losses that were added when the search had been made."""

from pydoc_data.topics import topics
from zlib import crc32

import torch
import torch.nn.functional as F
from regret_tasks import ADAMW, ADAMW_LARGE, Problem, made
from torch import Tensor, nn

from superconv.data.source import TensorSource
from superconv.specs.image_task import ImageTask
from superconv.training.task import Task, accuracy, image_task

WORDS, HASHED = 12, 4000  # words of a sample, and the numbers that stand for them


def digits_task(name: str, of, model, *, loss, metric=None) -> Task:
    """A task of the digits: `of` makes inputs and targets of their pixels, on the 0-1 scale, and labels."""
    digits = image_task(ImageTask(data="digits"))
    splits = (digits.train, digits.validation, digits.test)
    train, validation, test = (TensorSource(*of(split.images.float() / 255, split.labels)) for split in splits)
    return Task(name=name, model=model, train=train, validation=validation, test=test, loss=loss, metric=metric)


class UNet(nn.Module):
    """(b, 1, 8, 8) pixels to as many logits, through half the resolution and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = self._block(1, 16), nn.Sequential(self._block(16, 32), self._block(32, 16))
        self.both, self.head = self._block(32, 16), nn.Conv2d(16, 1, 1)

    @staticmethod
    def _block(channels: int, wide: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, wide, 3, padding=1), nn.GroupNorm(4, wide), nn.SiLU())

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits."""
        fine = self.fine(pixels)
        coarse = F.interpolate(self.coarse(F.max_pool2d(fine, 2)), scale_factor=2.0)
        return self.head(self.both(torch.cat([fine, coarse], 1)))


def ink() -> Task:
    """Which pixels of a noisy digit are ink: a segmentation."""

    def noisy(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(len(pixels)))
        return pixels + 0.4 * noise, (pixels > 0.5).float()

    return digits_task("ink, U-Net", noisy, UNet, loss=F.binary_cross_entropy_with_logits)


class Autoencoder(nn.Module):
    """A variational one: (b, 64) pixels to (b, 80), their logits and eight means and log variances."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, pixels: Tensor) -> Tensor:
        """Draws from the code while it trains, and takes its mean else."""
        mean, variance = self.encoder(pixels).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (variance / 2).exp() if self.training else mean
        return torch.cat([self.decoder(code), mean, variance], 1)


def evidence(output: Tensor, pixels: Tensor) -> Tensor:
    """The negative evidence lower bound of an `Autoencoder`, in nats a digit."""
    logits, mean, variance = output.split([64, 8, 8], 1)
    rebuilt = F.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(1)
    return (rebuilt - (1 + variance - mean**2 - variance.exp()).sum(1) / 2).mean()


def codes() -> Task:
    """A variational autoencoder of the digits."""
    return digits_task(
        "codes, variational autoencoder", lambda pixels, _: (pixels.flatten(1),) * 2, Autoencoder, loss=evidence
    )


class Mixer(nn.Module):
    """An MLP-Mixer of three pre-norm layers: (b, 1, 8, 8) pixels to (b, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layers = nn.Conv2d(1, 32, 2, 2), nn.ModuleList(_Mixing() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits."""
        mixed = self.patches(pixels).flatten(2).mT
        for layer in self.layers:
            mixed = layer(mixed)
        return self.head(self.norm(mixed).mean(1))


class _Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.patches = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, mixed: Tensor) -> Tensor:
        mixed = mixed + self.patches(self.norms[0](mixed).mT).mT
        return mixed + self.channels(self.norms[1](mixed))


def mixer() -> Task:
    """Recognise a digit by an MLP-Mixer."""
    return digits_task(
        "digits, MLP-Mixer", lambda pixels, labels: (pixels, labels), Mixer, loss=F.cross_entropy, metric=accuracy
    )


def waves() -> Task:
    """Tell sine, square, saw and a pointed wave apart beneath noise, by a network along time with batch norm."""
    draw = torch.Generator().manual_seed(3)
    kinds = torch.randint(4, (8000,), generator=draw)
    frequency, phase = (torch.rand(8000, 1, generator=draw) for _ in range(2))
    turns = (2 + 6 * frequency) * torch.arange(64) / 64 + phase
    sine = torch.sin(2 * torch.pi * turns)
    shapes = torch.stack([sine, sine.sign(), 2 * (turns % 1) - 1, sine**3])
    heard = shapes[kinds, torch.arange(8000)] + 0.7 * torch.randn(8000, 64, generator=draw)

    def block(channels: int, wide: int) -> list[nn.Module]:
        return [nn.Conv1d(channels, wide, 5, padding=2), nn.BatchNorm1d(wide), nn.ReLU(), nn.MaxPool1d(2)]

    def model() -> nn.Module:
        layers = [*block(1, 32), *block(32, 64), *block(64, 64), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(64, 4))

    return made("waves, convolutions along time", model, heard[:, None], kinds, loss=F.cross_entropy, metric=accuracy)


def words() -> Task:
    """Which of twelve of Python's help pages twelve words in a row are from: a bag of embeddings, with dropout.

    The first 70 % of each page train and its last 15 % test, so that no two splits share a word's place.
    """
    pages = [topics[key].split() for key in sorted(topics) if len(topics[key]) > 6000][:12]

    def windows(begin: float, end: float) -> TensorSource:
        parts = [page[round(begin * len(page)) : round(end * len(page))] for page in pages]
        at = [(page, start) for page, part in enumerate(parts) for start in range(0, len(part) - WORDS, 5)]
        inputs = [[crc32(word.encode()) % HASHED for word in parts[p][start : start + WORDS]] for p, start in at]
        return TensorSource(torch.tensor(inputs), torch.tensor([page for page, _ in at]))

    def model() -> nn.Module:
        head = [nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 12)]
        return nn.Sequential(nn.EmbeddingBag(HASHED, 32), *head)

    return Task(
        name="words, bag of embeddings",
        model=model,
        train=windows(0, 0.7),
        validation=windows(0.7, 0.85),
        test=windows(0.85, 1),
        loss=F.cross_entropy,
        metric=accuracy,
    )


def friedman() -> Task:
    """Friedman's first function of ten numbers, in its own unit, by an MLP with layer norm."""
    draw = torch.Generator().manual_seed(9)
    x = torch.rand(3000, 10, generator=draw)
    smooth = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = smooth + torch.randn(3000, generator=draw)

    def model() -> nn.Module:
        hidden = [nn.Linear(10, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(64, 1), nn.Flatten(0))

    return made("Friedman's function, MLP", model, x, y, loss=F.mse_loss, metric=None)


FURTHER: dict[str, Problem] = {
    "ink": Problem(make=ink, epochs=8, seeds=5, chance=0.69, **ADAMW_LARGE),
    "codes": Problem(make=codes, epochs=15, seeds=5, chance=44.4, **ADAMW),
    "mixer": Problem(make=mixer, epochs=12, seeds=5, **ADAMW_LARGE),
    "waves": Problem(make=waves, epochs=5, seeds=5, chance=0.25, **ADAMW),
    "words": Problem(make=words, epochs=10, seeds=5, chance=1 / 12, rates=(0.03, 0.1, 0.3, 1.0, 3.0)),
    "friedman": Problem(make=friedman, epochs=12, seeds=5, chance=25.0, rates=(1e-3, 3e-3, 0.01, 0.03, 0.1)),
}
