"""Where the time of our training step goes: its parts, marked as they pass, and its profile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from workloads import Ours

LAST_PATCH_LAYER = {
    "loss-attention": "head.patch_layers",
    "capsule-loss-attention": "head.patch_capsules",
}
"""From its output on, everything is the head's."""

PARTS = {
    "data": ("start", "images"),
    "network, forward": ("images", "patches"),
    "head, forward and backward": ("patches", "gradient"),
    "network, backward": ("gradient", "update"),
    "optimiser and bookkeeping": ("update", "end"),
}
"""The marks at which each part begins and ends. Data: take the images, crop, flip, normalise."""

PROFILED_ROWS = 30
SYNCHRONISED = "called a synchronizing CUDA operation"


class Marks:
    """When a step passed which place: by the clock, or by events that a GPU passes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.passed: dict[str, Any] = {}

    def __call__(self, name: str) -> None:
        """Note that the step is at this place."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.passed[name] = event
        else:
            self.passed[name] = time.perf_counter()

    def seconds(self, begin: str, end: str) -> float:
        """Return the time between two marks; the device must have passed them."""
        first, second = self.passed[begin], self.passed[end]
        if self.device.type == "cuda":
            return float(first.elapsed_time(second)) / 1000
        return float(second - first)


def parts_of_step(ours: Ours) -> dict[str, float]:
    """Take a step, and return the seconds of each part and of the `step` as a whole."""
    device = ours.setting.device
    marks = Marks(device)
    with _marked(ours, marks):
        _wait_for(device)
        marks("start")
        ours.step()
        marks("end")
        _wait_for(device)
    parts = {"step": ("start", "end"), **PARTS}
    return {name: marks.seconds(begin, end) for name, (begin, end) in parts.items()}


@contextmanager
def _marked(ours: Ours, marks: Marks) -> Iterator[None]:
    """Set the marks between start and end, as long as the context lasts."""
    model, optimizer = ours.trainer.model, ours.trainer.optimizer
    patches = model.get_submodule(LAST_PATCH_LAYER[ours.setting.head])

    def at_patches(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        marks("patches")
        output.register_hook(lambda _gradient: marks("gradient"))

    with ExitStack() as hooks:
        for handle in (
            model.backbone.register_forward_pre_hook(lambda *_: marks("images")),
            patches.register_forward_hook(at_patches),
            optimizer.optimizer.register_step_pre_hook(lambda *_: marks("update")),
        ):
            hooks.callback(handle.remove)
        yield


def host_waits(ours: Ours) -> int | None:
    """Return how often a step makes the host wait for a GPU; None on a CPU."""
    if ours.setting.accelerator != "cuda":
        return None
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            ours.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Switching it on warns too, that it does not see everything.
    return sum(SYNCHRONISED in str(warning.message) for warning in caught)


def profile_of_step(ours: Ours) -> str:
    """Return torch.profiler's table of a step, the costliest operations first."""
    activities = [ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if ours.setting.accelerator == "cuda":
        activities.append(ProfilerActivity.CUDA)
        order = "self_device_time_total"
    with profile(activities=activities) as found:
        ours.step()
        _wait_for(ours.setting.device)
    table = found.key_averages().table(
        sort_by=order, row_limit=PROFILED_ROWS, max_name_column_width=60
    )
    return "\n".join(line.rstrip() for line in table.splitlines()) + "\n"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
