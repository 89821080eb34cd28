"""How far a run is: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from superconv.training.hooks import Hook, RunState

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

    def on_start(self, run: RunState) -> None:
        """Open the bar."""
        self._began = self._printed = time.perf_counter()
        self._from = run.step
        self._steps = self._ends or run.recipe.steps
        if self._console.is_terminal and run.writes:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                refresh_per_second=1 / BAR_SECONDS,  # drawing takes a core some milliseconds
            )
            self._bar.add_task(run.purpose, total=self._steps, completed=run.step, text="")
            self._bar.start()

    def on_log(self, run: RunState, row: Mapping[str, float | None]) -> None:
        """Move the bar, or print a line, when the last is old or the run has ended."""
        now, steps = time.perf_counter(), self._steps
        pause = PLAIN_SECONDS if self._bar is None else BAR_SECONDS
        recent = now - self._printed < pause and run.step < steps
        if recent or not run.writes:
            return
        self._printed = now
        text = "  ".join(_parts(run, row, (run.step - self._from) / max(now - self._began, 1e-9)))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=run.step, text=text)
        else:
            left = (now - self._began) / max(run.step - self._from, 1) * (steps - run.step)
            self._console.print(
                f"{run.purpose} {run.step}/{steps}  {text}  {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def on_end(self, run: RunState) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _parts(run: RunState, row: Mapping[str, float | None], updates_per_second: float) -> list[str]:
    metric = run.metric_name
    parts = [f"lr {row['lr']:.3g}", f"loss {row['train_loss']:.4g}"]
    for split in ("train", "validation"):
        value = row.get(f"{split}_{metric}")
        if value is not None:
            name = "test" if split == "validation" and run.watched else split
            parts.append(f"{name} {value:.1%}" if metric == "accuracy" else f"{name} {metric} {value:.4g}")
    return [*parts, f"{updates_per_second * run.recipe.batch_size:,.0f} images/s"]
