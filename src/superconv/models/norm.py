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
    one process with `batch_norm_size = batch / processes` equals that many processes. Evaluation is ordinary.

    Args:
        num_features: Channels.
        batch_norm_size: Images of a chunk; the last may hold fewer.
        options: As of `torch.nn.BatchNorm2d`.
    """

    def __init__(self, num_features: int, *, batch_norm_size: int, **options: Any) -> None:
        if batch_norm_size < 1:
            raise ValueError(f"batch_norm_size must be at least 1 image, not {batch_norm_size}")
        super().__init__(num_features, **options)
        self.batch_norm_size = batch_norm_size

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n, channels, …)."""
        if not self.training or len(input) <= self.batch_norm_size:
            return super().forward(input)
        first, *others = torch.split(input, self.batch_norm_size)
        chunks = [super().forward(first)]
        chunks += [F.batch_norm(c, None, None, self.weight, self.bias, training=True, eps=self.eps) for c in others]
        return torch.cat(chunks)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least (n, channels), got {tuple(input.shape)}")


def set_batch_norm_size(model: nn.Module, batch_norm_size: int) -> nn.Module:
    """Turn every batch norm of a model into one over `batch_norm_size` images, in place.

    Raises:
        UserError: The size is no number of images, or a layer is a batch norm with a behaviour of its own.
    """
    if batch_norm_size < 1:
        raise UserError(f"batch_norm_size must be at least 1 image, not {batch_norm_size}")
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
        vars(norm)["batch_norm_size"] = batch_norm_size
    return model
