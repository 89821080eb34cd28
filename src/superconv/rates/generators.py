"""Random generators that hang on somebody's objects: a loader's, its data set's, its transforms'."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Undo = Callable[[], object]
KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
MOST_OBJECTS = 20_000  # that are looked at
MOST_ITEMS = 1000  # of a list or mapping: longer ones are data
_LEAVES = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, np.generic, type, ModuleType)
_PARTS = ("sampler", "batch_sampler", "dataset")


def generators_of(root: object) -> list[Any]:
    """The generators of torch, NumPy and Python that can be reached from an object, in a fixed order.

    Followed are attributes, items of lists and mappings, closures, partials and bound methods; each object once.
    """
    found: list[Any] = []
    waiting: list[object] = [root]
    seen: dict[int, object] = {}  # the objects keep their ids from being reused
    while waiting and len(seen) < MOST_OBJECTS:
        value = waiting.pop()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, KINDS):
            found.append(value)
        else:
            waiting += reversed(list(_held(value)))
    return found


def take(generator: Any) -> Undo:
    """Note the state of a generator; the function that comes back puts it back."""
    match generator:
        case torch.Generator():
            return partial(generator.set_state, generator.get_state())
        case random.Random():
            return partial(generator.setstate, generator.getstate())
        case np.random.RandomState():
            return partial(generator.set_state, generator.get_state())
    state = copy.deepcopy(generator.bit_generator.state)
    return lambda: setattr(generator.bit_generator, "state", state)


def seed(generator: Any, bits: int) -> None:
    """Make a generator's state a function of 63 bits."""
    match generator:
        case torch.Generator():
            generator.manual_seed(bits)
        case random.Random():
            generator.seed(bits)
        case np.random.RandomState():
            generator.seed(bits & 0xFFFFFFFF)
        case _:
            generator.bit_generator.state = type(generator.bit_generator)(bits).state


def _held(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values() if type(value) is dict and len(value) <= MOST_ITEMS else ()
    elif isinstance(value, list | tuple):  # sets have no order of their own
        yield from value if len(value) <= MOST_ITEMS else ()
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield value.__defaults__
        yield value.__kwdefaults__
    for name, held in list(getattr(value, "__dict__", {}).items()):
        if name != "_iterator":  # a loader's workers
            yield held
    for name in _PARTS:  # where they are properties
        if isinstance(getattr(type(value), name, None), property):
            yield getattr(value, name)
