"""Which images each process sees in each step. A pure function of seed, epoch and step.

So a resumed run needs no generator's state, and any number of processes sees the same batches.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of steps that show every image once."""
    return -(-images // batch_size)


def epoch_batches(images: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Divide a shuffled epoch into batches that differ in size by at most one image.

    Every image is in exactly one batch; there is no small remainder at the end, which would give
    its images a larger say and batch norm a poor estimate.
    """
    order = torch.randperm(images, generator=stream(seed, epoch, 0))
    return order.tensor_split(steps_per_epoch(images, batch_size))


def process_part(batch: Int[Tensor, " B"], rank: int, world_size: int) -> slice:
    """Return the part of a batch that a process takes; the parts differ by at most one image."""
    size, extra = divmod(len(batch), world_size)
    start = rank * size + min(rank, extra)
    return slice(start, start + size + (rank < extra))


def stream(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return a generator of its own for each place in a run."""
    return torch.Generator().manual_seed(stream_seed(seed, epoch, step))


def stream_seed(seed: int, epoch: int, step: int) -> int:
    """Mix three numbers to the seed of one place in a run.

    Hashed, because torch's generator on the CPU takes in the lowest 32 bits alone.
    """
    mixed = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)
    return int(mixed[0] >> 1)
