"""How far a run is: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from superconv.training.hooks import Hook
from superconv.training.trainer import Trainer

PLAIN_SECONDS, BAR_SECONDS = 10.0, 0.5  # between two plain lines, and two states of the bar


class ProgressHook(Hook):
    """Shows rate, loss, metric, images per second and time left; process 0 only."""

    def __init__(self, console: Console, *, steps: int | None = None) -> None:
        """`steps`: updates that the run makes, where it ends before its recipe does."""
        self._console = console
        self._ends = steps
        self._steps = 0
        self._bar: Progress | None = None
        self._began = self._printed = 0.0
        self._from = 0

    def on_start(self, trainer: Trainer) -> None:
        """Open the bar."""
        self._began = self._printed = time.perf_counter()
        self._from = trainer.step
        self._steps = self._ends or trainer.recipe.steps
        if self._console.is_terminal and trainer.fabric.is_global_zero:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                refresh_per_second=1 / BAR_SECONDS,  # drawing takes a core some milliseconds
            )
            self._bar.add_task(trainer.purpose, total=self._steps, completed=trainer.step, text="")
            self._bar.start()

    def on_log(self, trainer: Trainer, row: Mapping[str, float | None]) -> None:
        """Move the bar, or print a line, when the last is old or the run has ended."""
        now, steps = time.perf_counter(), self._steps
        pause = PLAIN_SECONDS if self._bar is None else BAR_SECONDS
        recent = now - self._printed < pause and trainer.step < steps
        if recent or not trainer.fabric.is_global_zero:
            return
        self._printed = now
        text = "  ".join(_parts(trainer, row, (trainer.step - self._from) / max(now - self._began, 1e-9)))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.step, text=text)
        else:
            left = (now - self._began) / max(trainer.step - self._from, 1) * (steps - trainer.step)
            self._console.print(
                f"{trainer.purpose} {trainer.step}/{steps}  {text}  {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def on_end(self, trainer: Trainer) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _parts(trainer: Trainer, row: Mapping[str, float | None], updates_per_second: float) -> list[str]:
    metric = trainer.task.metric_name
    parts = [f"lr {row['lr']:.3g}", f"loss {row['train_loss']:.4g}"]
    for split in ("train", "validation"):
        value = row.get(f"{split}_{metric}")
        if value is not None:
            name = "test" if split == "validation" and trainer.task.watched else split
            parts.append(f"{name} {value:.1%}" if metric == "accuracy" else f"{name} {metric} {value:.4g}")
    return [*parts, f"{updates_per_second * trainer.recipe.batch_size:,.0f} images/s"]
