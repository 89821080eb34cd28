"""When a range test's training has broken down: blow-up of the loss, collapse of the metric.

Medians of a few values are compared, never single ones: the author's own good curves jump between accuracies of 0.62
and 0.80 from one point to the next. Only differences count, so losses may be negative or zero.
"""

from collections import deque
from math import isfinite
from statistics import median

WINDOW = 5  # values whose median counts as a level: two spikes are no breakdown
RISE = 4.0  # a rise is one of at least so many typical jumps from value to value
LEFT = 0.2  # of the rise, when all the rest of it is lost


class Breakdown:
    """Watches one sweep, point by point.

    Blow-up: the level of the loss is above the best level by (`blow_up` - 1) times the larger of the best level's size
    and the progress since the start. At a positive loss without progress, that is `blow_up` times the best.

    Collapse: the metric rose clearly above its noise and is back within a fifth of the rise from where it began.

    Args:
        blow_up: See above; the usual finders take 4 or 5.
        window: Values of the metric whose median is its level.
    """

    def __init__(self, blow_up: float, *, window: int) -> None:
        self._blow_up = blow_up
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._first_loss: float | None = None
        self._best_loss = float("inf")
        self._metrics: deque[float] = deque(maxlen=window)
        self._window = window
        self._start = float("inf")  # worst of the first values
        self._best = float("-inf")
        self._jumps: deque[float] = deque(maxlen=100)

    def seen(self, loss: float, metric: float | None) -> str | None:
        """Take in a point; the reason to stop, if there is one.

        Args:
            loss: Training loss.
            metric: Of the validation if there is one, else of the training, with its sign such that more is better;
                None where not measured.
        """
        if self._blown_up(loss):
            return f"blow-up: the training loss left its best behind (factor {self._blow_up:g})"
        if metric is not None and isfinite(metric) and self._collapsed(metric):
            return "collapse: the metric fell back to where it began"
        return None

    def _blown_up(self, loss: float) -> bool:
        self._losses.append(loss)
        if len(self._losses) < WINDOW:
            return False
        level = median(self._losses)
        self._first_loss = level if self._first_loss is None else self._first_loss
        self._best_loss = min(self._best_loss, level)
        size = max(abs(self._best_loss), self._first_loss - self._best_loss)
        return level > self._best_loss + (self._blow_up - 1) * size > self._best_loss

    def _collapsed(self, metric: float) -> bool:
        if self._metrics:
            self._jumps.append(abs(metric - self._metrics[-1]))
        self._metrics.append(metric)
        if self._best == float("-inf"):
            self._start = min(self._start, metric)
        if len(self._metrics) < self._window:
            return False
        level = median(self._metrics)
        self._best = max(self._best, level)
        rise = self._best - self._start
        return rise > RISE * median(self._jumps) and level <= self._start + LEFT * rise
