"""One run in several processes, which begin together, stop together and leave together."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from loss_attention.errors import KilledError, ReportedError
from loss_attention.interruption import (
    StopRequest,
    block_signals,
    blocked_signals,
    shared_byte,
    unblock_signals,
)

Work = Callable[[Fabric, StopRequest], dict[str, Any]]
"""What each process does; what the first one returns is what comes of it."""


def launch_processes(fabric: Fabric, work: Work, stop: StopRequest) -> dict[str, Any]:
    """Run the work in several processes; an error that is told in a line comes back as it was.

    They are launched from a thread with the signals blocked: processes begin with them blocked too,
    so that none is lost or ends one before it listens, while this thread hears them.
    """
    context = torch.multiprocessing.get_context("spawn")
    with blocked_signals():  # Python begins a process for the queue, which a signal would end
        child = _Child(work, shared_byte(context), context.SimpleQueue())
    stop.share(child.stop_byte)

    launched: Future[dict[str, Any]] = Future()

    def launch() -> None:
        with blocked_signals():
            try:
                launched.set_result(fabric.launch(child))
            except Exception as error:
                launched.set_exception(error)

    thread = threading.Thread(target=launch)
    with stop.listening():
        thread.start()
        thread.join()
        try:
            return launched.result()
        except (ProcessRaisedException, ProcessExitedException) as error:
            if not child.problems.empty():
                kind, message = child.problems.get()
                raise kind(message) from error
            lost = isinstance(error, ProcessExitedException)
            if lost and stop.requested:  # told more than once, before or after its work
                return {"finished": False}
            if lost or re.search(r"Connection (closed|reset) by peer", str(error)):
                raise KilledError(
                    f"a process that trains was ended ({_how_it_ended(error)}), most likely "
                    "because memory ran out, which the system's log would say"
                ) from error
            raise


def _how_it_ended(error: Exception) -> str:
    name = getattr(error, "signal_name", None)
    code = getattr(error, "exit_code", None)
    return str(name or (f"exit code {code}" if code is not None else "by another one's account"))


class _Child:
    """What each process does around its work; a class, so that it can be sent there.

    No dataclass: Fabric's launcher would take it apart.
    """

    def __init__(self, work: Work, stop_byte: Any, problems: Any) -> None:
        self.work, self.stop_byte, self.problems = work, stop_byte, problems
        self.parent = os.getpid()

    def __call__(self, fabric: Fabric) -> dict[str, Any]:
        """Do the work in a process that began with signals blocked."""
        stop = _ChildStopRequest(self.stop_byte, self.parent)
        with stop.listening():
            unblock_signals()
            try:
                stop.end_without_parent()
                outcome = self.work(fabric, stop)
                leave_together(fabric)
            except ReportedError as error:
                self.problems.put((type(error), str(error)))
                raise
            block_signals()  # the work is done: there is nothing left to save
        return outcome


class _ChildStopRequest(StopRequest):
    """In a process that trains beside others: ends at once when the one that waits is gone.

    The system sends SIGINT then. The lock of the run was that process's, so nothing may be written.
    """

    def __init__(self, shared: Any, parent: int) -> None:
        super().__init__(shared)
        self._parent = parent

    def end_without_parent(self) -> None:
        """End here, at once, where the parent has ended."""
        if os.getppid() != self._parent:
            os._exit(1)

    def _hear(self, number: int, frame: Any) -> None:
        self.end_without_parent()
        super()._hear(number, frame)

    def _tell(self, number: int) -> None:
        """Leave it at this process: when another one died, the parent ends it by a signal too.

        Of any other signal, the processes tell each other between steps.
        """


def leave_together(fabric: Fabric) -> None:
    """Take down the group of processes that `fabric` launched; each calls it as the last thing.

    Left to the end of the process, the group's threads now and then still run when they are taken
    down, and the process aborts.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()
