"""What a run is, as plain values: what a command line can say, a file can hold and a hash can name."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from superconv.errors import UserError, above, at_least
from superconv.recipe import Recipe, ScheduleName, plain

COMPARED_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Rates that a comparison tries where none are given: the same for every schedule."""


def _separated(of: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[tuple[Any, ...]]:
    """A command line's list, separated by commas, spaces or both."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=lambda words: tuple(of(part) for word in words for part in word.split(",") if part),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def _schedule(word: str) -> str:
    if word not in get_args(ScheduleName):
        raise ValueError(f"there is no schedule {word!r}: use {', '.join(get_args(ScheduleName))}")
    return word


SHORT = 16  # updates, below which a cycle may have no room for all its phases

Axis = Literal["weight_decay", "batch_size", "momentum", "dropout"]


def _axis(word: str) -> str:
    if word not in get_args(Axis):
        raise ValueError(f"there is no axis {word!r}: use {', '.join(get_args(Axis))}")
    return word


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """An image classification."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """digits, mnist, fashion_mnist, cifar10, cifar100, imagenet-1k, others of the hub, folders of parquet or images."""
    model: str | None = None
    """mlp, lenet, resnet20 (any 6n+2), densenet40 (3n+4), wrn32, cifar10-full, resnet50 (ImageNet's);
    as in the paper's files: resnet20-author, bottleneck56-author, resnext56-author;
    or package.module:callable. None takes one that fits the images."""
    model_args: tuple[tuple[str, int | float | str], ...] = ()
    """Further arguments of the model: names and values, such as width 2."""
    weights: Path | None = None
    """A .safetensors file to start from."""
    batch_norm_size: int | None = None
    """Images that batch norm sees together; none takes the whole batch."""
    batch_norm_average: float | None = None
    """Share of running statistics an update keeps, in Caffe's sums (the paper: 0.95 to 0.999); none takes torch's."""
    train_samples: int | None = None
    """Use only so many training images, stratified; none takes all."""
    validation: float = 0.1
    """Share (below 1) or number of training images held out for every choice; 0 holds out none."""
    watch_test: bool = False
    """Read the test split while training in place of the validation split, as the paper did; no choice uses it."""
    label_column: str | None = None
    """The column of labels, where it cannot be guessed."""
    image_size: int | None = None
    """Resize images to this side in pixels; none leaves them."""
    normalization: Literal["channel", "mean_image", "scale"] = "channel"
    """`channel` brings each channel to mean 0 and deviation 1;
    `mean_image` subtracts the mean image and keeps the scale of 0 to 255, as in the paper's runs;
    `scale` divides pixels of 0 to 255 by 256, as for its LeNet."""
    shuffle: bool = True
    """Each epoch has an order of its own; --no-shuffle takes images in that of the files, as in the paper's runs."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Horizontal flips of training images; `alternating` shows each image in turn as it is and flipped."""
    shift: int = 0
    """Shift training images at random by up to so many pixels."""
    cutout: int = 0
    """Side in pixels of a random square of training images that is set to the mean."""
    split_seed: int = 0
    """Seed of the subset and of the validation split, apart from the run's."""

    def plain(self) -> dict[str, Any]:
        """The task as plain values, for JSON and hashes."""
        task = asdict(self) | {"model_args": dict(self.model_args)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in task.items()}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user has settled; what is none is searched or taken from the preset."""

    epochs: float | None = None
    """Length of the training in passes over the data; where no length is given 12, 500 updates at least."""
    steps: int | None = None
    """Length of the training in updates."""
    minutes: float | None = None
    """Length of sweeps and training together, in minutes, by the pace of a few updates; the plan's search counts."""
    batch_size: int | None = None
    """Samples per update; none takes about a fortieth of the data, 32 to 256, fewer where --epochs are few."""
    max_lr: float | None = None
    """Peak of the cycle; none finds it by a range test and short cycles."""
    weight_decay: float | None = None
    """Weight decay; none takes what rate, momentum and length leave room for."""
    momentum: float | None = None
    """Momentum, constant unless --min-momentum is given too, then at the feet of the cycle; none takes the preset's."""
    min_momentum: float | None = None
    """Momentum at the peak of the cycle; none takes the preset's, or --momentum where that is given."""
    dropout: float | None = None
    """Dropout that no layer of the network exceeds; none lowers what is more than the epochs leave room for."""
    preset: str = "paper"
    """`paper` (symmetric cycle, cyclical momentum) or `record` (early peak, constant momentum)."""
    schedule: ScheduleName | None = None
    """Course of the rate; none takes one_cycle."""
    optimizer: str | None = None
    """Any class of torch.optim, or CaffeSGD; none takes SGD with Nesterov momentum."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes; none takes 0."""
    clip_norm: float | None = None
    """Largest L2 norm of the gradient; none leaves it alone."""
    accumulate: int | None = None
    """Parts in which an update's gradient is computed; none takes 1."""
    sweep_seeds: int = 1
    """Networks that the range test is made with, as far as the search's share has room for them."""
    estimate: bool = False
    """Measure the Hessian-free estimate of the rate as well, in the range test and in the training."""
    max_lr_from: Literal["range_test", "both"] = "range_test"
    """What the peak comes from: range test and short cycles, or the Hessian-free estimate where that is smaller."""
    search: float = 0.3
    """Share of the training's updates that the search may take; 200 updates at least."""
    recipe_file: Annotated[str | None, arg(name="recipe", metavar="PATH")] = None
    """A recipe.yaml, whole or in part: what it has is not searched, and any other option counts before it.
    It holds no network and no augmentation: give --model, --flip and so on again."""

    def filled(self) -> "Choices":
        """These choices with those of the recipe file; what is given here comes first.

        Raises:
            UserError: The file holds no recipe or part of one, or a number is below what makes sense.
        """
        above(0, epochs=self.epochs, minutes=self.minutes, max_lr=self.max_lr, clip_norm=self.clip_norm)
        at_least(1, steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        at_least(1, sweep_seeds=self.sweep_seeds)
        at_least(0, search=self.search, weight_decay=self.weight_decay, label_smoothing=self.label_smoothing)
        at_least(0, momentum=self.momentum, min_momentum=self.min_momentum, dropout=self.dropout)
        given = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        if given & {"epochs", "steps", "minutes"}:
            given.add("steps")
        if "momentum" in given:
            given.add("min_momentum")  # a momentum that was asked for stays
        known = {f.name for f in fields(self)} - given
        return replace(self, **{name: value for name, value in self._stored().items() if name in known})

    @property
    def seconds(self) -> float | None:
        """`minutes` in seconds."""
        return None if self.minutes is None else 60 * self.minutes

    def _stored(self) -> dict[str, Any]:
        return Recipe.load_part(Path(self.recipe_file)) if self.recipe_file else {}

    def _shape(self, max_lr: float) -> dict[str, Any]:
        """Fields of the recipe file that are no choices; its lower rates keep their ratio to the peak."""
        stored = self._stored()
        shape = {name: value for name, value in stored.items() if not hasattr(self, name)}
        if stored.get("optimizer", self.optimizer) != self.optimizer:
            shape.pop("optimizer_args", None)
        for name in ("base_lr", "final_lr"):
            if shape.get(name):
                if "max_lr" not in stored:
                    raise UserError(f"{self.recipe_file} has {name} without max_lr, to which it is in proportion")
                shape[name] *= max_lr / stored["max_lr"]
        if "min_momentum" in stored and self.min_momentum is None:
            shape["min_momentum"] = None  # as the file says, where others would take the preset's
        return shape

    def recipe(self, *, batch_size: int, steps: int, max_lr: float, reasons: dict[str, str]) -> Recipe:
        """The recipe of these choices; a cycle of a few updates goes without the phases that it has no room for.

        Raises:
            UserError: They make none.
        """
        made = {**self._fields(), **self._shape(max_lr)}
        build = partial(Recipe.preset, self.preset, steps=steps, batch_size=batch_size, max_lr=max_lr)
        shorter: list[dict[str, Any]] = [{}, {"annihilation": 0.0}, {"schedule": "constant"}]
        for left_out in shorter if steps < SHORT else ():
            why = dict.fromkeys(left_out, f"{steps} updates have no room for more")
            with suppress(UserError):
                return build(**{**made, **left_out, "reasons": {**reasons, **why}})
        return build(**made, reasons=reasons)

    def _fields(self) -> dict[str, Any]:
        names = ["weight_decay", "momentum", "min_momentum", "dropout", "schedule", "optimizer", "label_smoothing"]
        names += ["clip_norm", "accumulate"]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.momentum is not None and self.min_momentum is None:
            given["min_momentum"] = None  # a momentum that was asked for stays
        if self.optimizer not in (None, "SGD"):
            given["optimizer_args"] = {}
        return given


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which schedules to train, for how long, from which seeds."""

    schedules: Annotated[tuple[ScheduleName, ...], _separated(_schedule, "NAME,…")] = (
        "one_cycle",
        "piecewise",
        "cosine",
        "constant",
    )
    """Courses of the rate to compare."""
    steps: Annotated[tuple[int, ...], _separated(int, "INT,…")] = (200, 400, 800, 1600)
    """Lengths of the runs in updates."""
    seeds: int = 3
    """Runs of each schedule and length, from seeds 0, 1, …"""
    max_lr: tuple[str, ...] = ()
    """Rates of a schedule, such as one_cycle=1,3 piecewise=0.1,0.35: peak of the cycle, initial rate of the others.
    Not given, 0.03 to 3 in half decades; of several, the best on validation of seed 0 at the middle length."""

    def candidates(self) -> dict[str, tuple[float, ...]]:
        """The rates of each schedule.

        Raises:
            UserError: What was given is no rate, or for a schedule that is not compared; or there are no schedules or
                lengths, or one of them twice.
        """
        for option, listed in (("schedules", self.schedules), ("steps", self.steps)):
            if not listed or len(set(listed)) < len(listed):
                raise UserError(f"--{option} takes one value or more, each once")
        rates: dict[str, tuple[float, ...]] = dict.fromkeys(self.schedules, COMPARED_RATES)
        for words in self.max_lr:
            name, _, values = words.partition("=")
            try:
                rates[name] = tuple(float(value) for value in dict.fromkeys(values.split(",")))
            except ValueError as error:
                raise UserError(f"--max-lr takes schedule=rate,rate,…, such as one_cycle=1,3, not {words!r}") from error
        if foreign := [name for name in rates if name not in self.schedules]:
            raise UserError(f"--max-lr has a rate for {foreign[0]}, but compared are {', '.join(self.schedules)}")
        return rates


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """Which regularization to vary, at which rates, and how long."""

    axes: Annotated[tuple[Axis, ...], _separated(_axis, "NAME,…")] = get_args(Axis)
    """What is varied: the decay at every peak, then the others in turn; dropout where the network takes it."""
    max_lr: Annotated[tuple[float, ...], _separated(float, "FLOAT,…")] = ()
    """Peaks of the cycles; none given: a tenth, a third and the whole of what a range test bears."""
    weight_decay: Annotated[tuple[float, ...], _separated(float, "FLOAT,…")] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    """Decays to try; the best one of each peak is then refined by half the step to its better neighbour."""
    steps: int = 400
    """Updates of a cycle, fewer for larger batches. Longer runs want less decay: take the length of the training."""
    sweep_steps: int = 100
    """Updates of a range test, fewer where the batch is larger."""
    seeds: int = 1
    """Networks of each setting, from seeds 0, 1, …, the same for all settings."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: two equal specs are the same run and are made once."""

    task: ImageTask
    recipe: Recipe
    kind: Literal["training", "trial", "range_test"] = "training"
    """A `trial` leaves the test split alone; a `range_test` sweeps the rate to the recipe's `max_lr`, linearly from 0
    or exponentially from its `base_lr`."""
    seed: int = 0
    device: str = "auto"
    plan: str | None = None
    evaluations: int = 10
    evaluation_samples: int | None = None
    """Images of an evaluation while training; more than there are go around them, as in the paper's runs."""
    estimate: int = 0
    """Measure the curvature estimate every so many updates (`estimate.jsonl`); 0 does not."""

    def plain(self) -> dict[str, Any]:
        """The spec as plain values; the recipe without its reasons, which change nothing, nor a dropout left alone."""
        recipe = {k: v for k, v in plain(self.recipe).items() if k != "reasons" and (k, v) != ("dropout", None)}
        names = ("seed", "device", "plan", "evaluations", "evaluation_samples", "estimate")
        rest = {k: getattr(self, k) for k in names}
        kind = {} if self.kind == "training" else {"kind": self.kind}
        values: dict[str, Any] = json.loads(json.dumps({"task": self.task.plain(), "recipe": recipe, **rest, **kind}))
        return values  # as JSON gives them back: a tuple is a list

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name the spec."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
