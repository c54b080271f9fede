"""How the images of a step are changed.

Pure functions of seed, epoch and step, as in `sampling.py`. What is drawn is drawn for a whole
batch, all processes' parts of it together, and a whole batch is cropped, mirrored and erased at
once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loss_attention.data.sample import sent
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import FIRST_SIDES, HOLES, stream

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
