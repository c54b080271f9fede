"""What a run runs on: hardware and versions, memory, and the arithmetic that is fast there."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from loss_attention.errors import InputError
from loss_attention.memory import free_memory
from loss_attention.training.devices import DEVICES, choose_accelerator, count_devices
from loss_attention.training.recipe import RunOptions

PACKAGES = ("torch", "numpy", "lightning-fabric", "datasets", "pillow", "scikit-learn")

Precision = Literal["32", "bf16"]

MANY_PARAMETERS = 10_000_000
"""From which a network computes long enough for each byte to ask the system for it each time."""

# Names of glibc's malloc.h. 32 MB is the most that it takes for the first.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT, _LARGEST_KEPT_SPARING, _ALL = 32 << 20, 2 << 20, 2**31 - 1


def image_memory(options: RunOptions) -> int:
    """Return the bytes of memory that there are for a set of images: where it is trained on too."""
    wanted, free = options.accelerator, [free_memory()]
    accelerator = choose_accelerator("auto", 1) if wanted == "auto" else wanted
    devices = range(min(options.devices, count_devices(accelerator)))
    if accelerator == "cuda":
        free += [torch.cuda.mem_get_info(device)[0] for device in devices]
    elif accelerator == "xpu":
        free += [torch.xpu.mem_get_info(device)[0] for device in devices]
    elif accelerator == "mps" and devices:  # a part of the machine's memory is for its GPU
        free += [torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()]
    return min(free)


def choose_precision(wanted: str, accelerator: str) -> Precision:
    """Return "bf16" where it is asked for, or "auto" and faster there than float32.

    That is on GPUs with bf16 units and on CPUs with AMX or AVX512-BF16; elsewhere a CPU emulates
    bf16 and is slower with it. On Apple's GPUs it is float32: the first of them compute no bf16,
    and nothing of it has been measured.

    Raises:
        InputError: bf16 is asked for where there is none.
    """
    if accelerator == "mps" or (accelerator == "xpu" and not _xpu_has_bf16()):
        if wanted == "bf16":
            raise InputError(
                f"`precision` bf16: not on this {DEVICES[accelerator]}; use 32 or auto"
            )
        return "32"
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "32"
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if accelerator == "xpu":
        return "bf16"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bf16" if fast else "32"


def _xpu_has_bf16() -> bool:
    return torch.xpu.is_bf16_supported(including_emulation=False)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return what sums over an epoch are kept in on a device.

    Apple's GPUs have no float64, and of Intel's not each.
    """
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def shown_precision(precision: str) -> str:
    """Return the arithmetic of a run in words.

    Example:
        >>> shown_precision("32"), shown_precision("bf16")
        ('float32', 'bf16')
    """
    return "float32" if precision == "32" else precision


def keep_freed_memory(parameters: int, *, spare: bool = False) -> None:
    """Let this process reuse the memory that tensors leave, where the C library is glibc.

    By itself it gives most of it back to the system after each step and asks for it again in the
    next, which zeroes it page by page: several percent of a step of a small network on a CPU, more
    in a virtual machine. Blocks above 32 MB are given back all the same.

    What is kept has holes, and they add to the peak. Where memory counts for more than these
    percents, blocks above 2 MB are given back: with `MANY_PARAMETERS`, or when asked to.

    Args:
        parameters: how many the network has.
        spare: whether to save memory whatever the network.
    """
    if platform.libc_ver()[0] == "glibc":
        sparing = spare or parameters >= MANY_PARAMETERS
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_SPARING if sparing else _LARGEST_KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _ALL)


def command_line() -> str:
    """Return the command that this process was started by, as it would be typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that decide a run's scores."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    return found


def hardware(accelerator: str, devices: int, precision: str) -> dict[str, Any]:
    """Describe the machine in words that a reader of the scores needs."""
    described: dict[str, Any] = {
        "device": _device_name(accelerator),
        "processes": devices,
        "precision": precision,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        described["memory_gib"] = round(memory / 2**30, 1)
    return described


def _device_name(accelerator: str) -> str:
    if accelerator == "cuda":
        return torch.cuda.get_device_name(0)
    if accelerator == "xpu":
        return torch.xpu.get_device_name(0)
    return DEVICES[accelerator]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
