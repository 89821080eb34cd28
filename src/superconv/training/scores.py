"""Loss and metric of a stretch of updates, summed on the device, where nothing waits for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from superconv import nested
from superconv.training.measures import Measured, Metric, score

_PENDING = 2**16  # numbers of output that may wait; several small batches measured in a row cost half as much


class Scores:
    """Sums of loss and metric over what they count: samples, if they do not say otherwise.

    Batches are measured a few at a time: between two updates of a small network, measuring costs as much as its loss.

    Args:
        metric: (output, target) → mean of the batch, or as `measured` has it; without one the loss stands for it.
        device: Where the sums are kept.
        pending: Whether outputs may wait; not where the next update writes over them.
        all_count: Whether all targets are known to count alike.
    """

    def __init__(
        self, metric: Metric | None, device: torch.device, *, pending: bool = True, all_count: bool = False
    ) -> None:
        self._metric, self._limit, self._all_count = metric, _PENDING if pending else 0, all_count
        self._waiting: list[tuple[Any, Any, Measured]] = []
        self._samples = self._numbers = 0  # samples of each batch that waits, and numbers of output
        self._sums = torch.zeros(4, device=device, dtype=torch.float64)

    def add(self, output: Any, target: Any, loss: Measured | Tensor) -> None:
        """Add a batch with its loss."""
        loss = loss if isinstance(loss, Measured) else Measured(loss)
        samples = nested.samples(target, output)
        if self._waiting and samples != self._samples:  # batches of one size share a factor
            self._measure()
        self._samples = samples
        kept = Measured(*(None if part is None else part.detach() for part in loss))  # type: ignore[arg-type]
        if isinstance(output, Tensor):
            self._waiting.append((output.detach(), target, kept))
            self._numbers += output.numel()
        else:
            self._waiting.append((None if self._metric is None else output, target, kept))
            self._numbers += 0 if self._metric is None else self._limit + 1  # its graph must not be kept
        if self._numbers > self._limit:
            self._measure()

    @property
    def sums(self) -> Tensor:
        """Sums of loss and metric, and what they count: float64 (4,)."""
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
        metrics: Sequence[Measured] = losses
        if self._metric is not None:
            pairs = zip(outputs, targets, strict=True)
            metrics = [score(self._metric, o, t, self._samples, all_count=self._all_count) for o, t in pairs]
        columns = [torch.stack([measure.weighted for measure in row]).double() for row in (losses, metrics)]
        columns += [_shares(row, columns[0]) for row in (losses, metrics)]
        # A tensor of sizes would have to be brought to the device.
        self._sums.add_(torch.stack(columns).sum(1), alpha=self._samples)
        self._waiting.clear()
        self._numbers = 0


def _shares(row: Sequence[Measured], like: Tensor) -> Tensor:
    if all(measure.share is None for measure in row):
        return torch.ones_like(like)
    return torch.stack([like.new_ones(()) if m.share is None else m.share.double() for m in row])
