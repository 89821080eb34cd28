"""What `regret.py` trains: images of several sizes, networks for sequences, regressions, and a small language model."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log, tau
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superconv.data.source import TensorSource
from superconv.specs.image_task import ImageTask
from superconv.training.task import Task, accuracy, image_task

BF16_PLAN, CONV_PLAN, SMALL_PLAN = (
    "bf16,channels_last",  # a third of fp32's time where the processor has it; imitated elsewhere, ten times as much
    "fp32,channels_last,threads=1",
    "fp32,channels_first,threads=1",
)
DECAYS, DECOUPLED_DECAYS = (1e-4, 5e-4, 2.5e-3), (0.01, 0.1, 0.5)
WINDOW = 64  # characters that the language model sees


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task, how long it is trained, and what the grid search tries on it."""

    make: Callable[[], Task]
    epochs: float
    rates: tuple[float, ...]
    """Peaks of the grid: the five half decades around what such a network is usually trained with."""
    batch_size: int = 32
    """Of all methods but superconv, which takes its own."""
    seeds: int = 10
    plan: str = SMALL_PLAN
    """Of all methods alike."""
    optimizer: str = "SGD"
    decays: tuple[float, ...] = DECAYS
    chance: float = 0.1
    """Score without learning anything; that of a run whose loss was no longer finite."""


def half_digits() -> Task:
    """Complete a digit: the lower four rows of pixels, on the 0-1 scale, from the upper four."""
    digits = image_task(ImageTask(data="digits"))

    def source(of) -> TensorSource:
        pixels = of.images.flatten(1).float() / 255
        return TensorSource(pixels[:, :32], pixels[:, 32:])

    return Task(
        name="digits, the lower half from the upper",
        model=lambda: nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32)),
        train=source(digits.train),
        validation=source(digits.validation),
        test=source(digits.test),
        loss=F.mse_loss,
        metric=None,
    )


class RowReader(nn.Module):
    """Reads a digit row by row: (b, 8, 8) pixels to (b, 10) logits; nothing in it is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits after the last row."""
        return self.head(self.rows(pixels)[0][:, -1])


def digit_rows() -> Task:
    """Recognise a digit from its rows of pixels, one after the other."""
    digits = image_task(ImageTask(data="digits"))

    def source(of) -> TensorSource:
        return TensorSource(of.images[:, 0].float() / 255 - 0.5, of.labels)

    return Task(
        name="digits by rows, GRU",
        model=RowReader,
        train=source(digits.train),
        validation=source(digits.validation),
        test=source(digits.test),
        loss=F.cross_entropy,
        metric=accuracy,
    )


class CharacterModel(nn.Module):
    """A causal transformer of two pre-norm layers: (b, t) characters to (b, t, vocabulary) logits of the next ones."""

    def __init__(self, vocabulary: int, *, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(WINDOW, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(WINDOW), persistent=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits of the character after each."""
        return self.head(self.layers(self.embedding(characters) + self.position, mask=self.mask, is_causal=True))


def per_position(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy per place in a sequence, in nats."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def help_text() -> Task:
    """A language model of Python's own help: 465,000 characters, cut into windows; the last tenth is the test."""
    text = "\n".join(topics[key] for key in sorted(topics))
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(character) for character in text])
    windows = (len(codes) - 1) // WINDOW
    inputs = codes[: windows * WINDOW].view(windows, WINDOW)
    targets = codes[1 : windows * WINDOW + 1].view(windows, WINDOW)
    first, last = round(0.8 * windows), round(0.9 * windows)
    return Task(
        name="Python's help, transformer",
        model=partial(CharacterModel, len(alphabet)),
        train=TensorSource(inputs[:first], targets[:first]),
        validation=TensorSource(inputs[first:last], targets[first:last]),
        test=TensorSource(inputs[last:], targets[last:]),
        loss=per_position,
        metric=None,
    )


def made(name: str, model: Callable[[], nn.Module], inputs: Tensor, targets: Tensor, **options) -> Task:
    """A task of made data: 70 % of it to train, 15 % each for validation and test."""
    cuts = [0, round(0.7 * len(inputs)), round(0.85 * len(inputs)), len(inputs)]
    train, validation, test = (TensorSource(inputs[a:b], targets[a:b]) for a, b in itertools.pairwise(cuts))
    return Task(name=name, model=model, train=train, validation=validation, test=test, **options)


