"""Batch norm over a stated number of images."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
    """Replace every batch norm of a model by one over `batch_norm_size` images, keeping parameters and buffers."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            ghost = GhostBatchNorm(
                child.num_features,
                batch_norm_size=batch_norm_size,
                eps=child.eps,
                momentum=child.momentum,
                affine=child.affine,
                track_running_stats=child.track_running_stats,
            )
            ghost.load_state_dict(child.state_dict())
            setattr(model, name, ghost)
        else:
            set_batch_norm_size(child, batch_norm_size)
    return model
