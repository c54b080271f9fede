"""Training steps of one point of growth, in a process (or several) of their own.

python benchmarks/growth_step.py POINT prints what they took as JSON. POINT: the fields of a `Point`
as JSON.
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
from isolated import process_memory
from lightning_fabric import Fabric
from measuring import timed
from workloads import Ours, Setting, fabric_for

from loss_attention import many_classes
from loss_attention.training.processes import leave_together


@dataclass(frozen=True)
class Point(Setting):
    """What is trained, and in how many processes."""

    processes: int = 1
    """The batch is shared among them."""
    hold_all: bool = False
    """Hold the patch logits however many there are, to show what that would take."""
    steps: int = 4
    """The first is to warm up and does not count."""


def measure_point(point: Point) -> dict[str, float]:
    """Run a process and return the `seconds` of a step and the `peak_bytes` of a process.

    The peak is that of the device: of the allocator on a GPU, of the process on a CPU, there less
    what it held once everything was imported. Of several processes it is the largest.
    """
    words = (sys.executable, str(Path(__file__)), json.dumps(asdict(point)))
    figures: dict[str, float] = json.loads(timed(*words).output.splitlines()[-1])
    return figures


def take_steps(fabric: Fabric, fields: dict[str, Any]) -> dict[str, float]:
    """Take the steps of a point with these fields in each process; see `measure_point`."""
    point = Point(**fields)
    on_gpu = point.accelerator == "cuda"
    before = 0 if on_gpu else process_memory("VmRSS")
    if point.hold_all:
        many_classes.MOST_HELD = sys.maxsize
    ours = Ours(point, fabric)
    seconds = []
    for _ in range(point.steps):
        fabric.barrier()
        started = time.perf_counter()
        ours.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else process_memory("VmHWM") - before
    largest: Any = fabric.all_reduce(torch.tensor(float(peak)), reduce_op="max")
    leave_together(fabric)
    return {"seconds": statistics.median(seconds[1:]), "peak_bytes": float(largest)}


def main() -> None:
    point = Point(**json.loads(sys.argv[1]))
    # Its fields, as Fabric hands no frozen dataclass to its processes.
    found = fabric_for(point, point.processes).launch(take_steps, asdict(point))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
