"""What `regret.py` trains: images of several sizes, a recurrent network, a regression, and a small language model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superconv.data.source import TensorSource
from superconv.specs import ImageTask
from superconv.training.task import Task, accuracy, image_task

LARGE_PLAN, CONV_PLAN, SMALL_PLAN = (
    "fp32,channels_last",
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


def next_character(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy per character, in nats."""
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
        loss=next_character,
        metric=None,
    )


def _images(data: str, model: str, samples: int | None = None) -> Callable[[], Task]:
    flip = "random" if data == "cifar10" else "none"
    held_out = 0.1 if samples is None else 2000
    return lambda: image_task(ImageTask(data=data, model=model, train_samples=samples, flip=flip, validation=held_out))


_LENET, _RESNET = (0.003, 0.01, 0.03, 0.1, 0.3), (0.03, 0.1, 0.3, 1.0, 3.0)
_LARGE = {"epochs": 3, "batch_size": 128, "seeds": 3, "plan": LARGE_PLAN}
_SMALL = {"batch_size": 64, "plan": CONV_PLAN}

PROBLEMS: dict[str, Problem] = {
    "digits": Problem(make=_images("digits", "mlp"), epochs=12, rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "half-digits": Problem(make=half_digits, epochs=30, rates=(0.1, 0.3, 1.0, 3.0, 10.0), chance=0.0774),
    "digits-gru": Problem(make=digit_rows, epochs=12, rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "digits-gru-adamw": Problem(
        make=digit_rows,
        epochs=12,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        optimizer="AdamW",
        decays=DECOUPLED_DECAYS,
    ),
    "help-text": Problem(
        make=help_text,
        epochs=3,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        seeds=5,
        optimizer="AdamW",
        decays=DECOUPLED_DECAYS,
        chance=log(103),
    ),
    "mnist-2k": Problem(make=_images("mnist", "lenet", 2000), epochs=12, rates=_LENET, **_SMALL),
    "cifar10-5k-resnet8": Problem(make=_images("cifar10", "resnet8", 5000), epochs=4, rates=_RESNET, seeds=3, **_SMALL),
    "cifar10-5k-resnet20": Problem(
        make=_images("cifar10", "resnet20", 5000), epochs=4, rates=_RESNET, seeds=3, **_SMALL
    ),
    "mnist": Problem(make=_images("mnist", "lenet"), rates=_LENET, **_LARGE),
    "cifar10-resnet8": Problem(make=_images("cifar10", "resnet8"), rates=_RESNET, **_LARGE),
    "cifar10-resnet20": Problem(make=_images("cifar10", "resnet20"), rates=_RESNET, **_LARGE),
}
