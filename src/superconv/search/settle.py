"""What is settled about a training before anything is searched: every value with its origin and its reason."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from superconv.errors import UserError
from superconv.rates.laws import LengthLaw
from superconv.rates.traits import Traits
from superconv.recipe import Recipe
from superconv.search.batch import batch_for, length_of
from superconv.search.decay import balanced_decay
from superconv.search.dropout import balanced_dropout
from superconv.specs.choices import Choices
from superconv.training import optimizers
from superconv.training.task import Task, refuse_watched

Origin = Literal["given", "preset", "law", "searched"]
"""Given by the user, a preset's or a default, by a rule of thumb, or found by training."""

LOOK_LR = 1e-3  # rate of networks and optimizers that are only looked at, and of the trials of execution plans
SHORT = 16  # updates, below which a cycle may have no room for all its phases
PROPORTIONAL = ("base_lr", "final_lr")  # of a recipe file: they keep their ratio to its peak
EXPLAINED = ("batch_size", "momentum", "optimizer", "dropout", "max_lr", "weight_decay", "steps")  # in this order
CHOSEN = (
    *("weight_decay", "momentum", "min_momentum", "dropout", "schedule", "optimizer", "label_smoothing"),
    *("clip_norm", "accumulate"),
)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A settled value."""

    value: Any
    origin: Origin
    reason: str = ""
    """Why, in words for people; empty where there is nothing to say."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Everything of a training's recipe but what is still to be searched."""

    choices: Choices
    """The user's choices, those of a recipe file among them."""
    values: Mapping[str, Value]
    """By the names of a recipe's fields. The preset, or the field's default, has those that are absent."""
    samples: int
    """Number of training samples."""
    lower: Mapping[str, float] = field(default_factory=dict)
    """Rates below the peak, where a recipe file has them …"""
    lower_of: float = 1.0
    """… and the peak that they belong to there: they keep their ratio to it."""

    def origin(self, name: str) -> Origin:
        """Where the value of a recipe's field comes from."""
        return self.values[name].origin if name in self.values else "preset"

    def value(self, name: str) -> Any:
        """The value of a recipe's field; `None` where it is left to the preset or to a search."""
        return self.values[name].value if name in self.values else None

    @property
    def searched(self) -> bool:
        """Whether a peak has to be found."""
        return "max_lr" not in self.values

    @property
    def timed(self) -> bool:
        """Whether the length follows from minutes, so from the pace of updates that have to be made first."""
        return self.choices.minutes is not None

    @property
    def look(self) -> Recipe:
        """The recipe at a small rate: for looks and timings, and for sweeps, which have rates of their own."""
        return self.at(LOOK_LR, steps=max(LengthLaw().fewest, self.value("steps")))

    def having(self, **values: Value) -> "Settled":
        """The same with further values, or with others in place of its own."""
        return replace(self, values={**self.values, **values})

    def of_length(self, steps: int, reason: str, *, traits: Traits) -> "Settled":
        """The same in so many updates, with the dropout that these leave room for where the user gave none."""
        settled = self.having(steps=replace(self.values["steps"], value=steps, reason=reason))
        if settled.origin("dropout") == "given" or not traits.dropout:
            return settled
        epochs = max(LengthLaw().fewest, steps) * self.value("batch_size") / self.samples
        dropout, why = balanced_dropout(traits.dropout, epochs)
        return settled.having(dropout=Value(value=dropout, origin="law", reason=why))

    def at(self, max_lr: float, *, steps: int | None = None) -> Recipe:
        """The recipe with this peak; its decay, if not given, is the preset's.

        Args:
            max_lr: Its peak.
            steps: Its length in updates; that of the training, if not given. A cycle of a few updates goes without the
                phases that it has no room for.

        Raises:
            UserError: The values make no recipe.
        """
        values = {name: v.value for name, v in self.values.items()}
        values |= {name: rate * (max_lr / self.lower_of) for name, rate in self.lower.items()}
        values |= {"max_lr": max_lr, "steps": values["steps"] if steps is None else steps}
        if "weight_decay" not in values and not optimizers.takes(values.get("optimizer", "SGD"), "weight_decay"):
            values["weight_decay"] = 0.0
        reasons = {name: self.values[name].reason for name in EXPLAINED if name in self.values}
        made = {**values, "reasons": {name: reason for name, reason in reasons.items() if reason}}
        shorter: list[dict[str, Any]] = [{}, {"annihilation": 0.0}, {"schedule": "constant"}]
        for left_out in shorter if values["steps"] < SHORT else ():
            why = dict.fromkeys(left_out, f"{values['steps']} updates have no room for more")
            with suppress(UserError):
                return Recipe.preset(self.choices.preset, **{**made, **left_out, "reasons": {**made["reasons"], **why}})
        return Recipe.preset(self.choices.preset, **made)

    def recipe(self, traits: Traits) -> Recipe:
        """The recipe of the training, whose peak must be known; its decay is by the law where none is given."""
        recipe = self.at(self.value("max_lr"))
        return recipe if self.origin("weight_decay") == "given" else self.balanced(recipe, traits)

    def balanced(self, recipe: Recipe, traits: Traits) -> Recipe:
        """A recipe with the decay that its rates leave room for."""
        decay, reason = balanced_decay(recipe, self.samples, traits=traits)
        return replace(recipe, weight_decay=decay, reasons={**recipe.reasons, "weight_decay": reason})


