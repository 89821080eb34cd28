"""What is trained: a model, batches, a loss, a metric and an optimizer. Images are only the common case."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from superconv import data, models
from superconv.data import ImageData, Source, as_source
from superconv.data.augment import Augmentation
from superconv.data.source import SplitBatch
from superconv.errors import UserError
from superconv.rates.direction import lower_is_better
from superconv.rates.snapshot import isolated_rng
from superconv.rates.traits import Traits, traits_of
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.training import optimizers
from superconv.training.calling import LAZY_SAMPLES, Predict, call_model, make_lazy
from superconv.training.measures import Loss, Metric, accuracy


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a range test or a training needs to know about a problem.

    Data are anything that `superconv.data.as_source` takes: a `Source`, a torch `Dataset`, a `DataLoader`, or a tuple
    (X, y) of tensors or arrays. A batch is (inputs, targets), both of any structure of tensors. Of a data set whose
    batches are mappings (a dict, transformers' `BatchEncoding`), the target is the entry `labels`, `label`, `targets`,
    `target` or `y`, the first that there is, and all others are the inputs; `batch` says otherwise.

    A task with only a loss has `metric=None`; it is then judged by its validation loss.

    Raises:
        UserError: The model is no factory, data cannot be read by position, or a metric whose name reads as better
            when lower comes without `higher_is_better`.

    >>> import torch, superconv
    >>> x = torch.randn(256, 4)
    >>> source = superconv.TensorSource(x, x.sum(1, keepdim=True))
    >>> task = superconv.Task(
    ...     name="sums", model=lambda: torch.nn.Linear(4, 1), train=source, validation=source,
    ...     loss=torch.nn.functional.mse_loss, metric=None,
    ... )
    >>> run = superconv.train(task, superconv.Recipe(steps=100, batch_size=32, max_lr=0.1))
    >>> run.scores["validation_loss"] < 0.1
    True
    """

    name: str
    model: Callable[[], nn.Module]
    """Makes a fresh model; called with the seed of the run set. Lazy layers get their shapes from a training batch."""
    train: Source | Any
    validation: Source | Any | None
    """What every choice is made on; without it choices fall back to the training signal."""
    test: Source | Any | None = None
    """Read once, at the end."""
    watched: bool = False
    """Whether `validation` is the test split, by which nothing may be chosen."""
    batch: SplitBatch | None = None
    """Makes (inputs, targets) of a batch of a `Dataset` or `DataLoader`; `superconv.data.source.split_batch`, if not
    given."""
    predict: Predict = call_model
    """(model, inputs) → output: `model(**inputs)` for a mapping, `model(*inputs)` for a tuple or list, else
    `model(inputs)`. A model whose forward has an argument with a name of the target gets that as well, where inputs
    are a mapping: so transformers' models compute their loss."""
    loss: Loss = F.cross_entropy
    """(output, target) → mean loss of the batch, (sum, count), or a tensor of the losses of all samples or elements.

    The output is what the model returned. Of parts that count differently (masks, ignored or weighted targets), sum
    and count give the right mean, in accumulated parts, several processes and evaluations; means cannot. Torch's
    cross-entropy, with arguments or as a module, is right by itself; it takes the `logits` of an output that is no
    tensor, or else its first tensor. The default takes the `loss` that the model has computed itself before that.
    Must take `label_smoothing` where a recipe has it."""
    metric: Metric | None = accuracy
    """(output, target) → mean score of the batch, or as for the loss; the default reads logits as the loss does."""
    metric_name: str = "accuracy"
    higher_is_better: bool = None  # type: ignore[assignment]  # it is settled when the task is made
    """Direction of the metric; if not given, `True`, unless its name reads as better when lower: that is refused."""
    shuffle: bool = True
    """Whether each epoch visits the training samples in an order of its own, or all in theirs."""
    optimizer: Callable[[nn.Module, Recipe], Optimizer | Iterable[Optimizer]] = optimizers.make
    """Makes the optimizer, or several that share the schedule and keep their ratio."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is stored with a run, so that its weights can be used: class names, normalisation, the model's name."""

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module) or not callable(self.model):
            kind = type(self.model).__name__
            raise UserError(
                f"model is a function that makes a fresh network at each call, not a {kind}: give "
                "model=lambda: Net(), or model=lambda: copy.deepcopy(net) for one that is there"
            )
        for name in ("train", "validation", "test"):
            if (data := getattr(self, name)) is not None or name == "train":
                object.__setattr__(self, name, as_source(data, split=self.batch))
        if self.higher_is_better is None:
            if self.metric is not None and lower_is_better(self.metric_name):
                raise UserError(
                    f"the metric {self.metric_name!r} reads as better when lower: say higher_is_better=False (or True)"
                )
            object.__setattr__(self, "higher_is_better", True)

    def network(self) -> nn.Module:
        """A fresh model, its lazy layers made.

        Raises:
            UserError: `model` returned something else, or a lazy layer is not reached by a training batch.
        """
        model = self.model()
        if not isinstance(model, nn.Module):
            raise UserError(f"model must return a torch.nn.Module, not {type(model).__name__}")
        make_lazy(model, self._first_batch, self.predict)
        return model

    def _first_batch(self) -> tuple[Any, Any]:
        indices = torch.arange(min(LAZY_SAMPLES, len(self.train)))
        draws = [(torch.zeros_like(indices), indices)]
        batch: tuple[Any, Any] = next(iter(self.train.to("cpu").batches(draws, seed=0, augment=False)))
        return batch

    def refuse_shared(self) -> None:
        """Refuse a factory whose networks share what is trained: each training would go on from the last one.

        Raises:
            UserError: Two networks share a parameter that requires a gradient.
        """
        with isolated_rng():
            first, second = self.network(), self.network()
        trained = {id(parameter) for parameter in first.parameters() if parameter.requires_grad}
        if any(id(parameter) in trained for parameter in second.parameters()):
            raise UserError(
                "model must make a fresh network at each call, and here two calls share parameters: build it inside "
                "(model=lambda: Net()), or copy it (model=lambda: copy.deepcopy(net))"
            )

    def traits(self, recipe: Recipe) -> Traits:
        """Traits of a fresh network and its optimizers; generators stay as they are."""
        with isolated_rng():
            model = self.network()
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
    """Image classification, ready-made; `images` spares loading what `load_images` has loaded before.

    >>> import superconv
    >>> task = superconv.image_task(superconv.ImageTask(data="digits", model="mlp"))
    >>> task.name, len(task.train) + len(task.validation) + len(task.test)
    ('digits, mlp', 1797)
    """
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
