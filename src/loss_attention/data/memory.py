"""Whether a set of images fits in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stream = Literal["auto", "yes", "no"]
"""Whether to stream: where a set would take too much memory, always, or never."""


@dataclass(frozen=True)
class Storage:
    """Where the images of a set are to be while it is used; nothing of it changes what they are.

    Attributes:
        stream: whether to decode them on demand.
        memory: the bytes of memory there are for them; None: what is free.
        workers: processes that decode ahead; None: as many as suit the machine.
    """

    stream: Stream = "auto"
    memory: int | None = None
    workers: int | None = None


IN_REACH = Storage()
"""In memory where that is large enough."""

PARTS = 3
"""A set may take one part in so many of the free memory: its training part is copied out of it
once, and the network, its gradients and the results need memory too."""

_UNKNOWN = 4 * 2**30  # where the system does not say


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take: of the machine, or of its container."""
    return min([_machine_memory(root), *_group_limits(root)])


def choose_stream(storage: Storage, needed: int) -> tuple[bool, str]:
    """Return whether to stream, and a line that says what was chosen and why.

    Args:
        storage: what was asked for, and the memory that there is.
        needed: the bytes of all images, decoded.

    Example:
        >>> choose_stream(Storage(memory=16 * 10**9), needed=150 * 10**9)[1]
        'images streamed from disk: decoded they take 150 GB, over a third of the 16 GB free'
        >>> choose_stream(Storage(memory=16 * 10**9), needed=150 * 10**6)[1]
        'images held in memory: decoded they take 0.15 GB of 16 GB free'
    """
    size = f"decoded they take {_gigabytes(needed)}"
    if storage.stream == "yes":
        return True, f"images streamed from disk, as asked for: {size}"
    if storage.stream == "no":
        return False, f"images held in memory, as asked for: {size}"
    free = free_memory() if storage.memory is None else storage.memory
    available = f"{_gigabytes(free)} free"
    if needed * PARTS > free:
        return True, f"images streamed from disk: {size}, over a third of the {available}"
    return False, f"images held in memory: {size} of {available}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def _machine_memory(root: Path) -> int:
    """Return what the machine can still give without swapping, caches of files included."""
    try:
        for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if "SC_PHYS_PAGES" in names:  # macOS says how much there is, not how much is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return _UNKNOWN


def _group_limits(root: Path) -> list[int]:
    """Return what each control group around this process still allows; both versions of them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            files = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == top.parent:
                break
            limits += _allowed(folder, *files)
    return limits


def _allowed(folder: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    """Return what a group still allows, caches of files included; nothing where it has no limit."""
    try:
        most = (folder / limit).read_text(encoding="utf-8").strip()
        if most == "max":
            return []
        used = int((folder / usage).read_text(encoding="utf-8"))
        for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines():
            name, _, number = line.partition(" ")
            if name == reclaimable:
                used -= int(number)
        return [max(0, int(most) - used)]
    except (OSError, ValueError):
        return []
