"""What is trained: a model, batches, a loss, a metric and an optimizer. Images are only the common case."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv import data, models
from superconv.data import ImageData, Source
from superconv.data.augment import Augmentation
from superconv.errors import UserError
from superconv.rates.snapshot import isolated_rng
from superconv.rates.traits import Traits, traits_of
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training import optimizers

Loss = Callable[..., Tensor]
Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose largest logit (b, k) is at the target (b,); a tensor without dimensions."""
    return (output.argmax(-1) == target).mean(dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a range test or a training needs to know about a problem.

    A task with only a loss has `metric=None`; it is then judged by its validation loss.
    """

    name: str
    model: Callable[[], nn.Module]
    """Makes a fresh model; called with the seed of the run set."""
    train: Source
    validation: Source | None
    """What every choice is made on; without it choices fall back to the training signal."""
    test: Source | None = None
    """Read once, at the end."""
    watched: bool = False
    """Whether `validation` is the test split, by which nothing may be chosen."""
    loss: Loss = F.cross_entropy
    """(output, target) → mean loss of the batch; must take `label_smoothing` where a recipe has it."""
    metric: Metric | None = accuracy
    """(output, target) → mean score of the batch."""
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    shuffle: bool = True
    """Whether each epoch visits the training samples in an order of its own, or all in theirs."""
    optimizer: Callable[[nn.Module, Recipe], Optimizer | Iterable[Optimizer]] = optimizers.make
    """Makes the optimizer, or several that share the schedule and keep their ratio."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is stored with a run, so that its weights can be used: class names, normalisation, the model's name."""

    def traits(self, recipe: Recipe) -> Traits:
        """Traits of a fresh network and its optimizers; generators stay as they are."""
        with isolated_rng():
            model = self.model()
            return traits_of(model, self.optimizers(model, recipe))

    def optimizers(self, model: nn.Module, recipe: Recipe) -> list[Optimizer]:
        """What `optimizer` makes, as a list."""
        made = self.optimizer(model, recipe)
        return [made] if isinstance(made, Optimizer) else list(made)


def refuse_watched(watched: bool) -> None:
    """Refuse to choose anything where the validation split is the test split.

    Raises:
        UserError: It is `watched`.
    """
    if watched:
        raise UserError(
            "nothing may be chosen on the test split: leave out --watch-test (watched), and a validation split is held "
            "out; or give fit what would be chosen, --max-lr"
        )


def load_images(spec: ImageTask) -> ImageData:
    """Load the data set of an image task, as `superconv.data.load` does."""
    return data.load(
        spec.data,
        train_samples=spec.train_samples,
        validation=spec.validation,
        seed=spec.split_seed,
        augmentation=Augmentation(flip=spec.flip, shift=spec.shift, cutout=spec.cutout),
        normalization=spec.normalization,
        label_column=spec.label_column,
        image_size=spec.image_size,
        image_fit=spec.image_fit,
        skip_corrupt=spec.skip_corrupt,
    )


def image_task(spec: ImageTask, images: ImageData | None = None) -> Task:
    """Image classification, ready-made; `images` spares loading what `load_images` has loaded before."""
    images = images or load_images(spec)
    name = spec.model or models.default_model(images.image_shape)
    arguments: dict[str, Any] = {
        "num_classes": len(images.class_names),
        "image_shape": images.image_shape,
        "batch_norm_size": spec.batch_norm_size,
        "batch_norm_average": spec.batch_norm_average,
        "args": dict(spec.model_args),
    }
    return Task(
        name=f"{images.name}, {name}",
        model=partial(models.create, name, weights=spec.weights, **arguments),
        train=images.train,
        validation=images.test if spec.watch_test else images.validation,
        test=images.test,
        watched=spec.watch_test,
        shuffle=spec.shuffle,
        facts={
            "model": {"name": name, **arguments, "image_shape": list(images.image_shape)},
            "class_names": list(images.class_names),
            "mean": list(images.mean),
            "std": list(images.std),
            "image_fit": images.image_fit,
            "center": images.center,
            "notes": list(images.notes),
        },
    )
