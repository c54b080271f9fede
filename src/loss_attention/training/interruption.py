"""Ctrl-C asks a run to finish its step, save and stop, rather than die in the middle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers that SIGINT or SIGTERM came while `listening`."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside this context; they act as before outside it.

        Signals reach the main thread alone, so in any other thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True


class ForwardedStop(StopRequest):
    """For the process that only waits for the workers: pass the signal on and keep waiting.

    A terminal sends Ctrl-C to all of them, `kill` to this one alone; hearing twice does no harm.
    """

    def _remember(self, number: int, frame: FrameType | None) -> None:
        super()._remember(number, frame)
        self.forward(number)

    def forward(self, number: int) -> None:
        """Send a signal to every worker that still runs."""
        for worker in multiprocessing.active_children():
            if worker.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
