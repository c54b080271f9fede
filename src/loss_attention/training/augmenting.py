"""How the training images of a step are changed. A pure function of seed, epoch and step.

What is drawn is drawn for a whole batch, all processes' parts of it together.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loss_attention.data.augmentation import Shifts, crop_and_flip, draw_shifts, erase_squares
from loss_attention.training.batches import stream
from loss_attention.training.recipe import Recipe

# Beside the streams of an epoch's order, 0, and of its steps' shifts, from 1 on.
HOLES = 2**40
FIRST_SIDES = 2**41


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
