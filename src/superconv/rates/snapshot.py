"""Everything that training changes, taken down and put back bit for bit, in place.

In place, because others hold references: a scheduler holds the parameter groups, DistributedDataParallel its gradients'
memory, a captured graph every address. So each object reachable from the models, optimizers and the scaler is noted
once, with its contents: tensors their values, dictionaries and lists which objects they hold. Putting back is then one
loop, in any order.
"""

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from superconv.rates.beside import schedulers_of, take_positions, take_state
from superconv.rates.generators import generators_of, take

Undo = Callable[[], object]


class Snapshot:
    """The state of a training; `restore` puts it back, as often as wanted.

    Taken down are

    - of every submodule: parameters, buffers (non-persistent ones and None too), gradients, `requires_grad`, the
      train/eval flag, and the extra state of those that define `get_extra_state`,
    - of every optimizer: all of its attributes, so the state, the groups with their hyper-parameters, the hooks, and
      parameters that no module holds,
    - all attributes of the gradient scaler, also halfway through an update,
    - torch's schedulers of these optimizers, the `epoch` of samplers, the counters of iterable data sets,
    - the generators of torch, NumPy and Python that hang anywhere on the loaders, their samplers, data sets, transforms
      and collate functions,
    - the default generators of torch (CPU and every CUDA device), NumPy and Python.

    Not taken down are plain Python attributes of modules, samplers and data sets, such as counters; and the values of
    frozen parameters, the bulk of a network that is fine-tuned: those without `requires_grad` that no optimizer holds
    and whose shape no trainable one has (a moving average of weights has the shapes of its model). Should one of them
    have changed all the same, a warning says so.

    Args:
        modules: Models, and losses that hold parameters.
        optimizers: Any `torch.optim.Optimizer`.
        scaler: A `torch.amp.GradScaler`.
        loaders: Data loaders, or any iterable with `sampler`, `batch_sampler` or `dataset`.
        extra: Whatever else has `state_dict` and `load_state_dict`: averages of weights, metrics, schedulers.

    Copies are made on the device of the original: as much memory as parameters, gradients and optimizer state take.

    Raises:
        TypeError: Something in `extra` has no state.
        ValueError: A lazy module has not seen its first batch, so that there is nothing to put back yet.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module] = (),
        optimizers: Iterable[Optimizer] = (),
        scaler: torch.amp.GradScaler | None = None,
        loaders: Iterable[object] = (),
        extra: Iterable[object] = (),
    ) -> None:
        self._noted: dict[int, tuple[object, Undo]] = {}  # by id; the object itself keeps the id from being reused
        modules, optimizers = list(modules), list(optimizers)
        self._frozen = _frozen(modules, optimizers)
        for module in modules:
            for part in module.modules():
                self._note_module(part)
        self._states: list[Undo] = []
        for thing in (*extra, *(scheduler for optimizer in optimizers for scheduler in schedulers_of(optimizer))):
            self._note_extra(thing)
        for holder in (*optimizers, *([scaler] if scaler is not None else [])):
            self._note(vars(holder))
        for loader in loaders:
            self.add_loader(loader)
        self._restore_rng = _take_rng()

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for put_back in self._states:  # first, as some set the optimizer's rates
                put_back()
            for _, undo in self._noted.values():
                undo()
        self._restore_rng()

    def add_loader(self, loader: object) -> None:
        """Note the generators of a loader as they are now, unless they are noted already."""
        if id(loader) not in self._noted:
            self._noted[id(loader)] = (loader, lambda: None)
            self._states += take_positions(loader)
        for generator in generators_of(loader):
            self._note(generator)

    def _note_extra(self, thing: object) -> None:
        if (undo := take_state(thing)) is not None and not isinstance(thing, nn.Module):
            self._states.append(undo)
        elif undo is None:
            raise TypeError(f"extra takes what has state_dict and load_state_dict, not {type(thing).__name__}")
        for part in thing.modules() if isinstance(thing, nn.Module) else ():
            self._note_module(part)
            self._note(vars(part))  # torchmetrics keeps its sums as plain attributes
        if isinstance(thing, LRScheduler):
            self._note(vars(thing))

    def _note_module(self, module: nn.Module, *, parameters: bool = True) -> None:
        if parameters:
            self._note(module._parameters)
        self._note(module._buffers)
        self._note(module._non_persistent_buffers_set)
        training, extra = module.training, None
        has_extra = type(module).get_extra_state is not nn.Module.get_extra_state
        if has_extra:
            extra = copy.deepcopy(module.get_extra_state())

        def undo() -> None:
            module.training = training
            if has_extra:
                module.set_extra_state(copy.deepcopy(extra))

        self._noted[id(module)] = (module, undo)

    def _note(self, root: object) -> None:
        waiting = [root]
        while waiting:
            value = waiting.pop()
            if id(value) in self._noted:
                continue
            undo: Undo | None = None
            if isinstance(value, Tensor):
                undo = _take_tensor(value, copied=id(value) not in self._frozen)
                waiting.append(value.grad if value.is_leaf else None)
            elif isinstance(value, dict):
                undo = _take_dict(value)
                waiting += value.values()
            elif isinstance(value, list | deque):
                undo = _take_list(value)
                waiting += value
            elif isinstance(value, tuple):
                waiting += value
            elif isinstance(value, Optimizer):  # one that wraps another, such as SAM or Lookahead
                waiting.append(vars(value))
            else:
                undo = _take_other(value)
            if undo is not None:
                self._noted[id(value)] = (value, undo)


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Put the default generators of torch (CPU and every CUDA device), NumPy and Python back at the end of a block."""
    restore = _take_rng()
    try:
        yield
    finally:
        restore()


