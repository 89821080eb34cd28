"""The curvature estimate of a run, while it goes: `CurvatureEstimate` at every update, 2/λ now and then."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superconv.history import History, Row
from superconv.rates.curvature import stable_lr, top_eigenvalues
from superconv.rates.hessian_free import CurvatureEstimate
from superconv.training.breakdown import refusals
from superconv.training.hooks import Hook, RunState

PROBE_SAMPLES = 256

FORMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"form": "plain"},
    "plain_with_buffers": {"form": "plain", "buffers": True},
    "corrected": {"form": "corrected"},
    "corrected_l2": {"form": "corrected", "norm": "l2"},
}
"""The estimates that a study measures, by the name of their column: arguments of a `CurvatureEstimate`."""


@dataclass(frozen=True, kw_only=True)
class Estimation:
    """What an `EstimateHook` measures."""

    forms: Mapping[str, Mapping[str, Any]]
    """Column of the rows → arguments of a `CurvatureEstimate`; with `buffers` true, the model's buffers are counted."""
    every: int = 1
    """Updates between two rows; reading an estimate waits for the device."""
    probe_every: int = 0
    """Updates between two probes of the top eigenvalue, each some ten to forty Hessian-vector products; 0: none."""
    stop_after: int | None = None
    """End the run after so many updates; none lets it go on."""


class EstimateHook(Hook):
    """Measures a run's curvature; the rows (`step`, `lr`, one column a form, at probes `stable_lr`) lie in `rows`.

    The probes' loss is that of a fixed batch of training samples, not augmented, in training mode.

    Args:
        estimation: What to measure.
        path: File to which process 0 also writes the rows of a training, as JSON lines.
    """

    def __init__(self, estimation: Estimation, path: Path | None = None) -> None:
        self.estimation, self.path = estimation, path
        self.rows: list[Row] = []
        self._estimates: dict[str, CurvatureEstimate] = {}
        self._resumed: Mapping[str, Any] = {}
        self._open = ExitStack()
        self._history: History | None = None

    def on_start(self, run: RunState) -> None:
        """Attach the estimates to the run's optimizers."""
        self.rows = []
        optimizers = run.torch_optimizers
        for name, options in self.estimation.forms.items():
            modules = [run.module] if options.get("buffers") else []
            rest = {k: v for k, v in options.items() if k != "buffers"}
            self._estimates[name] = CurvatureEstimate(optimizers, modules=modules, **rest)
            if name in self._resumed:
                self._estimates[name].load_state_dict(self._resumed[name])
        self._resumed = {}
        if self.path and run.purpose == "training" and run.writes:
            self._history = self._open.enter_context(History(self.path, until=run.step))

    def on_update(self, run: RunState) -> None:
        """Read the estimates, and probe where that is due."""
        step, estimation = run.step, self.estimation
        probes = estimation.probe_every and step % estimation.probe_every == 0
        if step % estimation.every == 0 or probes:
            row: Row = {"step": step, "lr": run.lr}
            row |= {name: estimate.value for name, estimate in self._estimates.items()}
            row |= {f"{name}_raw": estimate.raw for name, estimate in self._estimates.items()}
            if probes:
                row |= self._probe(run)
            self.rows.append(row)
            if self._history:
                self._history.append(row)
        if estimation.stop_after is not None and step >= estimation.stop_after:
            run.stop = True

    def on_end(self, run: RunState) -> None:
        """Take the estimates off again."""
        for estimate in self._estimates.values():
            estimate.remove()
        self._estimates = {}
        self._history = None
        self._open.close()

    def state_dict(self) -> dict[str, Any]:
        """The estimates, so that the smoothed ones do not begin anew."""
        return {name: estimate.state_dict() for name, estimate in self._estimates.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep them for the start."""
        self._resumed = state

    def _probe(self, run: RunState) -> Row:
        inputs, target = run.fixed_batch(PROBE_SAMPLES)
        model, group = run.module, run.torch_optimizers[0].param_groups[0]

        def loss() -> Tensor:
            output = run.forward(inputs)
            with refusals(output, alone=run.alone):
                return run.loss(output, target)

        with torch.compiler.set_stance("force_eager"):  # compiled backward passes cannot be differentiated
            found = top_eigenvalues(model, loss)
        eigenvalue = float(found.values[0])
        bound = stable_lr(eigenvalue, momentum=run.momentum or 0.0, nesterov=bool(group.get("nesterov")))
        return {
            "eigenvalue": eigenvalue,
            "residual": float(found.residuals[0]),
            "stable_lr": 2 / eigenvalue if eigenvalue > 0 else None,
            "stable_lr_momentum": bound if isfinite(bound) else None,
        }