class Forecaster(nn.Module):
    """An LSTM: (b, t, 1) values to the (b,) next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.LSTM(1, 48, batch_first=True), nn.Linear(48, 1)

    def forward(self, values: Tensor) -> Tensor:
        """The value after the last."""
        return self.head(self.steps(values)[0][:, -1]).flatten()


def forecast() -> Task:
    """The next value of a noisy sine of unknown frequency and phase, from 24."""
    draw = torch.Generator().manual_seed(6)
    frequency, phase = (torch.rand(2500, 1, generator=draw) for _ in range(2))
    waves = torch.sin(tau * ((0.5 + 2 * frequency) * torch.arange(25) / 12 + phase))
    waves += 0.05 * torch.randn(waves.shape, generator=draw)
    return made("sines, LSTM", Forecaster, waves[:, :24, None], waves[:, 24], loss=F.mse_loss, metric=None)


class Sorter(nn.Module):
    """A transformer of two post-norm layers: (b, 10) numbers below 16 to (b, 10, 16) logits of the sorted ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(16, 48), nn.Parameter(0.02 * torch.randn(10, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 128, dropout=0.0, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(48, 16)

    def forward(self, numbers: Tensor) -> Tensor:
        """Logits of each place."""
        return self.head(self.layers(self.embedding(numbers) + self.position))


def sorting() -> Task:
    """Sort ten numbers; the metric is the share of places that are right."""
    numbers = torch.randint(16, (6000, 10), generator=torch.Generator().manual_seed(5))
    return made("sorting, transformer", Sorter, numbers, numbers.sort(1).values, loss=per_position)


class Factors(nn.Module):
    """Matrix factorisation: (b, 2) row and column to the (b,) entries there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(300, 8), nn.Embedding(200, 8)
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, places: Tensor) -> Tensor:
        """The product of the two vectors, about the mean."""
        return (self.rows(places[:, 0]) * self.columns(places[:, 1])).sum(1) + self.mean


def ratings() -> Task:
    """Complete a matrix of rank 4, of which a fifth is known, with noise."""
    draw = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(300, 4, generator=draw), torch.randn(200, 4, generator=draw)
    known = torch.randperm(60_000, generator=draw)[:12_000]
    places = torch.stack([known // 200, known % 200], 1)
    entries = 3 + (rows[places[:, 0]] * columns[places[:, 1]]).sum(1) + 0.3 * torch.randn(12_000, generator=draw)
    return made("ratings, matrix factorisation", Factors, places, entries, loss=F.mse_loss, metric=None)


def tags() -> Task:
    """Twelve yes or no answers about 30 numbers, by an MLP with dropout and without normalisation."""
    draw = torch.Generator().manual_seed(7)
    facts, mixed = torch.randn(3000, 30, generator=draw), torch.randn(30, 12, generator=draw)
    answers = (facts @ mixed + 4 * torch.sin(2 * facts[:, :12]) > 3).float()

    def model() -> nn.Module:
        hidden = [nn.Linear(30, 128), nn.GELU(), nn.Dropout(0.2), nn.Linear(128, 128), nn.GELU(), nn.Dropout(0.2)]
        return nn.Sequential(*hidden, nn.Linear(128, 12))

    loss = F.binary_cross_entropy_with_logits
    return made("tags, MLP with dropout", model, facts, answers, loss=loss, metric=None)


def _images(data: str, model: str, samples: int | None = None) -> Callable[[], Task]:
    flip = "random" if data == "cifar10" else "none"
    held_out = 0.1 if samples is None else 2000
    return lambda: image_task(ImageTask(data=data, model=model, train_samples=samples, flip=flip, validation=held_out))


_LENET, _RESNET = (0.003, 0.01, 0.03, 0.1, 0.3), (0.03, 0.1, 0.3, 1.0, 3.0)
ADAMW = {"rates": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "optimizer": "AdamW", "decays": DECOUPLED_DECAYS}
ADAMW_LARGE = ADAMW | {"rates": (*ADAMW["rates"], 0.1)}  # where the best of the grid was at its end
_LARGE = {"epochs": 3, "batch_size": 128, "seeds": 3}
_SMALL = {"batch_size": 64, "plan": CONV_PLAN}

PROBLEMS: dict[str, Problem] = {
    "digits": Problem(make=_images("digits", "mlp"), epochs=12, rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "half-digits": Problem(make=half_digits, epochs=30, rates=(0.1, 0.3, 1.0, 3.0, 10.0), chance=0.0774),
    "digits-gru": Problem(make=digit_rows, epochs=12, rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "digits-gru-adamw": Problem(make=digit_rows, epochs=12, **ADAMW_LARGE),
    "help-text": Problem(make=help_text, epochs=3, seeds=5, chance=log(103), **ADAMW),
    "forecast": Problem(make=forecast, epochs=12, rates=(0.01, 0.03, 0.1, 0.3, 1.0), chance=0.5),
    "sorting": Problem(make=sorting, epochs=10, seeds=5, chance=1 / 16, **ADAMW),
    "ratings": Problem(make=ratings, epochs=20, rates=(0.03, 0.1, 0.3, 1.0, 3.0), batch_size=128, chance=4.1),
    "tags": Problem(make=tags, epochs=10, rates=(0.01, 0.03, 0.1, 0.3, 1.0), chance=log(2)),
    "mnist-2k": Problem(make=_images("mnist", "lenet", 2000), epochs=12, rates=_LENET, **_SMALL),
    "cifar10-5k-resnet8": Problem(make=_images("cifar10", "resnet8", 5000), epochs=4, rates=_RESNET, seeds=3, **_SMALL),
    "cifar10-5k-resnet20": Problem(
        make=_images("cifar10", "resnet20", 5000), epochs=4, rates=_RESNET, seeds=3, **_SMALL
    ),
    "mnist": Problem(make=_images("mnist", "lenet"), rates=_LENET, plan=BF16_PLAN, **_LARGE),
    "cifar10-resnet8": Problem(make=_images("cifar10", "resnet8"), rates=_RESNET, plan=CONV_PLAN, **_LARGE),
    "cifar10-resnet20": Problem(make=_images("cifar10", "resnet20"), rates=_RESNET, plan=CONV_PLAN, **_LARGE),
}
