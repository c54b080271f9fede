"""Which images each process sees in each step, and how they are changed.

Pure functions of seed, epoch and step: so a resumed run needs no generator's state, and any number
of processes sees the same batches. What is drawn is drawn for a whole batch, all processes' parts
of it together, and a whole batch is cropped, mirrored and erased at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loss_attention.data.sample import sent
from loss_attention.errors import InputError
from loss_attention.training.recipe import Recipe


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of steps that show every image once."""
    return -(-images // batch_size)


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


# Beside the streams of an epoch's order, 0, and of its steps' shifts, from 1 on.
HOLES = 2**40
FIRST_SIDES = 2**41


AUGMENTATION = ("crop_padding", "horizontal_flip", "alternate_flips", "cutout")
"""The fields of a recipe that decide what an `Augmenter` makes of an image, beside the seed."""


class Augmenter:
    """Changes training images as the recipe says.

    Args:
        recipe: what to do, and the seed.
        images: how many training images there are, over all processes.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._recipe = recipe
        self._mirrored_first = first_sides(images, recipe.seed) if recipe.alternate_flips else None

    def __call__(
        self,
        images: UInt8[Tensor, "b C H W"],
        batch: Int[Tensor, " B"],
        part: slice,
        *,
        epoch: int,
        step: int,
    ) -> UInt8[Tensor, "b C H W"]:
        """Return what the network is trained on.

        Args:
            images: those of this process.
            batch: which images are in the step.
            part: which of them are this process's.
            epoch: counted from 0.
            step: of the epoch, counted from 0.
        """
        recipe = self._recipe
        shifts = self._shifts(batch, epoch, step)[part]
        moved = crop_and_flip(images, shifts, recipe.crop_padding)
        if not recipe.cutout:
            return moved
        return erase_squares(moved, self._holes(len(batch), epoch, step)[part], recipe.cutout)

    def _shifts(self, batch: Int[Tensor, " B"], epoch: int, step: int) -> Shifts:
        recipe = self._recipe
        generator = stream(recipe.seed, epoch, step + 1)
        drawn = draw_shifts(len(batch), recipe.crop_padding, recipe.horizontal_flip, generator)
        if self._mirrored_first is None:
            return drawn
        return replace(drawn, flip=self._mirrored_first[batch] ^ (epoch % 2 == 1))

    def _holes(self, count: int, epoch: int, step: int) -> Float[Tensor, "B 2"]:
        return torch.rand(count, 2, generator=stream(self._recipe.seed, epoch, HOLES + step))


def first_sides(images: int, seed: int) -> Bool[Tensor, " N"]:
    """Draw which images are mirrored in the first epoch and every second one from there."""
    return torch.rand(images, generator=stream(seed, 0, FIRST_SIDES)) < 0.5


@dataclass(frozen=True)
class Shifts:
    """One augmentation for each image of a batch.

    Attributes:
        offset: where each crop starts in the padded image, as (row, column).
        flip: whether it is then mirrored.
    """

    offset: Int[Tensor, "B 2"]
    flip: Bool[Tensor, " B"]

    def __getitem__(self, index: slice | Tensor) -> Shifts:
        return Shifts(self.offset[index], self.flip[index])


def draw_shifts(count: int, padding: int, flip: bool, generator: torch.Generator) -> Shifts:
    """Draw shifts of up to `padding` pixels each way and, if asked, flips of probability 1/2."""
    offset = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    flipped = torch.rand(count, generator=generator) < 0.5
    return Shifts(offset, flipped & flip)


def crop_and_flip(
    images: UInt8[Tensor, "B C H W"], shifts: Shifts, padding: int
) -> UInt8[Tensor, "B C H W"]:
    """Pad with zeros, crop back to size at each image's offset, and mirror those with a flip.

    The same pixels on any device, without a loop over images: every crop there could be is a view
    of the padded batch, and each image's own is copied out of it.

    Args:
        images: any number of channels, any size.
        shifts: offsets in `0..2 * padding` as `draw_shifts` gives them; `padding` is no shift.
        padding: pixels of zeros on each side.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> right_and_mirrored = Shifts(torch.tensor([[1, 0]]), torch.tensor([True]))
        >>> crop_and_flip(image, right_and_mirrored, padding=1).tolist()
        [[[[1, 0], [3, 0]]]]
    """
    batch, _, height, width = images.shape
    offset, flip = sent(shifts.offset, images.device), sent(shifts.flip, images.device)
    padded = F.pad(images, (padding,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
    each = torch.arange(batch, device=images.device)
    cropped = crops[each, :, offset[:, 0], offset[:, 1]]
    return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


def erase_squares(
    images: UInt8[Tensor, "B C H W"], corners: Float[Tensor, "B 2"], side: int
) -> UInt8[Tensor, "B C H W"]:
    """Set a square of each image to zero, all of it inside the image.

    Cutout, of DeVries and Taylor 2017 (arXiv:1708.04552), whose squares may reach over the edge.

    Args:
        images: any number of channels, any size from `side` on.
        corners: where the square lies between the first and the last row and column that it can
            begin in, each in [0, 1).
        side: of the square, in pixels.

    Example:
        >>> image = torch.ones(1, 1, 2, 3, dtype=torch.uint8)
        >>> erase_squares(image, torch.tensor([[0.0, 0.9]]), side=2).tolist()
        [[[[1, 0, 0], [1, 0, 0]]]]
    """
    corners, inside = sent(corners, images.device), []
    for axis, length in enumerate(images.shape[2:]):
        pixel = torch.arange(length, device=images.device)
        begin = (corners[:, axis : axis + 1] * (length - side + 1)).long()
        inside.append((pixel >= begin) & (pixel < begin + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
