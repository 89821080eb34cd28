"""Ctrl-C and SIGTERM as a wish that is granted between two updates."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from superconv.training.world import give_up, size

PATIENCE = 10.0  # seconds


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `asked`; the second acts as it would have.

    Outside the main thread Python allows no handlers; then signals do what they did before.

    A process that waits for another one runs no Python, and so no handler: of several, one that has not got to it
    within `PATIENCE` ends at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}
        self._woken: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
            if size() > 1:
                reading, writing = os.pipe()
                os.set_blocking(writing, False)
                self._woken = (writing, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
                threading.Thread(target=self._end_if_deaf, args=(reading,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._woken:
            writing, before = self._woken
            signal.set_wakeup_fd(before)
            os.close(writing)

    def _end_if_deaf(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as signals:
            while number := signals.read(1):  # nothing more once the other end is closed
                if number[0] not in (signal.SIGINT, signal.SIGTERM):
                    continue
                time.sleep(PATIENCE)
                if not self.asked:
                    give_up("asked to stop while it waited for another process; --resume goes on", 128 + signal.SIGTERM)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for sent, handler in self._before.items():
            signal.signal(sent, handler)
