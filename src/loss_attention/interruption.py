"""Signals ask a run to finish its step, save and stop, rather than die in the middle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""What terminals, schedulers and people send to end a program, or to say that its time is up."""

SAME_REQUEST = 0.25
"""Seconds in which further signals belong to the first: it comes to a process and to its group."""

STOPPED = 75  # EX_TEMPFAIL of sysexits.h
"""The exit code of a run that was stopped with everything saved: resume it."""

KEYBOARD = 130  # 128 + SIGINT, as shells have it
"""That of a run that Ctrl-C stopped, saved or not: a person is there and sees which."""


class Interrupted(KeyboardInterrupt):
    """A signal came while there was nothing to finish first."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 128 + number


class RunStopped(KeyboardInterrupt):
    """A run was stopped by a signal, with everything saved.

    Args:
        message: how to go on.
        number: the signal; None: that of Ctrl-C.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = KEYBOARD if number in (None, signal.SIGINT) else STOPPED


class StopRequest:
    """Remembers that one of `SIGNALS` came while `listening`; a second one ends the process.

    Args:
        shared: a byte that all processes of a run look at, so that one hears for all; see
            `shared_byte`. None: this process is alone.
    """

    def __init__(self, shared: Any = None) -> None:
        self._shared = shared
        self._asked = False
        self._first: float | None = None
        self._number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._asked or (self._shared is not None and self._shared.value != 0)

    @requested.setter
    def requested(self, asked: bool) -> None:
        self._asked = asked

    @property
    def number(self) -> int | None:
        """The signal that came, here or in a process that shares the request; None: none."""
        shared = 0 if self._shared is None else self._shared.value
        return self._number or shared or None

    def share(self, shared: Any) -> None:
        """Tell other processes too, by a `shared_byte`."""
        self._shared = shared

    def hear(self, number: int | None) -> None:
        """Take over what another process of the run was told: to stop, by which signal if any."""
        self._asked, self._number = True, self._number or number

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside this context; they act as before outside it.

        Those that are ignored, under nohup for instance, stay so. Signals reach the main thread
        alone, so in any other thread this does nothing.
        """
        with _handled_by(self._hear):
            yield

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self._first is not None and now - self._first > SAME_REQUEST:
            end_at_once(number)
        if self._first is None:
            self._first, self._number, self._asked = now, number, True
            self._tell(number)

    def _tell(self, number: int) -> None:
        """Let the other processes know."""
        if self._shared is not None:
            self._shared.value = number


def shared_byte(context: Any) -> Any:
    """Return the byte for a `StopRequest` of several processes; no lock that a dead one holds."""
    return context.RawValue("b", 0)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raise `Interrupted` where a signal comes, so that everything is left in order.

    `StopRequest.listening` inside it has precedence.
    """
    first: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            raise Interrupted(number)
        if now - first > SAME_REQUEST:
            end_at_once(number)

    with _handled_by(interrupt):
        yield


def end_at_once(number: int) -> None:
    """End this process and those it started, as a shell would say it: with 128 + the signal."""
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(Exception):
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a bar hides
        name = signal.Signals(number).name
        os.write(2, f"{shown}\nloss-attention: ended at once by {name}\n".encode())
    os._exit(128 + number)


def leave_signals_to_the_parent() -> None:
    """In a process that decodes images: the one that trains finishes its step and ends all.

    The parent had them blocked, so that none came before. Should it die, this one does too.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    unblock_signals()
    die_with_parent(signal.SIGKILL)


def die_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent dies, where it can (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Have this thread, and processes that begin meanwhile, see the signals only later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def block_signals() -> None:
    """See no signal any more."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock_signals() -> None:
    """See the signals from now on, in a process that began while they were blocked."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    try:
        for number in SIGNALS:
            # None: it was not set from Python.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
