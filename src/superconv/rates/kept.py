"""Networks that a run may go back to: copies of what an update can change, put back in place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Kept:
    """Weights, buffers and optimizer state of one moment; gradients, rates and generators are not among them."""

    parameters: list[Tensor]
    """Of the optimizers' groups, in their order."""
    buffers: list[Tensor]
    states: list[dict[str, Any]]
    """Of each parameter; empty where the optimizer had none."""

    def restore(self, optimizers: Sequence[Optimizer], model: nn.Module) -> None:
        """Put everything back, into the tensors that are there, as others may hold them."""
        with torch.no_grad():
            for (optimizer, parameter), value, state in zip(
                parameters_of(optimizers), self.parameters, self.states, strict=True
            ):
                parameter.copy_(value)
                _put_back(optimizer.state, parameter, state)
            for buffer, value in zip(model.buffers(), self.buffers, strict=True):
                buffer.copy_(value)


class KeptNetworks:
    """The networks of a run that it may go back to, the oldest first.

    Args:
        optimizers: Optimizers whose parameters and state are copied.
        model: Network whose buffers are copied.
        device: Device of the copies; that of the originals, if not given.
    """

    def __init__(self, optimizers: Sequence[Optimizer], model: nn.Module, *, device: str | None) -> None:
        self._optimizers, self._model, self._device = optimizers, model, device
        self._kept: list[Kept] = []

    def keep(self, *, most: int) -> None:
        """Keep the present network; the oldest are given up first, so that there are never more than `most`."""
        del self._kept[: max(0, len(self._kept) - most + 1)]
        self._kept.append(keep(self._optimizers, self._model, device=self._device))

    def back(self, place: int) -> None:
        """Go back to one of them; the others are given up."""
        self._kept = [self._kept[place]]
        self._kept[0].restore(self._optimizers, self._model)

    @property
    def sharded(self) -> bool:
        """Whether the copies are parts of tensors that lie in several processes (FSDP)."""
        return any(hasattr(tensor, "full_tensor") for kept in self._kept for tensor in kept.parameters)

    def state(self) -> list[dict[str, Any]]:
        """Plain dicts of tensors; empty where they are sharded, as no file of plain tensors holds such."""
        return [] if self.sharded else [dict(vars(kept)) for kept in self._kept]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Take what `state` gave; the present network where that is nothing."""
        self._kept = [Kept(**kept) for kept in state]
        if not self._kept:
            self.keep(most=1)


def keep(optimizers: Sequence[Optimizer], model: nn.Module, *, device: str | None = None) -> Kept:
    """Copy what an update can change: frozen parameters, which no optimizer holds, are not copied.

    Args:
        optimizers: Optimizers whose parameters and state are copied.
        model: Network whose buffers are copied.
        device: Device of the copies; that of the originals, if not given.
    """
    held = list(parameters_of(optimizers))
    return Kept(
        parameters=[_copy(parameter, device) for _, parameter in held],
        buffers=[_copy(buffer, device) for buffer in model.buffers()],
        states=[
            {k: _copy(v, device) if isinstance(v, Tensor) else v for k, v in optimizer.state.get(p, {}).items()}
            for optimizer, p in held
        ],
    )


def parameters_of(optimizers: Iterable[Optimizer]) -> Iterable[tuple[Optimizer, Tensor]]:
    """(optimizer, parameter) of all groups, in their order; read anew each time, as frameworks replace parameters."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, parameter


def _copy(tensor: Tensor, device: str | None) -> Tensor:
    copied = tensor.detach().clone()
    return copied if device is None else copied.to(device)


def _put_back(states: Any, parameter: Tensor, kept: dict[str, Any]) -> None:
    if not kept:
        states.pop(parameter, None)
        return
    state = states[parameter]
    for name in [name for name in state if name not in kept]:
        del state[name]
    for name, value in kept.items():
        there = state.get(name)
        if isinstance(value, Tensor) and isinstance(there, Tensor) and there.shape == value.shape:
            there.copy_(value)
        else:
            state[name] = value.to(parameter.device).clone() if isinstance(value, Tensor) and value.ndim else value
