"""One process of a run or several: they begin together, stop together and leave together.

On one machine the run starts them itself; on several, torchrun or srun does, and Fabric reads what
they say in the environment.
"""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.accelerator import Accelerator as FabricAccelerator
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from loss_attention.errors import InputError, KilledError, ReportedError
from loss_attention.interruption import (
    StopRequest,
    block_signals,
    blocked_signals,
    shared_byte,
    unblock_signals,
)
from loss_attention.training.devices import ALONE, count_devices
from loss_attention.training.recipe import RunOptions
from loss_attention.training.restarting import meet


class XPUAccelerator(FabricAccelerator):
    """Intel's GPUs for Fabric, which has none: one process, on the first of them."""

    def setup_device(self, device: torch.device) -> None:
        """Have the process use the device."""
        torch.xpu.set_device(device)

    def teardown(self) -> None:
        """Give back the memory that is kept for later."""
        torch.xpu.empty_cache()

    @staticmethod
    def parse_devices(devices: int) -> int:
        """Return how many devices to use."""
        return devices

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        """Return them."""
        return [torch.device("xpu", number) for number in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        """Return how many there are."""
        return count_devices("xpu")

    @staticmethod
    def is_available() -> bool:
        """Whether there are any."""
        return count_devices("xpu") > 0

    @staticmethod
    def name() -> str:
        """Return what Fabric calls it."""
        return "xpu"


T = TypeVar("T")

CHECK_INTERVAL = 20
"""Steps between the looks at device values that make the host wait for a GPU."""

AGREE_SECONDS = 1.0
"""Processes ask each other about so often whether one of them was told to stop."""

Work = Callable[[Fabric, StopRequest], dict[str, Any]]
"""What each process does; what the first one returns is what comes of it."""


def cluster_of(options: RunOptions) -> ClusterEnvironment | None:
    """Return what torchrun or srun says of the processes that they started for a run.

    None: neither started them, and a run of several processes starts them itself.

    Raises:
        InputError: other processes were started than the run is to have.
    """
    kind: type[ClusterEnvironment]
    if TorchElasticEnvironment.detect():
        kind, by, option = TorchElasticEnvironment, "torchrun", "--nproc-per-node"
        names = ("LOCAL_WORLD_SIZE", "WORLD_SIZE")
    elif "SLURM_STEP_ID" in os.environ and options.processes > 1:  # else, trainings side by side
        kind, by, option = SLURMEnvironment, "srun", "--ntasks-per-node"
        names = ("SLURM_NTASKS_PER_NODE", "SLURM_NTASKS")
    else:
        return None
    started = [os.environ.get(name, "1") for name in names]
    here, processes = map(int, started)
    if processes == options.num_nodes == 1:
        return None
    if (here, processes) != (options.devices, options.processes):
        raise InputError(
            f"{by} started {processes} processes, {here} on this machine; `devices` "
            f"{options.devices} and `num_nodes` {options.num_nodes} want {options.processes}: "
            f"the same number for `devices` and {by}'s {option}"
        )
    return kind()


def leads(options: RunOptions) -> bool:
    """Whether this process is the one that writes the run: the first, or the only one."""
    cluster = cluster_of(options)
    return cluster is None or cluster.global_rank() == 0


def check_processes(accelerator: str, options: RunOptions) -> None:
    """Raise `InputError` where a run of several machines cannot be."""
    if options.num_nodes == 1:
        return
    if accelerator in ALONE:
        raise InputError(f"`num_nodes` {options.num_nodes}: one process trains on {accelerator}")
    if cluster_of(options) is None:
        raise InputError(
            f"`num_nodes` {options.num_nodes}: torchrun or srun has to start a process for each "
            "device of each machine; docs/scaling.md has the commands"
        )


def make_fabric(accelerator: str, precision: str, options: RunOptions) -> Fabric:
    """Return what trains in the processes that the options name; not launched yet.

    Args:
        accelerator: as `choose_accelerator` has it.
        precision: as `choose_precision` has it.
        options: devices and machines.
    """
    cluster = cluster_of(options)
    arithmetic: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    if accelerator == "xpu":
        plugins: list[Any] = [MixedPrecision(arithmetic, "xpu")] if precision == "bf16" else []
        one = SingleDeviceStrategy(torch.device("xpu", 0))
        return Fabric(accelerator=XPUAccelerator(), devices=1, strategy=one, plugins=plugins)
    if options.processes == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=arithmetic)
    return Fabric(
        accelerator=accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy="ddp_spawn" if cluster is None else "ddp",
        precision=arithmetic,
        # Named, as Fabric would take SLURM's word for processes that this one starts.
        plugins=cluster or LightningEnvironment(),
    )


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
            if lost or _of_lost_connection(error):
                raise KilledError(
                    f"a process that trains was ended ({_how_it_ended(error)}), most likely "
                    "because memory ran out, which the system's log would say"
                ) from error
            raise


