"""The dropout that a network was built with, as a hyper-parameter: read, and lowered."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_HOLDERS: tuple[tuple[type[nn.Module], str], ...] = (
    (_DropoutNd, "p"),
    (nn.MultiheadAttention, "dropout"),
    (nn.RNNBase, "dropout"),
)


def dropout_rates(model: nn.Module) -> tuple[float, ...]:
    """The rates above 0 of a network's dropout layers, attentions and recurrent layers, ascending, each once.

    What a `forward` drops by a function of its own is not seen.
    """
    return tuple(sorted({rate for module, name in _holders(model) if (rate := getattr(module, name))}))


def limit_dropout(model: nn.Module, most: float) -> None:
    """Lower, in place, every rate that `dropout_rates` sees to `most` where it is above."""
    for module, name in _holders(model):
        setattr(module, name, min(getattr(module, name), most))


def _holders(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for kind, name in _HOLDERS:
            if isinstance(module, kind):
                yield module, name
