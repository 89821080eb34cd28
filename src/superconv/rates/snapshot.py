"""Everything that a few updates change, taken and put back bit for bit."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Snapshot:
    """A copy of the state of modules, optimizers, a gradient scaler, loaders and all random generators.

    `restore` works in place, so that whoever holds a parameter, a buffer or a momentum tensor still holds the right one,
    and what did not exist is gone again. Copies stay on the device of the original.

    Args:
        modules: Parameters with their gradients, all buffers (non-persistent ones too) and train/eval flags.
        optimizers: Their state and groups, and the parameters in them that belong to no module.
        scaler: A `torch.amp.GradScaler`, or none.
    """

    def __init__(
        self, modules: Iterable[nn.Module], optimizers: Sequence[Optimizer] = (), scaler: Any = None
    ) -> None:
        submodules = {id(m): m for root in modules for m in root.modules()}.values()
        owned = [p for m in submodules for p in m._parameters.values() if p is not None]
        others = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        parameters = list({id(p): p for p in [*owned, *others]}.values())
        self._parameters = [(p, _copy(p), None if p.grad is None else (p.grad, _copy(p.grad))) for p in parameters]
        self._requires_grad = [(p, p.requires_grad) for p in parameters]
        self._modules = [
            (m, m.training, {k: (b, None if b is None else _copy(b)) for k, b in m._buffers.items()})
            for m in submodules
        ]
        self._optimizers = [_OptimizerSnapshot(optimizer) for optimizer in optimizers]
        self._scaler, self._scaler_state = scaler, None if scaler is None else _scaler_state(scaler)
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._rng = rng_state()

    def add_loader(self, loader: object) -> None:
        """Also keep the state of the generators of a loader and its samplers, from now on."""
        samplers = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
        inner = getattr(samplers[2], "sampler", None)
        for holder in (*samplers, inner):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                self._generators.setdefault(id(generator), (generator, generator.get_state()))

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for parameter, value, gradient in self._parameters:
            parameter.copy_(value)
            if gradient is not None:
                gradient[0].copy_(gradient[1])
            parameter.grad = None if gradient is None else gradient[0]
        for parameter, flag in self._requires_grad:
            parameter.requires_grad_(flag)
        for module, training, buffers in self._modules:
            module.training = training
            module._buffers.clear()
            for name, (buffer, value) in buffers.items():
                module._buffers[name] = buffer if buffer is None or value is None else buffer.copy_(value)
        for optimizer in self._optimizers:
            optimizer.restore()
        if self._scaler is not None:
            self._scaler.__dict__.update(_scaler_state(self._scaler_state))
        for generator, state in self._generators.values():
            generator.set_state(state)
        set_rng_state(self._rng)


class _OptimizerSnapshot:
    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.state = {p: {k: (v, _copied(v)) for k, v in entry.items()} for p, entry in optimizer.state.items()}
        self.groups = [{k: (v, _copied(v)) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        self.lists = [(group, list(group["params"])) for group in optimizer.param_groups]

    def restore(self) -> None:
        optimizer = self.optimizer
        optimizer.state.clear()
        for parameter, entry in self.state.items():
            optimizer.state[parameter] = {k: _put_back(v, copy) for k, (v, copy) in entry.items()}
        optimizer.param_groups[:] = [group for group, _ in self.lists]
        for (group, parameters), values in zip(self.lists, self.groups, strict=True):
            group.clear()
            group["params"] = parameters
            group.update({k: _put_back(v, copy) for k, (v, copy) in values.items()})


def rng_state() -> tuple[Any, ...]:
    """States of the generators of torch (all CUDA devices in use included), NumPy and Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def set_rng_state(state: tuple[Any, ...]) -> None:
    """Put back what `rng_state` gave."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
    random.setstate(state[3])


@contextmanager
def isolated_rng() -> Iterator[None]:
    """What happens inside leaves the random generators as they were."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.preserve_format)


def _copied(value: Any) -> Any:
    """A copy of a tensor, or of the containers an optimizer keeps (LBFGS: lists of tensors); others are immutable."""
    if isinstance(value, Tensor):
        return _copy(value)
    if isinstance(value, list):
        return [_copied(v) for v in value]
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return value


def _put_back(value: Any, copy: Any) -> Any:
    return value.copy_(copy) if isinstance(value, Tensor) else _copied(copy)


def _scaler_state(scaler: Any) -> dict[str, Any]:
    """All attributes of a gradient scaler; `state_dict` would wait for the device, and forgets that it was unused."""
    attributes = scaler if isinstance(scaler, dict) else vars(scaler)
    per_optimizer = "_per_optimizer_states"
    state = {k: _copied(v) for k, v in attributes.items() if k != per_optimizer}
    if per_optimizer in attributes:
        states = attributes[per_optimizer]
        state[per_optimizer] = type(states)(states.default_factory, {k: _copied(v) for k, v in states.items()})
    return state
