"""Training steps in a process of their own: the time to the first one, how long they take, memory.

    python benchmarks/isolated.py first KIND SETTING STARTED
    python benchmarks/isolated.py growth POINT

prints JSON. KIND: one of `WORKLOADS`; SETTING, POINT: the fields of a `Setting` or a `Point` as
JSON; STARTED: when the process was asked for, in seconds of the clock.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from measuring import timed
from workloads import WORKLOADS, Ours, Setting, fabric_for

from loss_attention.training.environment import keep_freed_memory
from loss_attention.training.processes import leave_together

STEPS = 2
"""The second is the first to have the optimiser's momentum beside everything else."""


@dataclass(frozen=True)
class Point(Setting):
    """What is trained, and in how many processes."""

    processes: int = 1
    """The batch is shared among them."""
    steps: int = 4
    """The first is to warm up and does not count."""


def isolated(kind: str, setting: Setting) -> dict[str, float]:
    """Run a process and return its `first_step_seconds` and `peak_bytes`.

    The peak is that of the device: of the allocator on a GPU, of the process on a CPU, there less
    what it held once everything was imported.
    """
    return _told("first", kind, json.dumps(asdict(setting)), repr(time.time()))


def measure_point(point: Point) -> dict[str, float]:
    """Run a process and return the `seconds` of a step and the `peak_bytes`; see `isolated`.

    Of several processes the peak is the largest.
    """
    return _told("growth", json.dumps(asdict(point)))


def _told(*words: str) -> dict[str, float]:
    done = timed(sys.executable, str(Path(__file__)), *words)
    # Whatever libraries have to say comes in lines of its own.
    (line,) = (line for line in done.output.splitlines() if line.startswith("{"))
    numbers: dict[str, float] = json.loads(line)
    return numbers


def first_steps(kind: str, setting: Setting, started: float) -> dict[str, float]:
    """Take the first steps in this process; see `isolated`."""
    on_gpu = setting.accelerator == "cuda"
    before = 0 if on_gpu else process_memory("VmRSS")
    workload = WORKLOADS[kind](setting)
    if isinstance(workload, Ours):  # as in training
        parameters = sum(parameter.numel() for parameter in workload.trainer.model.parameters())
        keep_freed_memory(parameters, spare=workload.setting.checkpoint_activations)
    seconds = 0.0
    for step in range(STEPS):
        workload.step()
        if on_gpu:
            torch.cuda.synchronize()
        if step == 0:
            seconds = time.time() - started
    return {"first_step_seconds": seconds, "peak_bytes": _peak(on_gpu, before)}


def take_steps(fabric: Fabric, fields: dict[str, Any]) -> dict[str, float]:
    """Take the steps of a point with these fields in each process; see `measure_point`."""
    point = Point(**fields)
    on_gpu = point.accelerator == "cuda"
    before = 0 if on_gpu else process_memory("VmRSS")
    ours = Ours(point, fabric)
    seconds = []
    for _ in range(point.steps):
        fabric.barrier()
        started = time.perf_counter()
        ours.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.tensor(float(_peak(on_gpu, before)))
    largest: Any = fabric.all_reduce(peak, reduce_op="max")
    leave_together(fabric)
    return {"seconds": statistics.median(seconds[1:]), "peak_bytes": float(largest)}


def _peak(on_gpu: bool, before: int) -> int:
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    # Linux counts pages roughly: a process that took nothing may seem to have given some back.
    return max(0, process_memory("VmHWM") - before)


def process_memory(field: str) -> int:
    """Return the process's resident memory in bytes: VmRSS now, VmHWM at its highest.

    Not `getrusage`: a process that another started has the other's highest in it on Linux.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else 1024 * highest
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "first":
        kind, setting, started = words
        found = first_steps(kind, Setting(**json.loads(setting)), float(started))
    else:
        point = Point(**json.loads(words[0]))
        # Its fields, as Fabric hands no frozen dataclass to its processes.
        found = fabric_for(point, point.processes).launch(take_steps, asdict(point))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
