"""Loss and metric of a stretch of updates, summed on the device, where nothing waits for them."""

import torch
from torch import Tensor

from superconv.training.task import Metric

_PENDING = 2**16  # numbers of output that may wait; several small batches measured in a row cost half as much


class Scores:
    """Sums over samples of loss and metric.

    Batches are measured a few at a time: between two updates of a small network, measuring costs as much as its loss.

    Args:
        metric: (output, target) → mean of the batch; without one the loss stands for it.
        device: Where the sums are kept.
        pending: Whether outputs may wait; not where the next update writes over them.
    """

    def __init__(self, metric: Metric | None, device: torch.device, *, pending: bool = True) -> None:
        self._metric, self._limit = metric, _PENDING if pending else 0
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._numbers = 0
        self._sums = torch.zeros(3, device=device, dtype=torch.float64)

    def add(self, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch; its loss is the mean over its samples."""
        if self._waiting and len(target) != len(self._waiting[0][1]):  # batches of one size share a factor
            self._measure()
        self._waiting.append((output.detach(), target, loss.detach()))
        self._numbers += output.numel()
        if self._numbers > self._limit:
            self._measure()

    @property
    def sums(self) -> Tensor:
        """Loss and metric times samples, and the samples: float64 (3,)."""
        self._measure()
        return self._sums

    @sums.setter
    def sums(self, sums: Tensor) -> None:
        self._sums.copy_(sums)

    def clear(self) -> None:
        """Begin again."""
        self._waiting.clear()
        self._numbers = 0
        self._sums.zero_()

    @torch.no_grad()
    def _measure(self) -> None:
        if not self._waiting:
            return
        outputs, targets, losses = zip(*self._waiting, strict=True)
        metrics = losses if self._metric is None else tuple(map(self._metric, outputs, targets))
        columns = [torch.stack(losses).double(), torch.stack(metrics).double()]
        means = torch.stack([*columns, torch.ones_like(columns[0])])
        self._sums.add_(means.sum(1), alpha=len(targets[0]))  # a tensor of sizes would have to be brought to the device
        self._waiting.clear()
        self._numbers = 0
