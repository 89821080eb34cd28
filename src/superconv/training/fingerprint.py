"""Fingerprints of a task: by which a run's folder knows whether it holds the run that is asked for."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from superconv.data import ResidentImages, Source, TensorSource
from superconv.rates.snapshot import isolated_rng
from superconv.recipe import Recipe
from superconv.training.task import Task

SAMPLED = 64  # samples of a source that is not held in memory


def fingerprint(task: Task, recipe: Recipe, *, seed: int) -> dict[str, str]:
    """Fingerprints of a task's parts, by their names: equal parts have equal ones, on any machine.

    Data in memory count as a whole, others by their number and some samples of them, not augmented.

    Args:
        task: Task whose parts are looked at.
        recipe: Recipe that its optimizer is made by.
        seed: Seed under which the network is made: its first weights count, too, unless they are another each time.
    """
    network, weights = _network(task, seed)
    marks = {
        "name": task.name,
        "model": network,
        "loss": _of(task.loss),
        "metric": _of((task.metric, task.metric_name)),
    }
    marks |= {"optimizer": _of(task.optimizer), "weights": weights}
    if weights != _network(task, seed)[1]:
        del marks["weights"]
    for name, source in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        marks[f"{name} data"] = "none" if source is None else _source(source)
    if names := task.facts.get("class_names"):
        marks["classes"] = _of(tuple(names))
    return marks


def _network(task: Task, seed: int) -> tuple[str, str]:
    """Fingerprints of a fresh network's structure and of its weights."""
    with isolated_rng():
        torch.manual_seed(seed)
        model = task.network()
    tensors = model.state_dict()
    shapes = [(name, tuple(t.shape), str(t.dtype)) for name, t in tensors.items() if isinstance(t, Tensor)]
    return _of((repr(model), shapes)), _of(tensors)


def _source(source: Source) -> str:
    if isinstance(source, ResidentImages):
        return _of((source.images, source.labels, source.transform))
    if isinstance(source, TensorSource):
        return _of((source.inputs, source.targets))
    indices = torch.linspace(0, len(source) - 1, min(SAMPLED, len(source))).long()
    with isolated_rng():
        batch = next(iter(source.batches([(torch.zeros_like(indices), indices)], seed=0, augment=False)))
    return _of((len(source), batch))


def _of(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Feed a hash with what makes a value what it is, whatever its address in memory."""
    update(type(value).__qualname__.encode())
    if isinstance(value, Tensor):
        update(f"{tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    elif isinstance(value, nn.Module):
        _feed(update, (repr(value), value.state_dict()))
    elif isinstance(value, partial):
        _feed(update, (value.func, value.args, value.keywords))
    elif isinstance(value, MethodType):
        _feed(update, (value.__func__, type(value.__self__).__qualname__))
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        _feed(update, (value.__code__, value.__defaults__, value.__kwdefaults__))
        for cell in cells:
            _feed(update, cell if isinstance(cell, str | int | float | bool | None | FunctionType) else "")
    elif isinstance(value, CodeType):
        _feed(update, (value.co_code, value.co_names, value.co_consts))
    elif isinstance(value, bytes):
        update(value)
    elif isinstance(value, Mapping):
        for key in value:
            _feed(update, (str(key), value[key]))
    elif isinstance(value, tuple | list):
        for part in value:
            _feed(update, part)
    elif isinstance(value, str | int | float | bool | None):
        update(repr(value).encode())
    else:
        leaves, _ = pytree.tree_flatten(value)
        if len(leaves) == 1 and leaves[0] is value:
            named = getattr(value, "__qualname__", None)
            update((named or _without_address(repr(value))).encode())
        else:
            _feed(update, leaves)


def _without_address(text: str) -> str:
    head, at, rest = text.partition(" at 0x")
    return f"{head}{rest.lstrip('0123456789abcdef')}" if at else text
