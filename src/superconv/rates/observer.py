"""What a watched ramp sees of a training: losses shared by all processes, a probe's, outputs, the size of an update."""

from collections.abc import Callable, Sequence
from math import inf
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv.rates.collapse import share_alike
from superconv.rates.kept import parameters_of
from superconv.rates.snapshot import probing

PROBE_SEED = 1234  # of the dropout of all probes, which is the same each time


class Observer:
    """Looks at a network in training, and leaves no trace.

    Args:
        model: The network; its outputs are seen by a forward hook.
        probe: Closure that computes the loss of a batch that is set aside.
    """

    def __init__(self, model: nn.Module, probe: Callable[[], Tensor] | None) -> None:
        self._model, self._probe = model, probe
        self._outputs: Any = None
        self.probes = 0
        """Number of times that the probe was asked."""
        model.register_forward_hook(self._see)

    @property
    def has_probe(self) -> bool:
        """Whether there is a probe."""
        return self._probe is not None

    def sizes(self, optimizers: Sequence[Optimizer], *, heavy_ball: bool) -> tuple[float, float]:
        """Median RMS of the weights, and that of an update at rate 1: the gradient's under a heavy ball, else 1."""
        weights, updates = [], []
        for owner, parameter in parameters_of(optimizers):
            if parameter.ndim > 1 and parameter.grad is not None:
                weights.append(_rms(parameter))
                scale = float(getattr(owner, "grad_scale", None) or 1.0)
                updates.append(_rms(parameter.grad) / scale if heavy_ball else 1.0)
        size = median(weight for weight in weights if weight) if any(weights) else 1.0
        unit = median(update for update in updates if update) if any(updates) else 1.0
        return self.shared(size), self.shared(unit)

    def alike(self, *, look: bool) -> float | None:
        """Share of the last batch that has the same output, the mean over all processes; `None` without a look.

        In any case the outputs are forgotten.
        """
        outputs, self._outputs = self._outputs, None
        return self.shared(share_alike(outputs)) if look else None

    def shared(self, value: Tensor | float) -> float:
        """The mean over all processes, so that all decide alike."""
        number = float(value)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return number
        tensor = torch.tensor(number, device=next(self._model.parameters()).device)
        dist.all_reduce(tensor)
        return float(tensor) / dist.get_world_size()

    def probe_loss(self) -> float:
        """The probe's loss: no gradient is computed; generators, buffers and modes come back."""
        assert self._probe is not None
        self.probes += 1
        with probing(self._model), torch.no_grad():
            torch.manual_seed(PROBE_SEED)
            try:
                return self.shared(self._probe())
            except (ArithmeticError, ValueError):  # a loss that refuses outputs that are not finite
                return inf
            finally:
                self._outputs = None

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._outputs = output


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().abs().float().pow(2).mean().sqrt())
