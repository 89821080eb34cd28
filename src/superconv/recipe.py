"""How a network is trained: rates, momentum, decay, batch and length, in one file a person can read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import ConfigDict

from superconv import files
from superconv.errors import UserError, above, at_least
from superconv.rates import schedules
from superconv.rates.schedules import Schedule

ScheduleName = Literal["one_cycle", "piecewise", "cosine", "linear", "warmup_stable_decay", "constant", "triangular"]
CYCLES = ("one_cycle", "triangular")
"""Schedules that rise by themselves."""
LATER = {"dropout": None, "ramp": 0.0, "cooldown": 0.2, "cooldown_anneal": "linear"}
"""Fields of a recipe, with their defaults, that runs from before them lack: no part of a run's name."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training computes, and nothing about where it runs.

    Rates are per update, fractions are of `steps`. The defaults are the preset `paper`: Smith & Topin's 1cycle policy
    with the cyclical momentum of arXiv 1803.09820.

    >>> import superconv
    >>> recipe = superconv.Recipe(steps=100, batch_size=32, max_lr=0.5)
    >>> recipe.learning_rate()(45), round(recipe.momentum_schedule()(45), 2)
    (0.5, 0.85)
    """

    steps: int
    """Length of the run in optimizer updates."""
    batch_size: int
    """Samples per update, over all processes and accumulated parts."""
    max_lr: float
    """Largest learning rate: the peak of the cycle, or the initial rate of the other schedules."""
    schedule: ScheduleName = "one_cycle"
    """`one_cycle`, `piecewise` (×0.1 at 5/8 and 7/8 of the run, the paper's baseline), `cosine`, `linear` and
    `warmup_stable_decay`, which fall to final_lr, the latter in the last `cooldown` of the run, `constant`, or Caffe's
    `triangular`: linearly from base_lr to the peak and back, as in the paper's logged runs, in as many whole cycles as
    come nearest to a rise of `warmup` of the run; with 1 it only rises, and from base_lr 0 it is their range test."""
    base_lr: float | None = None
    """Rate at both feet of the cycle; max_lr / 10 if not given."""
    final_lr: float | None = None
    """Rate of the last update; base_lr / 100 if not given, and 0 for schedules that are no cycles."""
    warmup: float = 0.45
    """Fraction of the run in which the rate of a cycle rises to its peak."""
    ramp: float = 0.0
    """Fraction of the run in which the rate of any other schedule rises from 0."""
    cooldown: float = 0.2
    """Fraction of the run, at its end, in which the rate of `warmup_stable_decay` falls."""
    cooldown_anneal: Literal["linear", "cosine", "sqrt"] = "linear"
    """Shape of that fall; `sqrt` is 1 − √x."""
    annihilation: float = 0.1
    """Fraction of the run, at its end, in which the rate falls below base_lr; 0 lets the cycle end at final_lr."""
    anneal: Literal["linear", "cosine"] = "linear"
    """Shape of the rise and the falls."""
    momentum: float = 0.95
    """Momentum at the feet of the cycle (first beta of Adam and its kin)."""
    min_momentum: float | None = 0.85
    """Momentum at the peak of the cycle; none keeps `momentum` throughout, as all other schedules do."""
    weight_decay: float = 1e-4
    """Weight decay per update, times the rate."""
    optimizer: str = "SGD"
    """Any class of torch.optim, or CaffeSGD, with the rate inside the momentum as in the paper's runs."""
    optimizer_args: Mapping[str, Any] = field(default_factory=lambda: {"nesterov": True})
    """Further arguments of that class; `caffe_multipliers: true` gives biases of convolutions and linear layers twice
    the rate and those of convolutions no decay, as in the paper's runs."""
    dropout: float | None = None
    """Dropout that no layer of the network exceeds (in a loop of your own: `superconv.models.dropout.limit_dropout`);
    none leaves the network's own."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    clip_norm: float | None = None
    """Largest L2 norm of the gradient of each optimizer's parameters; none leaves it alone."""
    accumulate: int = 1
    """Parts in which the gradient of one update is computed, to save memory."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a field has its value, field by field."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        files.make_native(self)
        at_least(1, steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        at_least(0, weight_decay=self.weight_decay)
        above(0, max_lr=self.max_lr, clip_norm=self.clip_norm)
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size {self.batch_size} does not divide into {self.accumulate} parts (accumulate)")
        if not 0 <= self.ramp < 1:
            raise UserError(f"ramp is a fraction of the run, in [0, 1), not {self.ramp}")
        if self.ramp and self.schedule in CYCLES:
            raise UserError(f"{self.schedule} rises by itself: give warmup in place of ramp")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be in [0, 1), not {self.momentum}")
        if self.dropout is not None and not 0 <= self.dropout <= 1:
            raise UserError(f"dropout must be in [0, 1], not {self.dropout}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        try:
            self.learning_rate(), self.momentum_schedule()
        except ValueError as error:
            raise UserError(f"this {self.schedule} schedule cannot be built: {error}") from error

    @classmethod
    def preset(cls, name: str, *, steps: int, batch_size: int, max_lr: float, **fields: Any) -> Self:
        """Build a recipe from one of `PRESETS`; `fields` override it.

        Raises:
            UserError: No such preset, or values that make no schedule.
        """
        try:
            preset = PRESETS[name]
        except KeyError as error:
            raise UserError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}") from error
        return cls(steps=steps, batch_size=batch_size, max_lr=max_lr, **{**preset(max_lr), **fields})

    def learning_rate(self) -> Schedule:
        """The learning rate as a function of the update."""
        if self.schedule == "one_cycle":
            return schedules.one_cycle(
                self.steps,
                self.max_lr,
                base_lr=self.base_lr,
                final_lr=self.final_lr,
                warmup=self.warmup,
                annihilation=self.annihilation,
                anneal=self.anneal,
            )
        if self.schedule == "triangular":
            base_lr = self.max_lr / 10 if self.base_lr is None else self.base_lr
            rise = 0.5 / max(1, round(0.5 / self.warmup)) if 0 < self.warmup < 1 else self.warmup
            return schedules.triangular(base_lr, self.max_lr, round(self.steps * rise))
        final = self.final_lr or 0.0
        if self.schedule == "cosine":
            return schedules.cosine(self.steps, self.max_lr, final_lr=final, warmup=self.ramp)
        if self.schedule == "linear":
            return schedules.linear(self.steps, self.max_lr, final_lr=final, warmup=self.ramp)
        if self.schedule == "warmup_stable_decay":
            return schedules.warmup_stable_decay(
                self.steps,
                self.max_lr,
                warmup=self.ramp,
                decay=self.cooldown,
                final_lr=final,
                anneal=self.cooldown_anneal,
            )
        flat = schedules.constant(self.max_lr)
        if self.schedule == "piecewise":
            flat = schedules.piecewise_constant(self.max_lr, (round(self.steps * 5 / 8), round(self.steps * 7 / 8)))
        return schedules.warmed_up(flat, max(1, round(self.ramp * self.steps))) if self.ramp else flat

    def momentum_schedule(self) -> Schedule | None:
        """Momentum as a function of the update; none if it stays as the optimizer was made with."""
        if self.schedule != "one_cycle" or self.min_momentum in (None, self.momentum):
            return None
        return schedules.cyclical_momentum(
            self.steps,
            max_momentum=self.momentum,
            min_momentum=self.min_momentum,
            warmup=self.warmup,
            annihilation=self.annihilation,
            anneal=self.anneal,
        )

    def to_yaml(self) -> str:
        """The recipe as YAML, fields in their order."""
        return str(yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True, width=110))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe from a YAML file.

        Raises:
            UserError: The file is unreadable, has an unknown field, or a value of the wrong kind.
        """
        value = files.read_yaml(path)
        if not isinstance(value, dict):
            raise UserError(f"{path} holds no recipe: it must be a mapping with steps, batch_size and max_lr")
        return files.checked(cls, value, source=path)

    @classmethod
    def load_part(cls, path: Path) -> dict[str, Any]:
        """Read from a YAML file those fields that it has, its reasons apart.

        Raises:
            UserError: The file is unreadable, has an unknown field, or a value of the wrong kind.
        """
        value = files.read_yaml(path)
        if not isinstance(value, dict):
            raise UserError(f"{path} holds no recipe: it must be a mapping of a recipe's fields")
        others = {"steps": 100, "batch_size": value.get("accumulate", 1), "max_lr": 1.0}
        whole = files.checked(cls, {**others, **value}, source=path)
        return {name: getattr(whole, name) for name in value if name != "reasons"}


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a dict of plain values, for JSON, YAML and hashes."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in asdict(recipe).items()}


PRESETS: Mapping[str, Any] = {
    # Smith & Topin 2018: a symmetric cycle of 90 % of the run from max/10, then down to a hundredth of that.
    "paper": lambda max_lr: {},
    # The triangle of the CIFAR-10 records (hlb-CIFAR10, airbench): early peak, no feet, constant momentum.
    "record": lambda max_lr: {
        "base_lr": 0.2 * max_lr,
        "final_lr": 0.07 * max_lr,
        "warmup": 0.23,
        "annihilation": 0.0,
        "momentum": 0.85,
        "min_momentum": None,
        "weight_decay": 5e-4,
    },
}
