"""How specs are written on a command line: data are named without an option, and lists take commas."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from superconv.recipe import ScheduleName
from superconv.specs.choices import Choices
from superconv.specs.image_task import ImageTask
from superconv.specs.studies import Axis, Balancing, Comparison


def _one_of(values: tuple[str, ...], kind: str) -> Callable[[str], str]:
    """A reader of words that refuses those which are not among `values`."""

    def read(word: str) -> str:
        if word not in values:
            raise ValueError(f"there is no {kind} {word!r}: use {', '.join(values)}")
        return word

    return read


def _separated(of: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[tuple[Any, ...]]:
    """A command line's list, separated by commas, spaces or both."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=lambda words: tuple(of(part) for word in words for part in word.split(",") if part),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


_SCHEDULES = _separated(_one_of(get_args(ScheduleName), "schedule"), "NAME,…")
_AXES = _separated(_one_of(get_args(Axis), "axis"), "NAME,…")
_FLOATS, _INTS = _separated(float, "FLOAT,…"), _separated(int, "INT,…")


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ImageTask):
    """An image classification."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """digits, mnist, fashion_mnist, cifar10, cifar100, imagenet-1k, others of the hub, folders of parquet or images."""


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(Choices):
    """Values that the user settles."""

    recipe_file: Annotated[str | None, arg(name="recipe", metavar="PATH")] = None
    """A recipe.yaml, whole or in part: what it has is not searched, and any other option counts before it.
    It holds no network and no augmentation: give --model, --flip and so on again."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Comparison):
    """Which schedules to train, for how long, from which seeds."""

    schedules: Annotated[tuple[ScheduleName, ...], _SCHEDULES] = Comparison.schedules
    """Courses of the rate to compare."""
    steps: Annotated[tuple[int, ...], _INTS] = Comparison.steps
    """Lengths of the runs in updates."""


@dataclass(frozen=True, kw_only=True)
class BalancingOptions(Balancing):
    """Which regularization to vary, at which rates, and how long."""

    axes: Annotated[tuple[Axis, ...], _AXES] = Balancing.axes
    """What is varied: the decay at every peak, then the others in turn; dropout where the network takes it."""
    max_lr: Annotated[tuple[float, ...], _FLOATS] = Balancing.max_lr
    """Peaks of the cycles; none given: a tenth, a third and the whole of what a range test bears."""
    weight_decay: Annotated[tuple[float, ...], _FLOATS] = Balancing.weight_decay
    """Decays to try; the best one of each peak is then refined by half the step to its better neighbour."""
