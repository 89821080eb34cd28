"""Models by name; torch is imported only when one is made."""

from __future__ import annotations

import difflib
import pkgutil
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from superconv.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import nn

Factory = Callable[..., "nn.Module"]

_IMPORT = re.compile(r"\w+(?:\.\w+)*:\w+")
_DEPTH = re.compile(r"([a-z]+)(\d+)(-author)?")


def _mlp() -> Factory:
    from superconv.models.mlp import mlp

    return mlp


def _lenet() -> Factory:
    from superconv.models.lenet import lenet

    return lenet


def _cifar10_full() -> Factory:
    from superconv.models.cifar10_full import cifar10_full

    return cifar10_full


def _resnet50() -> Factory:
    from superconv.models.resnet50 import ResNet50

    return ResNet50


def _record() -> Factory:
    from superconv.models.record import RecordNet

    return RecordNet


def _resnet() -> Factory:
    from superconv.models.resnet import ResNet

    return ResNet


def _bottleneck() -> Factory:
    from superconv.models.bottleneck import Bottleneck

    return Bottleneck


def _densenet() -> Factory:
    from superconv.models.densenet import DenseNet

    return DenseNet


_NAMED: Mapping[str, Callable[[], Factory]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "cifar10-full": _cifar10_full,
    "resnet50": _resnet50,
    "record": _record,
}


class _Family(NamedTuple):
    """Networks that differ in their depth, a·n + b."""

    load: Callable[[], Factory]
    a: int
    b: int
    fixed: Mapping[str, Any] = {}


_FAMILIES = {  # by name without the depth
    "resnet": _Family(_resnet, 6, 2, {"author": False}),
    "resnet-author": _Family(_resnet, 6, 2, {"author": True}),
    # "A resnet with 32 layers by increasing the number of channels by a factor of 4 instead of the factor of 2 used by
    # resnet" (arXiv 1803.09820, section 5.1): 2 is ResNet's factor from stage to stage. For the other reading, k = 4 of
    # Zagoruyko and Komodakis, there is `width`.
    "wrn": _Family(_resnet, 6, 2, {"author": True, "growth": 4}),
    "bottleneck-author": _Family(_bottleneck, 9, 2),
    "resnext-author": _Family(_bottleneck, 9, 2, {"groups": 32}),
    "densenet": _Family(_densenet, 3, 4),
}


def available() -> tuple[str, ...]:
    """Names that `create` knows; where there is a number, other depths besides (`resnet50` is ImageNet's)."""
    return (
        *_NAMED,
        *("resnet8", "resnet20", "resnet56", "resnet110", "wrn32", "densenet40"),
        *("resnet20-author", "resnet56-author", "resnet110-author", "bottleneck56-author", "resnext56-author"),
    )


def default_model(image_shape: tuple[int, int, int]) -> str:
    """A network that fits the images: an MLP below LeNet's 13 pixels, LeNet for grey ones, ResNet-20 otherwise."""
    channels, *sides = image_shape
    if min(sides) < 13:
        return "mlp"
    return "lenet" if channels == 1 else "resnet20"


def is_foreign(name: str) -> bool:
    """Whether a name is an import string, whose code is nobody's here."""
    return name not in _NAMED and bool(_IMPORT.fullmatch(name))


