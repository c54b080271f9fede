"""From the paper's settings to those of a scale: everything tiny, reduced, or as printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loss_attention.errors import unknown_name
from loss_attention.training.recipe import Recipe

MULTI_LABEL = ("coco2014", "coco2017", "multi-digits")


@dataclass(frozen=True)
class Scale:
    """A size to reproduce the paper at.

    Attributes:
        name: what `--scale` calls it.
        summary: what it is, for the tables' captions.
        seeds: how many seeds a cell has unless told otherwise.
        recipe: from the paper's recipe of a training to that of this scale.
    """

    name: str
    summary: str
    seeds: int
    recipe: Callable[[Recipe], Recipe]


def _smoke(recipe: Recipe) -> Recipe:
    """Shrink everything, so that every table runs in a minute; its figures mean nothing."""
    strided = recipe.strided_layers
    if not strided and recipe.image_size is None and recipe.head != "baseline":
        # As for the 64-pixel sets, whose tables then share these trainings.
        strided = STRIDED_AT_64.get(recipe.backbone, ())
    return replace(
        recipe,
        data="multi-digits" if recipe.data in MULTI_LABEL else "digits",
        image_size=16,
        in_channels=1,
        limit_images=32,
        crop_padding=1,
        horizontal_flip=False,
        width=0.05,
        strided_layers=strided,
        patch_kernel=2,
        epochs=2,
        batch_size=16,
        learning_rate=min(recipe.learning_rate, 0.02),
        precision="32",
    )


STRIDED_AT_64 = {"vgg11_bn": (4,), "resnet18": (6,)}
SCALES: dict[str, Scale] = {
    "smoke": Scale("smoke", "tiny networks and data: the figures mean nothing", 1, _smoke),
    "paper": Scale("paper", "the paper's settings", 4, lambda recipe: recipe),
}


def scale(name: str) -> Scale:
    """Return a scale by name.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]
