"""How much memory there is: of the machine, or of the container that this process is in."""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = 4 * 2**30  # where the system does not say


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