@contextmanager
def probing(model: nn.Module, *, loaders: Iterable[object] = ()) -> Iterator[None]:
    """For a look at a model in between: puts back all that forward passes change.

    That is buffers, train/eval flags, the generators of the loaders and the default ones. Parameters and gradients are
    not copied: the block is expected to leave them alone.
    """
    snapshot = Snapshot(loaders=loaders)
    for part in model.modules():
        snapshot._note_module(part, parameters=False)
    try:
        yield
    finally:
        snapshot.restore()


def _take_rng() -> Undo:
    cpu, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed = torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if _cuda_is_initialized() else None

    def undo() -> None:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif _cuda_is_initialized():  # since then: it would have begun with the seed of the CPU's generator
            torch.cuda.manual_seed_all(seed)

    return undo


def _cuda_is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch has no types for it


def _frozen(modules: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> set[int]:
    """Identities of the parameters whose values nothing is expected to change."""
    parameters = [p for module in modules for p in module.parameters() if not is_lazy(p)]
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    moving = [p for p in parameters if p.requires_grad or id(p) in held]
    shapes = {p.shape for p in moving}
    return {id(p) for p in parameters if not p.requires_grad and id(p) not in held and p.shape not in shapes}


def _digest(tensor: Tensor) -> int | None:
    """A sum over the bits, which a change of values changes; `None` where they cannot be read as whole numbers."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    if whole is None or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        return None
    return int(tensor.view(whole).sum(dtype=torch.int64))


def _watch_frozen(data: Tensor) -> Undo:
    version, digest = data._version, _digest(data)

    def undo() -> None:
        if data._version != version or _digest(data) != digest:
            warnings.warn(
                f"a frozen parameter of shape {tuple(data.shape)} was changed and is not put back: give it to the "
                "optimizer, or set requires_grad, before the range test",
                stacklevel=2,
            )

    return undo


def _take_tensor(tensor: Tensor, *, copied: bool = True) -> Undo:
    if is_lazy(tensor):
        raise ValueError("the model has lazy layers without a shape: run one batch through it first")
    data = tensor.detach()  # the memory of now, whatever `tensor.data` is made to be later
    memory = _distinct(data)
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
    grad = tensor.grad if leaf else None
    put_back = partial(memory.copy_, memory.clone()) if copied else _watch_frozen(data)

    def undo() -> None:
        put_back()
        if leaf:
            if not tensor.is_leaf:
                tensor.detach_()
            tensor.grad = None
            tensor.data = data
            tensor.requires_grad_(requires_grad)
            tensor.grad = grad

    return undo


def _distinct(tensor: Tensor) -> Tensor:
    """An expanded tensor without its repetitions, which cannot be written to."""
    if tensor.layout is torch.strided:
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if size > 1 and stride == 0:
                tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _take_dict(holder: dict[Any, Any]) -> Undo:
    items = list(holder.items())

    def undo() -> None:
        now = list(holder.items())
        if len(now) != len(items) or any(a is not c or b is not d for (a, b), (c, d) in zip(now, items, strict=True)):
            holder.clear()
            holder.update(items)

    return undo


def _take_list(holder: list[Any] | deque[Any]) -> Undo:
    items = list(holder)

    def undo() -> None:
        holder.clear()
        holder.extend(items)

    return undo


def _take_other(value: object) -> Undo | None:
    """For generators and mutable values; None for what does not change, or cannot be told (functions, handles)."""
    match value:
        case torch.Generator() | random.Random() | np.random.Generator() | np.random.RandomState():
            return take(value)
        case np.ndarray():
            array = value.copy()
            return lambda: np.copyto(value, array)
        case set():
            members = set(value)
            return lambda: value.symmetric_difference_update(value ^ members)
    return None
