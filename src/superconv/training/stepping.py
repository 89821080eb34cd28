"""Optimizers that want more than a call of `step()`: a closure, or modes of their own."""

from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, signature
from typing import Any

from torch.optim import Optimizer

from superconv.errors import UserError


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimizer's `step` cannot be called without a closure, as LBFGS's."""
    closure = signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is Parameter.empty


def may_ask(optimizer: Optimizer) -> bool:
    """Whether an optimizer is none of torch's or ours, so that only its first step tells whether it needs a closure."""
    return not type(optimizer).__module__.startswith(("torch.", "superconv."))


def asks_for_closure(error: Exception) -> bool:
    """Whether an optimizer has refused to step without a closure, as SAM's do whose signature does not say it."""
    return "closure" in f"{type(error).__name__} {error}".lower()


def refuse_closures(optimizers: Sequence[Optimizer], precision: str) -> None:
    """Refuse what cannot be trained with closures, where one optimizer needs one.

    Raises:
        UserError: There are several optimizers, or the precision is fp16.
    """
    if len(optimizers) > 1:
        raise UserError("an optimizer whose step takes a closure (LBFGS, SAM) must be the task's only one")
    if precision == "16-mixed":
        raise UserError(
            f"{type(optimizers[0]).__name__} takes a closure, and fp16 scales gradients outside of it: use --plan bf16 "
            "or fp32"
        )


def switch(optimizers: Iterable[Optimizer], *, training: bool) -> None:
    """Tell optimizers that keep other weights for evaluation (schedule-free) which of the two is on."""
    for optimizer in optimizers:
        set_mode: Callable[[], Any] | None = getattr(optimizer, "train" if training else "eval", None)
        if callable(set_mode):
            set_mode()
