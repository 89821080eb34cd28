"""Which runs a study makes, as plain values."""

from dataclasses import dataclass
from typing import Literal, get_args

from superconv.errors import UserError
from superconv.files import make_native
from superconv.recipe import ScheduleName

COMPARED_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Rates that a comparison tries where none are given: the same for every schedule."""

Axis = Literal["weight_decay", "batch_size", "momentum", "dropout"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which schedules to train, for how long, from which seeds.

    >>> import superconv
    >>> superconv.Comparison(schedules=("one_cycle", "cosine"), max_lr=("one_cycle=1,3",)).candidates()["one_cycle"]
    (1.0, 3.0)
    """

    schedules: tuple[ScheduleName, ...] = (
        "one_cycle",
        "piecewise",
        "cosine",
        "constant",
    )
    """Courses of the rate to compare."""
    steps: tuple[int, ...] = (200, 400, 800, 1600)
    """Lengths of the runs in updates."""
    seeds: int = 3
    """Runs of each schedule and length, from seeds 0, 1, …"""
    max_lr: tuple[str, ...] = ()
    """Rates of a schedule, such as one_cycle=1,3 piecewise=0.1,0.35: peak of the cycle, initial rate of the others.
    Not given, 0.03 to 3 in half decades; of several, the best on validation of seed 0 at the middle length."""

    def __post_init__(self) -> None:
        make_native(self)

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

    axes: tuple[Axis, ...] = get_args(Axis)
    """What is varied: the decay at every peak, then the others in turn; dropout where the network takes it."""
    max_lr: tuple[float, ...] = ()
    """Peaks of the cycles; none given: a tenth, a third and the whole of what a range test bears."""
    weight_decay: tuple[float, ...] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    """Decays to try; the best one of each peak is then refined by half the step to its better neighbour."""
    steps: int = 400
    """Updates of a cycle, fewer for larger batches. Longer runs want less decay: take the length of the training."""
    sweep_steps: int = 100
    """Updates of a range test, fewer where the batch is larger."""
    seeds: int = 1
    """Networks of each setting, from seeds 0, 1, …, the same for all settings."""

    def __post_init__(self) -> None:
        make_native(self)
