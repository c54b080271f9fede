"""How much memory there is, and how many images are run together in a part of it."""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = 4 * 2**30  # where the system does not say
PIXELS = 2**22
"""So many at a time: 256 images of 128 x 128, or 4 of 1024 x 1024. A network's first maps take some
hundred bytes for each."""


def images_at_once(size: tuple[int, int], most: int) -> int:
    """Return how many images of this height and width to run together.

    Example:
        >>> images_at_once((64, 64), most=256), images_at_once((320, 320), most=256)
        (256, 40)
    """
    height, width = size
    return min(most, max(1, PIXELS // (height * width)))


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take: of the machine, or of its container."""
    return min([_machine_memory(root), *_group_limits(root)])


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
