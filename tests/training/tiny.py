"""A data set, a recipe and a script small enough to train in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.training.recipe import Recipe

CLASSES = ("left", "right")


def tiny_splits(images: int = 46, seed: int = 0) -> Splits:
    """Noise of 12 x 12 pixels with a bright square in its left or right half."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> ImageSet:
        pixels = torch.randint(0, 100, (count, 1, 12, 12), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 2, (count,), generator=generator)
        boxes = torch.zeros(count, 1, 4)
        for i, label in enumerate(labels.tolist()):
            x, y = 1 + 6 * label, 4
            pixels[i, 0, y : y + 4, x : x + 4] = 255
            boxes[i, 0] = torch.tensor([x, y, x + 4, y + 4])
        return ImageSet(pixels, labels, CLASSES, boxes, labels.unsqueeze(1))

    return Splits(some(images), some(20), "bright squares")


def tiny_recipe(**changes: Any) -> Recipe:
    recipe = Recipe(
        name="tiny",
        data="tiny",
        in_channels=1,
        crop_padding=1,
        horizontal_flip=False,
        backbone="vgg11_bn",
        width=0.06,
        strided_layers=(8,),
        patch_kernel=2,
        patch_stride=1,
        epochs=4,
        batch_size=8,
        learning_rate=0.05,
        precision="32",
    )
    return replace(recipe, **changes)
