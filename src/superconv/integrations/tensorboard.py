"""The history of a run in TensorBoard."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superconv.optional import needs
from superconv.training.hooks import Hook, RunState


class TensorBoardLogger(Hook):
    """Writes every number of every row as a scalar against the update; process 0 only.

    Args:
        folder: Where the event files go.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        with needs("tensorboard", "the TensorBoard logger"):
            import torch.utils.tensorboard as tensorboard
        self._tensorboard, self._folder = tensorboard, str(folder)
        self._writer: Any = None

    def on_start(self, run: RunState) -> None:
        """Open the event file, hiding what a resume makes again; nothing is logged of sweeps."""
        if run.writes and run.purpose == "training":
            self._writer = self._tensorboard.SummaryWriter(self._folder, purge_step=run.step + 1)

    def on_log(self, run: RunState, row: Mapping[str, float | None]) -> None:
        """Write one row, `train_loss` as `train/loss`."""
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._writer.add_scalar(re.sub("^(train|validation)_", r"\1/", name), value, run.step)

    def on_end(self, run: RunState) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
