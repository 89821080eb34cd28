"""Rates and momenta of all parameter groups, moved together: groups keep the ratios that they were made with."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from superconv.rates import momentum as momentum_of

MomentumRange = tuple[float, float] | Literal["auto"] | None


class GroupRates:
    """What one rate, and one place of the cycle, mean for each group of several optimizers.

    Args:
        optimizers: Optimizers whose groups are moved.
        momentum: (at the feet, at the peak); `"auto"` moves usual momenta as `OneCycle` does; `None` none.
    """

    def __init__(self, optimizers: Sequence[Optimizer], momentum: MomentumRange) -> None:
        self._optimizers, self._momentum = optimizers, momentum
        rates = [float(group["lr"]) for group in self.groups]
        self.named = max(rates)
        """The largest rate that the optimizers were made with."""
        self.momentum = max(momentum_of.of(group) for group in self.groups)
        """The largest momentum that they were made with."""
        self.ratios = [rate / self.named if self.named else 1.0 for rate in rates]
        """Of each group's rate to the largest."""

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All groups, in the order of the optimizers."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def put(self, lr: float, share: float) -> None:
        """Give every group its rate, and its momentum at a place between the feet (0) and the peak (1)."""
        for ratio, group in zip(self.ratios, self.groups, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio
            if self._momentum is None or (self._momentum == "auto" and not momentum_of.is_usual(group)):
                continue
            high, low = momentum_of.USUAL_CYCLE if self._momentum == "auto" else self._momentum
            momentum_of.put(group, high - (high - low) * share)

    def shown(self) -> list[Any]:
        """The rates of the first optimizer's groups, as a scheduler reports them."""
        own = self._optimizers[0].param_groups
        return [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in own]
