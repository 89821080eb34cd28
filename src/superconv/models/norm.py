"""Batch norm over a stated number of images."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from superconv.errors import UserError


class GhostBatchNorm(_BatchNorm):
    """Normalises each run of `batch_norm_size` images of a batch by its own statistics.

    This is batch norm as several processes see it: the author's batch of 1000 was 8 × 125 images, with the running
    statistics of the first GPU (FACTS of the paper's logs). So running values here come from the first chunk only, and
    one process with `batch_norm_size = batch / processes` equals that many processes. (The author's GPUs were dealt
    images in turn; which images of a batch meet makes no difference.) Evaluation is ordinary; without running
    statistics it goes by chunks too.

    Args:
        num_features: Channels.
        batch_norm_size: Images of a chunk; the last may hold fewer (of vectors, two at least). None takes the whole
            batch.
        average: Share of the running statistics that an update keeps, as Caffe's `moving_average_fraction`: sums
            S ← average·S + statistic and n ← average·n + 1, of which S / n is used. Unlike torch's exponential average
            it forgets its start at once. None takes `momentum` as torch does.
        options: As of `torch.nn.BatchNorm2d`.
    """

    batch_norm_size: int | None
    average: float | None

    def __init__(
        self, num_features: int, *, batch_norm_size: int | None = None, average: float | None = None, **options: Any
    ) -> None:
        _check(batch_norm_size, average)
        super().__init__(num_features, **options)
        self.batch_norm_size, self.average = batch_norm_size, average

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n, channels, …)."""
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        size = self.batch_norm_size or len(input)
        first, *others = torch.split(input, size) if len(input) > size else (input,)
        if others and others[-1][:, 0].numel() == 1:
            raise UserError(f"batch_norm_size {size} leaves a single sample of a batch of {len(input)}: choose another")
        chunks = [self._counted(first)]
        chunks += [F.batch_norm(c, None, None, self.weight, self.bias, training=True, eps=self.eps) for c in others]
        return torch.cat(chunks) if others else chunks[0]

    def _counted(self, input: Tensor) -> Tensor:
        """Normalise the chunk whose statistics are kept."""
        # Without a momentum torch means the plain mean of all batches, which a recalibration asks for.
        if self.average is None or self.momentum is None or self.running_mean is None:
            return super().forward(input)
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With a momentum of 1 they become the chunk's own, the variance times m / (m − 1).
        output = F.batch_norm(input, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self.num_batches_tracked.add_(1)
        # S / n moves by 1 / n towards the statistic; n after t updates is (1 − average^t) / (1 − average).
        share = (1 - self.average) / (1 - self.average ** self.num_batches_tracked.double())
        self.running_mean.lerp_(mean, share.to(mean.dtype))
        self.running_var.lerp_(variance, share.to(variance.dtype))
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least (n, channels), got {tuple(input.shape)}")


def set_batch_norm_size(model: nn.Module, batch_norm_size: int | None, *, average: float | None = None) -> nn.Module:
    """Turn every batch norm of a model into a `GhostBatchNorm`, in place.

    Raises:
        UserError: The size is no number of images, the average no share, or a layer is a batch norm with a behaviour of
            its own.
    """
    _check(batch_norm_size, average)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GhostBatchNorm):
            raise UserError(
                f"batch_norm_size cannot be set on a {type(norm).__name__}, only on torch's own BatchNorm1d to 3d: "
                "leave it out or change the model"
            )
    for norm in norms:
        # A new layer would lose type, device, flags and hooks, and the identity of a layer that is used twice.
        norm.__class__ = GhostBatchNorm
        vars(norm).update(batch_norm_size=batch_norm_size, average=average)
    return model


def _check(batch_norm_size: int | None, average: float | None) -> None:
    if batch_norm_size is not None and batch_norm_size < 1:
        raise UserError(f"batch_norm_size must be at least 1 image, not {batch_norm_size}")
    if average is not None and not 0 <= average < 1:
        raise UserError(f"batch_norm_average must be in [0, 1), not {average}")
