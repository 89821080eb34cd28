"""The choices that a user makes about a training, as plain values."""

from dataclasses import dataclass
from typing import Literal

from superconv.errors import above, at_least
from superconv.files import make_native
from superconv.recipe import ScheduleName


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values that the user settles. Those that are `None` are searched, or follow from laws or the preset.

    >>> import superconv
    >>> superconv.Choices(epochs=3, max_lr=0.1).weight_decay is None
    True
    """

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
    recipe_file: str | None = None
    """A recipe.yaml, whole or in part: what it has is not searched, and any other option counts before it.
    It holds no network and no augmentation: give --model, --flip and so on again."""

    def __post_init__(self) -> None:
        make_native(self)

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            UserError: Names the first such value.
        """
        above(0, epochs=self.epochs, minutes=self.minutes, max_lr=self.max_lr, clip_norm=self.clip_norm)
        at_least(1, steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        at_least(1, sweep_seeds=self.sweep_seeds)
        at_least(0, search=self.search, weight_decay=self.weight_decay, label_smoothing=self.label_smoothing)
        at_least(0, momentum=self.momentum, min_momentum=self.min_momentum, dropout=self.dropout)

    @property
    def seconds(self) -> float | None:
        """`minutes` in seconds."""
        return None if self.minutes is None else 60 * self.minutes
