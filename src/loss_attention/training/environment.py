"""The hardware and versions that a run stands on, and what the hardware is best used with."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from loss_attention.data.memory import free_memory
from loss_attention.errors import InputError
from loss_attention.training.recipe import Accelerator, RunOptions

PACKAGES = ("torch", "numpy", "lightning-fabric", "datasets", "pillow", "scikit-learn")

Precision = Literal["32", "bf16"]

MANY_PARAMETERS = 10_000_000
"""From which a network computes long enough for each byte to ask the system for it each time."""

# Names of glibc's malloc.h. 32 MB is the most that it takes for the first.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT, _LARGEST_KEPT_SPARING, _ALL = 32 << 20, 2 << 20, 2**31 - 1


def choose_accelerator(wanted: str, devices: int) -> str:
    """Return "cuda" or "cpu" for what was asked for.

    Raises:
        InputError: a GPU is asked for where there is none, or more of them than there are.
    """
    gpus = count_gpus()
    if devices < 1:
        raise InputError(f"--devices must be at least 1, got {devices}")
    if wanted == "cuda" and gpus == 0:
        raise InputError("--accelerator cuda: torch finds no GPU here; use --accelerator cpu")
    accelerator = "cuda" if gpus and wanted != "cpu" else "cpu"
    if accelerator == "cuda" and devices > gpus:
        raise InputError(f"--devices {devices}: there are {gpus} GPUs here")
    cores = os.cpu_count() or 1
    if accelerator == "cpu" and devices > cores:
        raise InputError(f"--devices {devices}: this CPU has {cores} cores")
    return accelerator


def count_gpus() -> int:
    """Return how many GPUs torch can use here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_device(wanted: Accelerator) -> torch.device:
    """Return where one process computes that trains nothing, by the same rule as training.

    Raises:
        InputError: a GPU is asked for where there is none.
    """
    return torch.device(choose_accelerator(wanted, 1))


def image_memory(options: RunOptions) -> int:
    """Return the bytes of memory that there are for a set of images: where it is trained on too."""
    free = free_memory()
    if options.accelerator != "cpu" and torch.cuda.is_available():
        gpus = range(min(options.devices, torch.cuda.device_count()))
        free = min(free, *(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus))
    return free


def choose_precision(wanted: str, accelerator: str) -> Precision:
    """Return "bf16" where it is asked for, or "auto" and faster there than float32.

    That is on GPUs with bf16 units and on CPUs with AMX or AVX512-BF16; elsewhere a CPU emulates
    bf16 and is slower with it.
    """
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "32"
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bf16" if fast else "32"


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


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that decide a run's figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    return found


def hardware(accelerator: str, devices: int, precision: str) -> dict[str, Any]:
    """Describe the machine in words that a reader of the figures needs."""
    described: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if accelerator == "cuda" else "CPU",
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