def settle(task: Task, choices: Choices | None = None) -> tuple[Settled, Traits]:
    """Say what is settled about the training of a task, all but its peak where that is not given; and its traits.

    The file of `choices.recipe_file` is read here, once; any other choice counts before what it has.

    Raises:
        UserError: Choices contradict each other, make no recipe, or would be made on the test split; or the file
            holds no recipe nor part of one.
    """
    asked = choices or Choices()
    asked.check()
    stored = Recipe.load_part(Path(asked.recipe_file)) if asked.recipe_file else {}
    choices = _with_stored(asked, stored)
    lengths = [name for name in ("epochs", "steps", "minutes") if getattr(choices, name) is not None]
    if len(lengths) > 1:
        raise UserError(f"give one length, not both {' and '.join(lengths)}")
    if choices.max_lr is None:
        refuse_watched(task.watched)
    samples = len(task.train)
    batch_size, why = (choices.batch_size, "given") if choices.batch_size else batch_for(choices, samples)
    steps = length_of(choices, samples, batch_size)
    settled = Settled(
        choices=choices,
        values={
            "batch_size": Value(value=batch_size, origin="given" if choices.batch_size else "law", reason=why),
            "steps": Value(value=steps, origin="given" if lengths else "law"),
            **_given(choices, stored),
        },
        samples=samples,
        lower=_lower(stored, asked.recipe_file),
        lower_of=stored.get("max_lr", 1.0),
    )
    settled.at(LOOK_LR)  # values that make no recipe are refused now
    look = settled.look
    task.refuse_shared()
    traits = task.traits(look)
    settled = _explained(task, settled, look, traits)
    if settled.timed:
        return settled, traits
    return settled.of_length(
        steps, f"{steps * batch_size / samples:.3g} epochs of {samples} samples", traits=traits
    ), traits


def _with_stored(choices: Choices, stored: Mapping[str, Any]) -> Choices:
    """The choices, with those of a recipe file where the user has made none."""
    given = {f.name for f in fields(choices) if getattr(choices, f.name) is not None}
    if given & {"epochs", "steps", "minutes"}:
        given.add("steps")
    if "momentum" in given:
        given.add("min_momentum")  # a momentum that was asked for stays
    known = {f.name for f in fields(choices)} - given
    return replace(choices, **{name: value for name, value in stored.items() if name in known})


def _given(choices: Choices, stored: Mapping[str, Any]) -> dict[str, Value]:
    """Values that the user gave, or a recipe file."""
    found = {name: value for name in CHOSEN if (value := getattr(choices, name)) is not None}
    if choices.momentum is not None and choices.min_momentum is None:
        found["min_momentum"] = None  # a momentum that was asked for stays
    if choices.optimizer not in (None, "SGD"):
        found["optimizer_args"] = {}
    shape = {name: value for name, value in stored.items() if not hasattr(choices, name)}
    if stored.get("optimizer", choices.optimizer) != choices.optimizer:
        shape.pop("optimizer_args", None)
    if "min_momentum" in stored and choices.min_momentum is None:
        shape["min_momentum"] = None  # as the file says, where others would take the preset's
    given = {name: Value(value=value, origin="given") for name, value in {**found, **shape}.items()}
    if "weight_decay" in given:
        given["weight_decay"] = replace(given["weight_decay"], reason="given")
    if choices.max_lr is not None:
        given["max_lr"] = Value(value=choices.max_lr, origin="given", reason="given")
    return given


def _lower(stored: Mapping[str, Any], source: str | None) -> dict[str, float]:
    """Rates below the peak that a recipe file has."""
    lower = {name: float(rate) for name in PROPORTIONAL if (rate := stored.get(name))}
    if lower and "max_lr" not in stored:
        raise UserError(f"{source} has {next(iter(lower))} without max_lr, to which it is in proportion")
    return lower


def _explained(task: Task, settled: Settled, look: Recipe, traits: Traits) -> Settled:
    """With the reasons for values that are not searched, as far as there is something to say."""
    choices, reasons = settled.choices, {"momentum": "given"}
    if not traits.momentum:
        reasons["momentum"] = f"not used by {' and '.join(traits.optimizers)}"
    elif choices.momentum is None and choices.min_momentum is None:
        course = "constant" if look.momentum_schedule() is None else "against the rate"
        reasons["momentum"] = f"preset {choices.preset}: {course}"
    if task.optimizer is not optimizers.make:
        reasons["optimizer"] = f"the task's own instead: {' and '.join(traits.optimizers)}"
    if choices.dropout is not None:
        reasons["dropout"] = "given" if traits.dropout else "given, but the network has no layers of it"
    known = {name: settled.values.get(name) or Value(value=getattr(look, name), origin="preset") for name in reasons}
    return settled.having(**{name: replace(value, reason=reasons[name]) for name, value in known.items()})
