"""Training steps in a process of their own: the time to the first one, and peak memory.

python benchmarks/isolated.py KIND SETTING STARTED prints JSON. KIND: one of `WORKLOADS`; SETTING:
the fields of a `Setting` as JSON; STARTED: when the process was asked for, in seconds of the clock.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import timed

if TYPE_CHECKING:
    from workloads import Setting

STEPS = 2
"""The second is the first to have the optimiser's momentum beside everything else."""


def isolated(kind: str, setting: Setting) -> dict[str, float]:
    """Run a process and return its `first_step_seconds` and `peak_bytes`.

    The peak is that of the device: of the allocator on a GPU, of the process on a CPU, there less
    what it held once everything was imported.
    """
    words = (sys.executable, str(Path(__file__)), kind, json.dumps(asdict(setting)))
    done = timed(*words, repr(time.time()))
    # Whatever libraries have to say comes in lines of its own.
    (line,) = (line for line in done.output.splitlines() if line.startswith("{"))
    figures: dict[str, float] = json.loads(line)
    return figures


def main() -> None:
    kind, setting, started = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
    import torch
    from workloads import WORKLOADS, Ours, Setting

    from loss_attention.training.environment import keep_freed_memory

    on_gpu = setting["accelerator"] == "cuda"
    before = 0 if on_gpu else process_memory("VmRSS")
    workload = WORKLOADS[kind](Setting(**setting))
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
    peak = torch.cuda.max_memory_allocated() if on_gpu else process_memory("VmHWM") - before
    found: dict[str, Any] = {"first_step_seconds": seconds, "peak_bytes": peak}
    print(json.dumps(found))


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


if __name__ == "__main__":
    main()
