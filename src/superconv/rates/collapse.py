"""Whether a network still tells inputs apart: one whose every unit is dead gives all samples the same output.

Nothing revives such a network, but its loss is finite: it knows how often each answer is right, which may be more than
a smaller rate has learned so far. So collapse is looked for in the outputs, not in the loss.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from superconv.nested import tensors

LOOKS = 10  # how often a training is looked at


def tells_apart(output: Any) -> bool:
    """Whether not all samples of a batch have the same output to the last digit.

    Args:
        output: Output of a network, the first dimension of whose tensors counts the samples. A structure of several
            tensors tells samples apart if one of them does; what holds no tensor of samples is taken to.
    """
    found = [tensor for tensor in tensors(output) if tensor.ndim and len(tensor)]
    return not found or any(not torch.equal(t, t[:1].expand_as(t)) for t in found)


def share_alike(output: Any) -> float:
    """Largest share of a batch's samples whose outputs are the same to the last digit, beside one of them: 0 to 1.

    Args:
        output: As for `tells_apart`; of several tensors the one that tells samples apart best counts.

    >>> import torch
    >>> share_alike(torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 3.0], [4.0, 5.0]])).__round__(2), share_alike(None)
    (0.33, 0.0)
    """
    found = [tensor.detach().reshape(len(tensor), -1) for tensor in tensors(output) if tensor.ndim and len(tensor) > 1]
    return min((_share_alike(tensor) for tensor in found if tensor.numel()), default=0.0)


def _share_alike(rows: torch.Tensor) -> float:
    # equal rows have equal sums under any weights; others hardly ever
    weights = torch.linspace(1.0, 2.0, rows.shape[1], device=rows.device).cos()
    sums = rows.to(torch.float32) @ weights
    _, counts = torch.unique(sums, return_counts=True)
    return (int(counts.max()) - 1) / (len(rows) - 1)


@dataclass(frozen=True, kw_only=True)
class CollapseWatch:
    """When a training is looked at, and whether its network ever told inputs apart: one that never did is left alone.

    >>> watch = CollapseWatch(steps=100, apart=True, seen=0)
    >>> watch.due(9), watch.due(10), watch.looked(10).due(15)
    (False, True, False)
    """

    steps: int
    """Updates of the training."""
    apart: bool
    """Whether the network told inputs apart at its start."""
    seen: int
    """Update of the last look."""

    def due(self, step: int) -> bool:
        """Whether a tenth of the training has passed since the last look, or this is its last update."""
        return self.apart and (step >= self.seen + self.steps / LOOKS or step >= self.steps)

    def looked(self, step: int) -> "CollapseWatch":
        """The watch after a look."""
        return replace(self, seen=step)
