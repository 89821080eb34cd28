"""Where to look in, and what to replace, in a run."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv.recipe import Recipe


class RunState(Protocol):
    """A run in progress, as far as a hook may touch it.

    All but `stop` is to be read. Weights, buffers and optimizer state may be changed in place, as averages of weights
    do; what a hook replaces by another object is lost on a resume.

    >>> import superconv
    >>> class Patience(superconv.Hook):
    ...     def on_update(self, run: superconv.RunState):
    ...         run.stop = run.step == 5
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> superconv.train(task, superconv.Recipe(steps=20, batch_size=32, max_lr=0.1), hooks=[Patience()]).steps
    5
    """

    stop: bool
    """Set it, and the run ends after this update as if it had been interrupted: with a checkpoint."""

    @property
    def purpose(self) -> str:
        """`training`, or what else the updates are made for, in words for the terminal."""

    @property
    def recipe(self) -> Recipe:
        """Recipe of the run."""

    @property
    def seed(self) -> int:
        """Seed of weights, order, augmentation and dropout."""

    @property
    def step(self) -> int:
        """Number of updates that happened, those before a resume included."""

    @property
    def lr(self) -> float:
        """Rate of the last update: that of the first parameter group."""

    @property
    def momentum(self) -> float | None:
        """Momentum, or first beta, of the last update; `None` where the optimizer has none."""

    @property
    def metric_name(self) -> str:
        """Name of the metric, as in the rows: `train_<name>`, `validation_<name>`."""

    @property
    def watched(self) -> bool:
        """Whether the validation split is the test split."""

    @property
    def module(self) -> nn.Module:
        """The network itself, without wrappers."""

    @property
    def torch_optimizers(self) -> list[Optimizer]:
        """The optimizers themselves, without wrappers."""

    @property
    def device(self) -> torch.device:
        """Device of this process."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and prints."""

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""

    def evaluating(self) -> AbstractContextManager[nn.Module]:
        """The network in evaluation mode; afterwards each module is in its own mode again."""

    def fixed_batch(self, samples: int) -> tuple[Any, Any]:
        """(inputs, target) of always the same training samples, not augmented; at most so many."""

    def forward(self, inputs: Any) -> Any:
        """Output of the network without its compiled form, which other shapes would compile once more."""

    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean loss of a batch, without label smoothing."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask together."""


class Hook:
    """Looks on while a run goes; override what you need.

    Every process calls its hooks; a hook that writes should ask `run.writes`.

    >>> import superconv
    >>> class Losses(superconv.Hook):
    ...     def __init__(self):
    ...         self.seen = []
    ...     def on_log(self, run, row):
    ...         self.seen.append(row["train_loss"])
    >>> losses = Losses()
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> _ = superconv.train(task, superconv.Recipe(steps=20, batch_size=32, max_lr=0.1), hooks=[losses])
    >>> len(losses.seen)
    20
    """

    def on_start(self, run: RunState) -> None:
        """Before the first update of this process (also after a resume)."""

    def on_update(self, run: RunState) -> None:
        """After every update that happened; what is read from the device here slows the run."""

    def on_log(self, run: RunState, row: Mapping[str, float | None]) -> None:
        """After a row was added to the history."""

    def on_end(self, run: RunState) -> None:
        """After the last update, also when the run was interrupted or fails."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the hook, in tensors and plain values; process 0 is asked."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; `on_start` follows. Every process is told the same."""


def _loss(criterion: Callable[[Any, Any], Any], output: Any, target: Any) -> Any:
    return criterion(output, target)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What one update is made of; replace a stage to train differently with the same loop.

    `predict(model, inputs) -> output`, which is the task's where none is given; `loss(criterion, output, target)`,
    which returns as a task's loss does, its criterion the mean loss; and `backward(fabric, loss)`, which is
    `Fabric.backward` where none is given; the step is the optimizers' own.

    >>> import superconv
    >>> halved = superconv.Stages(loss=lambda criterion, output, target: criterion(output, target) / 2)
    >>> task = superconv.image_task(superconv.ImageTask(data="digits"))
    >>> superconv.train(task, superconv.Recipe(steps=20, batch_size=32, max_lr=0.1), stages=halved).steps
    20
    """

    predict: Callable[[nn.Module, Any], Any] | None = None
    loss: Callable[[Callable[[Any, Any], Any], Any, Any], Any] = _loss
    backward: Callable[[Fabric, Tensor], None] | None = None

    @property
    def plain_loss(self) -> bool:
        """Whether the loss is the task's own."""
        return self.loss is _loss
