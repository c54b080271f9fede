"""Copies to a device that nobody waits for."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def sent(tensor: Shaped[Tensor, "*N"], device: torch.device) -> Shaped[Tensor, "*N"]:
    """Return a tensor on a device; to a GPU through pinned memory, so that the host goes on.

    A plain `.to(device)` of what was just made on the CPU, and indexing a tensor of a GPU by one of
    the CPU, both make the host wait until the GPU has done all that it was given.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
