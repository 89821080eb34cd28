"""Where to look in, and what to replace, in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric
from torch import Tensor, nn

if TYPE_CHECKING:
    from superconv.training.trainer import Trainer


class Hook:
    """Looks on while a run goes; override what you need.

    Every process calls its hooks; a hook that writes should ask `trainer.fabric.is_global_zero`.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Before the first update of this process (also after a resume)."""

    def on_update(self, trainer: Trainer) -> None:
        """After every update that happened; what is read from the device here slows the run."""

    def on_log(self, trainer: Trainer, row: Mapping[str, float | None]) -> None:
        """After a row was added to the history."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last update, also when the run was interrupted or fails."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the hook, in tensors and plain values; process 0 is asked."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; `on_start` follows. Every process is told the same."""


def _predict(model: nn.Module, inputs: Tensor) -> Tensor:
    output: Tensor = model(inputs)
    return output


def _loss(criterion: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    return criterion(output, target)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What one update is made of; replace a stage to train differently with the same loop.

    `predict(model, inputs) -> output`, `loss(criterion, output, target) -> mean loss` and
    `backward(fabric, loss)`, which is `Fabric.backward` where none is given; the step is the optimizers' own.
    """

    predict: Callable[[nn.Module, Tensor], Tensor] = _predict
    loss: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor], Tensor] = _loss
    backward: Callable[[Fabric, Tensor], None] | None = None
