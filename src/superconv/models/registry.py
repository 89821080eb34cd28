"""Models by name."""

import difflib
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from superconv.errors import UserError
from superconv.models.lenet import lenet
from superconv.models.mlp import mlp
from superconv.models.norm import set_batch_norm_size
from superconv.models.resnet import ResNet

_RESNET = re.compile(r"resnet(\d+)(-author)?")
_NAMED: Mapping[str, Callable[..., nn.Module]] = {"mlp": mlp, "lenet": lenet}


def available() -> tuple[str, ...]:
    """Names that `create` knows; ResNets of any other depth 6n+2 besides."""
    return (*_NAMED, "resnet8", "resnet20", "resnet56", "resnet110", "resnet20-author", "resnet56-author")


def default_model(image_shape: tuple[int, int, int]) -> str:
    """A network that fits the images: an MLP below 16 pixels, LeNet for grey ones, ResNet-20 otherwise."""
    channels, *sides = image_shape
    if min(sides) < 16:
        return "mlp"
    return "lenet" if channels == 1 else "resnet20"


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    batch_norm_size: int | None = None,
    args: Mapping[str, Any] | None = None,
    weights: Path | None = None,
) -> nn.Module:
    """Make a network for images (n, *image_shape) with logits (n, num_classes).

    Args:
        name: One of `available`, a ResNet of another depth, or `package.module:callable`, which is called with
            `num_classes`, and with `image_shape` or `in_channels` if it takes them.
        num_classes: Number of classes.
        image_shape: (channels, height, width).
        batch_norm_size: Images that batch norm sees together (`GhostBatchNorm`); none takes the batch.
        args: Further arguments of the network, such as `width`.
        weights: A .safetensors file to start from: tensors whose name and shape agree are taken, a classifier of
            another size stays fresh.

    Raises:
        UserError: The name, an argument or the file is unusable.
    """
    factory = _factory(name)
    given = {"num_classes": num_classes, "image_shape": image_shape, "in_channels": image_shape[0]}
    accepted = signature(factory).parameters
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in accepted.values())
    arguments = {k: v for k, v in given.items() if k in accepted or (k == "num_classes" and takes_any)}
    if not takes_any and (unknown := set(args or {}) - set(accepted)):
        own = sorted(set(accepted) - set(given))
        raise UserError(f"model {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(own) or 'nothing'}")
    try:
        model = factory(**{**arguments, **(args or {})})
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"model {name}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        _load_matching(model, weights)
    return model if batch_norm_size is None else set_batch_norm_size(model, batch_norm_size)


def _factory(name: str) -> Callable[..., nn.Module]:
    if name in _NAMED:
        return _NAMED[name]
    if match := _RESNET.fullmatch(name):
        depth = int(match[1])
        if depth < 8 or depth % 6 != 2:
            below = max(8, (depth - 2) // 6 * 6 + 2)
            raise UserError(f"{name}: these ResNets have depth 6n+2; the nearest are {below} and {below + 6}")
        return partial(ResNet, depth=depth, author=bool(match[2]))
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"model {name} cannot be imported: {error}") from error
        if not callable(found):
            raise UserError(f"model {name} is a {type(found).__name__}, not a callable that makes a network")
        return found  # type: ignore[no-any-return]
    close = difflib.get_close_matches(name, available(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(available())}, or package.module:callable"
    raise UserError(f"there is no model {name!r}; {hint}")


def _load_matching(model: nn.Module, path: Path) -> None:
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights {path} cannot be read: {' '.join(str(error).split())}") from error
    own = model.state_dict()
    matching = {k: v for k, v in stored.items() if k in own and own[k].shape == v.shape}
    if not matching:
        raise UserError(f"no tensor of {path} has a name and shape of this model: it is of another architecture")
    if left := sorted(set(own) - set(matching)):
        warnings.warn(f"{path}: not found, so left fresh: {', '.join(left)}", stacklevel=3)
    model.load_state_dict(matching, strict=False)
