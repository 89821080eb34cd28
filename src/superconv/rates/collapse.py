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
