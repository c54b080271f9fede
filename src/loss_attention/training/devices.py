"""What there is to compute on, and which of it is taken; without the library that trains on it."""

from __future__ import annotations

import os

import torch

from loss_attention.errors import InputError
from loss_attention.training.recipe import Accelerator

DEVICES = {"cuda": "GPU", "xpu": "Intel GPU", "mps": "Apple GPU", "cpu": "CPU"}
"""What there is to compute on, best first, and what it is called."""

ALONE = ("xpu", "mps")
"""Where Fabric has one process train, and not several."""


def count_devices(accelerator: str) -> int:
    """Return how many devices of a kind torch can compute on here; of a CPU, its cores."""
    if accelerator == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "xpu":
        return torch.xpu.device_count() if torch.xpu.is_available() else 0
    if accelerator == "mps":
        return int(torch.backends.mps.is_available())
    return os.cpu_count() or 1


def choose_accelerator(wanted: str, devices: int) -> str:
    """Return "cuda", "xpu", "mps" or "cpu" for what was asked for; auto: the first that is here.

    Raises:
        InputError: what is asked for is not here, or fewer of it, or it is not for several
            processes.
    """
    if devices < 1:
        raise InputError(f"`devices` must be at least 1, got {devices}")
    accelerator = next(one for one in DEVICES if count_devices(one)) if wanted == "auto" else wanted
    count = count_devices(accelerator)
    if not count:
        raise InputError(
            f"`accelerator` {wanted}: torch finds no {DEVICES[wanted]} here; use `accelerator` cpu"
        )
    if accelerator in ALONE and devices > 1:
        raise InputError(
            f"`devices` {devices}: one process trains on {accelerator}; "
            "several do on `accelerator` cuda or cpu"
        )
    if devices > count:
        there = f"this CPU has {count} cores"
        if accelerator != "cpu":
            there = f"there are {count} GPUs here"
        raise InputError(f"`devices` {devices}: {there}")
    return accelerator


def choose_device(wanted: Accelerator) -> torch.device:
    """Return where one process computes that trains nothing, by the same rule as training.

    Raises:
        InputError: what is asked for is not here.
    """
    return torch.device(choose_accelerator(wanted, 1))