def takes(name: str, argument: str) -> bool:
    """Whether a network has an argument of its own, such as `dropout`.

    Raises:
        UserError: There is no such network.
    """
    return argument in signature(_factory(name)).parameters


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    batch_norm_size: int | None = None,
    batch_norm_average: float | None = None,
    args: Mapping[str, Any] | None = None,
    weights: Path | None = None,
) -> nn.Module:
    """Make a network for images (n, *image_shape) with logits (n, num_classes).

    Args:
        name: One of `available`, one of them with another depth, or `package.module:callable`, which is called with
            `num_classes`, `image_shape` and `in_channels`, each if it takes it.
        num_classes: Number of classes.
        image_shape: (channels, height, width).
        batch_norm_size: Images that batch norm sees together (`GhostBatchNorm`); none takes the batch.
        batch_norm_average: Share of its running statistics that an update keeps, in Caffe's way; none takes torch's.
        args: Further arguments of the network, such as `width`.
        weights: A .safetensors file to start from: tensors whose name and shape agree are taken, a classifier of
            another size stays fresh. A warning names what was left.

    Raises:
        UserError: The name, an argument or the file is unusable.
    """
    from torch import nn

    from superconv.models.norm import set_batch_norm_size

    factory = _factory(name)
    given = {"num_classes": num_classes, "image_shape": image_shape, "in_channels": image_shape[0]}
    try:
        model = factory(**_arguments(name, factory, given, args or {}))
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"model {name}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        _load_matching(model, weights)
    if batch_norm_size is None and batch_norm_average is None:
        return model
    return set_batch_norm_size(model, batch_norm_size, average=batch_norm_average)


def _factory(name: str) -> Factory:
    if name in _NAMED:
        return _NAMED[name]()
    if _IMPORT.fullmatch(name):
        return _imported(name)
    match = _DEPTH.fullmatch(name)
    if match and (family := _FAMILIES.get(match[1] + (match[3] or ""))):
        depth, least = int(match[2]), family.a + family.b
        if depth < least or (depth - family.b) % family.a:
            below = max(least, depth - (depth - family.b) % family.a)
            raise UserError(
                f"{name}: these networks have depth {family.a}n+{family.b}; the nearest are {below} and "
                f"{below + family.a}"
            )
        return partial(family.load(), depth=depth, **family.fixed)
    close = difflib.get_close_matches(name, available(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(available())}, or package.module:callable"
    raise UserError(f"there is no model {name!r}; {hint}")


def _imported(path: str) -> Factory:
    """The user's own factory, by its import string."""
    try:
        found = pkgutil.resolve_name(path)
    except ImportError as error:
        raise UserError(
            f"model {path} cannot be imported: {one_line(error)}; run this in the folder that holds it, or name that "
            "folder in PYTHONPATH"
        ) from error
    except AttributeError as error:
        module, _, attribute = path.partition(":")
        raise UserError(f"model {path} cannot be imported: {module} has no {attribute}") from error
    if not callable(found):
        raise UserError(f"model {path} is a {type(found).__name__}, not a callable that makes a network")
    return found  # type: ignore[no-any-return]  # whatever the user's module has there


def _arguments(name: str, factory: Factory, given: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """What a factory is called with: of `given` what it takes, and the user's `args`, which may override none of it."""
    parameters = signature(factory).parameters
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    named = {k for k, p in parameters.items() if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    passed = {k: v for k, v in given.items() if k in named or (k == "num_classes" and takes_any)}
    settled = passed.keys() | (factory.keywords.keys() if isinstance(factory, partial) else set())
    refused = {k for k in args if k in settled or not (takes_any or k in named)}
    if refused:
        own = ", ".join(sorted(named - settled)) or "nothing"
        raise UserError(f"model {name} takes no {', '.join(sorted(refused))}; it takes {own}")
    return {**passed, **args}


def _load_matching(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights {path} cannot be read: {one_line(error)}") from error
    own = model.state_dict()
    matching = {k: v for k, v in stored.items() if k in own and own[k].shape == v.shape}
    if not matching.keys() & dict(model.named_parameters()).keys():  # a counter of batches fits every network
        raise UserError(f"no parameter of {path} has a name and shape of this model: it is of another architecture")
    fresh, unused = own.keys() - matching.keys(), stored.keys() - matching.keys()
    if fresh or unused:
        warnings.warn(f"{path}: left fresh: {_few(fresh)}; not used: {_few(unused)}", stacklevel=3)
    model.load_state_dict(matching, strict=False)


def _few(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:6]) or "nothing"
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
