"""Facts about torch's optimizers, and Caffe's own with its multipliers, which torch has not."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

DECOUPLED = tuple(getattr(torch.optim, k) for k in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, k))
"""Whose decay is apart from the gradient, with or without torch's flag of that name."""
FUSED = ("SGD", "Adam", "AdamW")
"""Whose update is one kernel on every device: 0.16 ms of a millisecond on the CPU."""


class CaffeSGD(Optimizer):
    """SGD with the rate inside the momentum, as Caffe has it and the paper's runs were made.

    ::

        h ← momentum · h + lr · (gradient + weight_decay · w)
        w ← w − h,  with Nesterov's momentum  w ← w − ((1 + momentum) · h − momentum · h before)

    At a constant rate this is `torch.optim.SGD`. While the rate rises torch's steps are larger, for it multiplies past
    gradients by the present rate; while it falls they are smaller.

    Args:
        params: Parameters, or groups of them.
        lr: Rate.
        momentum: Share of the last step that goes into the next.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Nesterov's momentum.

    Raises:
        ValueError: A number is negative.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; `closure`, if given, computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            momentum = group["momentum"]
            histories = [self._history(p) for p in parameters]
            gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parameters]
            step = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            torch._foreach_mul_(step, group["lr"])
            torch._foreach_mul_(histories, momentum)
            torch._foreach_add_(histories, step)
            if group["nesterov"]:
                # The rule above with momentum · h before = h − step.
                torch._foreach_add_(step, histories, alpha=momentum)
            torch._foreach_sub_(parameters, step if group["nesterov"] else histories)
        return loss

    def _history(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "history" not in state:
            state["history"] = torch.zeros_like(parameter)
        history: Tensor = state["history"]
        return history


def caffe_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with the multipliers of the author's files, for any optimizer.

    Biases of convolutions and linear layers have twice the rate; those of convolutions are not decayed. All else,
    scale and shift of batch norm included, has the rate and the decay as they are, and comes first.
    """
    multipliers: dict[int, tuple[float, float]] = {}
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            multipliers[id(module.bias)] = (2.0, 0.0 if isinstance(module, _ConvNd) else 1.0)
    groups: dict[tuple[float, float], list[Tensor]] = {(1.0, 1.0): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(id(parameter), (1.0, 1.0)), []).append(parameter)
    return [
        {"params": parameters, "lr": rate * lr, "weight_decay": decay * weight_decay}
        for (rate, decay), parameters in groups.items()
        if parameters
    ]


def skips(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer, which is called even when fp16 overflowed, skips this step inside its kernel."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def fuse_where_safe(optimizer: Optimizer, *_: Any) -> None:
    """Before a step, let a group of fused SGD that its kernel cannot serve go on with torch's `foreach` form.

    The kernel wants a momentum buffer of every parameter that has a gradient, or of none: a parameter whose gradient
    comes later than others' (a gated expert, a block that is skipped at random) breaks it. Nor does it take sparse
    gradients; those become dense where they are decayed, as torch does not decay sparse ones.
    """
    groups = optimizer.param_groups
    complete = len(optimizer.state) == sum(len(group["params"]) for group in groups)
    for group in groups:
        if group.get("fused") and complete:  # found out here once, in the first update, of most networks
            continue
        parameters = [p for p in group["params"] if p.grad is not None]
        sparse = [p for p in parameters if p.grad.is_sparse]
        for parameter in sparse if group["weight_decay"] else ():
            parameter.grad = parameter.grad.to_dense()
        buffers = {"momentum_buffer" in optimizer.state.get(p, ()) for p in parameters} if group["momentum"] else ()
        if group.get("fused") and (sparse or len(buffers) > 1):
            group["fused"], group["foreach"] = False, True


def unfuse(optimizer: Optimizer) -> None:
    """Let an optimizer do without its fused kernel, as fp16 needs it.

    Where fp16 skips an update inside the kernel, SGD's first one leaves uninitialised memory as momentum (torch 2.13),
    and gradients cannot be clipped where the kernel unscales them.
    """
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["fused"] = False
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # what the gradient scaler asks
