"""Which images each process sees in each step.

Pure functions of seed, epoch and step: so a resumed run needs no generator's state, and any number
of processes sees the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.training.recipe import Recipe


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of steps that show every image once."""
    return -(-images // batch_size)


def in_epochs(recipe: Recipe, images: int) -> Recipe:
    """Return a recipe whose length is in whole epochs, at least as many steps as it asks for.

    Args:
        recipe: may say its length in steps.
        images: how many are trained on.

    Example:
        >>> in_epochs(Recipe("x", "digits", epochs=0, steps=10, batch_size=8), images=30).epochs
        3
    """
    if recipe.steps is None:
        return recipe
    epochs = -(-recipe.steps // steps_per_epoch(images, recipe.batch_size))
    return replace(recipe, steps=None, epochs=epochs)


def smallest_batch(images: int, batch_size: int) -> int:
    """Return the number of images in the smallest step of an epoch.

    Example:
        >>> smallest_batch(9, batch_size=4)
        3
    """
    return images // steps_per_epoch(images, batch_size)


def check_batches(images: int, batch_size: int, world_size: int) -> None:
    """Raise `InputError` where a step would leave a process without an image."""
    if images < world_size:
        raise InputError(f"{world_size} processes: there are {images} training images")
    smallest = smallest_batch(images, batch_size)
    if smallest < world_size:
        sizes = range(world_size, images + 1)
        enough = next(size for size in sizes if smallest_batch(images, size) >= world_size)
        raise InputError(
            f"{world_size} processes: with `batch_size` {batch_size}, a step of the {images} "
            f"training images can have {smallest}, fewer than one for each; take "
            f"`batch_size` {enough}, or fewer `devices`"
        )


def epoch_batches(
    images: int,
    batch_size: int,
    seed: int,
    epoch: int,
    classes: Int[Tensor, " {images}"] | None = None,
) -> tuple[Tensor, ...]:
    """Divide a shuffled epoch into batches that differ in size by at most one image.

    Every image is in exactly one batch; there is no small remainder at the end, which would give
    its images a larger say and batch norm a poor estimate.

    Args:
        images: how many there are; an epoch shows so many.
        batch_size: images in a step.
        seed: of the run.
        epoch: counted from 0.
        classes: of the images, to show each class equally often; see `balanced_epoch`. None: each
            image once.
    """
    order = torch.randperm(images, generator=stream(seed, epoch, 0))
    if classes is not None:
        order = balanced_epoch(classes, seed, epoch)[order]
    return order.tensor_split(steps_per_epoch(images, batch_size))


def balanced_epoch(classes: Int[Tensor, " N"], seed: int, epoch: int) -> Int[Tensor, " N"]:
    """Return N images of which each class that occurs has as many, to within one.

    The classes take turns, over all epochs, and each goes through its own images in rounds: all of
    them, in an order drawn anew for each round. So a rare class is shown several times an epoch, a
    common one in part, and every image as often as the others of its class, to within one.

    Example:
        >>> classes = torch.tensor([0, 0, 0, 0, 0, 1])
        >>> classes[balanced_epoch(classes, seed=0, epoch=0)].bincount()
        tensor([3, 3])
    """
    count, present = len(classes), torch.unique(classes).tolist()
    taken = []
    for turn, value in enumerate(present):
        members = (classes == value).nonzero().squeeze(1)
        # Of turns s = 0, 1, ... over all epochs, the class has those of s % len(present) == turn.
        first, stop = (
            -((turn - shown) // len(present)) for shown in (epoch * count, (epoch + 1) * count)
        )
        rounds = range(first // len(members), -(-stop // len(members)))
        in_turn = [
            members[torch.randperm(len(members), generator=stream(seed, number, ROUNDS + value))]
            for number in rounds
        ]
        begin = first - rounds.start * len(members)
        taken.append(torch.cat([members[:0], *in_turn])[begin : begin + stop - first])
    return torch.cat(taken)


def process_part(batch: Int[Tensor, " B"], rank: int, world_size: int) -> slice:
    """Return the part of a batch that a process takes; the parts differ by at most one image."""
    size, extra = divmod(len(batch), world_size)
    start = rank * size + min(rank, extra)
    return slice(start, start + size + (rank < extra))


def stream(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return a generator of its own for each position in a run."""
    return torch.Generator().manual_seed(stream_seed(seed, epoch, step))


def stream_seed(seed: int, epoch: int, step: int) -> int:
    """Mix three numbers to the seed of one position in a run.

    Hashed, because torch's generator on the CPU takes in the lowest 32 bits alone.
    """
    return _first_of(np.random.SeedSequence([seed, epoch, step]))


def noise_seed(seed: int, rank: int, epoch: int, step: int) -> int:
    """Mix four numbers to the seed of what is random inside the network, at one position in a run.

    That is dropout: each process draws for its own images, by its rank. For the first process it is
    what version 0.1 drew, so that such a run is resumed as it began.
    """
    if rank == 0:
        return stream_seed(seed + 1, epoch, step)
    # Each number in integers of its own, and set apart from all streams, which have no key.
    numbers = [seed % 2**32, seed >> 32, rank, epoch, step]
    return _first_of(np.random.SeedSequence(numbers, spawn_key=(1,)))


def _first_of(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def seed_noise(seed: int, device: torch.device) -> None:
    """Have what is random inside the network on a device draw from a seed.

    It draws what it would after `torch.manual_seed`, which takes half a millisecond: it seeds every
    kind of device, and notes for those that are not there yet from where it was called.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Have what draws from torch's own generator of the CPU draw from a seed, and nothing else."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every GPU as well.
        torch.default_generator.manual_seed(seed)
        yield


def image_seed(seed: int, epoch: int, step: int, position: int) -> int:
    """Mix four numbers to the seed of what a library draws for one image of a step.

    Args:
        seed: of the run.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        position: of the image in the step, over all processes.
    """
    return _first_of(np.random.SeedSequence([seed, epoch, step, position], spawn_key=(2,)))


# Beside the streams of an epoch's order, 0, and of its steps' shifts, from 1 on.
HOLES = 2**40
FIRST_SIDES = 2**41
TURNS = 2**42
PAIRS = 2**43
ROUNDS = 2**44
GUIDES = 2**45