def join_processes(fabric: Fabric, work: Work, stop: StopRequest) -> dict[str, Any]:
    """Do the work in this process, beside those that torchrun or srun started, or alone."""
    with stop.listening():
        try:
            if fabric.world_size > 1:
                meet(fabric.device)
            fabric.launch()
            outcome = work(fabric, stop)
            leave_together(fabric)
        except RuntimeError as error:
            if isinstance(error, torch.distributed.DistError) or _of_lost_connection(error):
                raise KilledError(
                    "another process of the run has ended; what it said itself tells why"
                ) from error
            raise
    return outcome


def _of_lost_connection(error: Exception) -> bool:
    return re.search(r"Connection (closed|reset) by peer", str(error)) is not None


def from_first(fabric: Fabric, make: Callable[[], T]) -> T:
    """Return to all processes what the first one makes; an error that it reports is everyone's."""
    made: T | ReportedError | None = None
    if fabric.is_global_zero:
        try:
            made = make()
        except ReportedError as error:
            made = error
    if fabric.world_size > 1:
        made = fabric.broadcast(made)
    if isinstance(made, ReportedError):
        raise made
    return cast(T, made)


def alike(fabric: Fabric, value: str) -> bool:
    """Whether all processes have the same value; all of them get the same answer."""
    differs = float(from_first(fabric, lambda: value) != value)
    return bool(summed(fabric, torch.tensor(differs, device=fabric.device)) == 0)


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
    down, and the process aborts. And whatever wraps a network for the group is to be gone before
    it: being the last to hold the group, it would wait for threads that want Python's lock, with
    that lock held.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()


def processes_here(fabric: Fabric) -> int:
    """Return how many processes of a run share this machine."""
    count: int = getattr(fabric.strategy, "num_processes", 1)
    return count


def summed(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor itself stays as it is."""
    if fabric.world_size == 1:
        return tensor
    total = fabric.all_reduce(tensor.clone(), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


class Agreement:
    """Whether any process of a run was told to stop; all of them get the same answer.

    Args:
        fabric: has the processes.
        stop: what this one was told.
    """

    def __init__(self, fabric: Fabric, stop: StopRequest) -> None:
        self._fabric, self._stop = fabric, stop
        self._ask_at = 0

    def due(self, finished_steps: int) -> bool:
        """Whether to ask now; the same in all processes, who wait for each other's answer."""
        return self._fabric.world_size == 1 or finished_steps >= self._ask_at

    def to_stop(self, finished_steps: int = 0, step_seconds: float = 0.0) -> bool:
        """Ask all processes.

        Args:
            finished_steps: of the run.
            step_seconds: what a step takes; 0: when to ask next stays as it is.
        """
        fabric, stop = self._fabric, self._stop
        if fabric.world_size == 1:
            return stop.requested
        mine = [float(stop.requested), float(stop.number or 0), step_seconds]
        largest = fabric.all_reduce(torch.tensor(mine, device=fabric.device), reduce_op="max")
        assert isinstance(largest, Tensor)
        told, number, seconds = largest.tolist()
        if step_seconds:
            apart = AGREE_SECONDS / max(seconds, 1e-9)
            self._ask_at = finished_steps + max(1, min(CHECK_INTERVAL, int(apart)))
        if told:
            stop.hear(int(number) or None)
        return bool(told)
