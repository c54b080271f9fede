"""From the paper's settings to those of a scale: as printed, in fewer epochs, reduced, or tiny."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loss_attention.errors import InputError, unknown_name
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import STRIDED_AT_64

SHORT_EPOCHS = 30
MULTI_LABEL = ("coco2014",)


@dataclass(frozen=True)
class Scale:
    """A size to reproduce the paper at.

    Attributes:
        name: what `--scale` calls it.
        summary: what it is, for captions.
        seeds: how many seeds a cell has unless told otherwise.
        recipe: from the paper's recipe of a training to that of this scale.
        targets: the tables and figures that it is made for; none: all of them.
    """

    name: str
    summary: str
    seeds: int
    recipe: Callable[[Recipe], Recipe]
    targets: tuple[str, ...] = ()

    def check(self, target: str) -> None:
        """Raise `InputError` for a table or figure that this scale is not made for."""
        if self.targets and target not in self.targets:
            raise InputError(
                f"{target} has no scale {self.name}, which is made for {', '.join(self.targets)}"
            )


def _one_cycle(recipe: Recipe, epochs: int, rate: float) -> Recipe:
    """Return a recipe with a schedule for few epochs; Adam keeps the paper's highest rate."""
    return replace(
        recipe,
        epochs=epochs,
        schedule="one-cycle",
        learning_rate=rate if recipe.optimizer == "sgd" else recipe.learning_rate,
        nesterov=recipe.optimizer == "sgd",
    )


def _short(recipe: Recipe) -> Recipe:
    return _one_cycle(recipe, SHORT_EPOCHS, recipe.learning_rate)


def _reduced(recipe: Recipe) -> Recipe:
    """Shrink a training to well under a minute on two cores, to compare heads and parameters.

    Every head gets the same images and epochs. Strides leave a feature map of 8 x 8 places for
    CIFAR-10 and 12 x 12 for digits, patches of 3 x 3 places 36 and 100 patches.
    """
    digits = recipe.data == "digits"
    strided = {"resnet18": (1, 6), "vgg11_bn": (1, 3)}[recipe.backbone]
    small = replace(
        recipe,
        in_channels=1 if digits else 3,
        limit_images=3000 if digits else 6000,
        crop_padding=4 if digits else 2,
        horizontal_flip=not digits,
        width=0.25,
        strided_layers=() if recipe.head == "baseline" else strided,
        patch_kernel=3,
        patch_stride=1,
        batch_size=32 if digits else 64,
    )
    return _one_cycle(small, 5 if digits else 6, 0.05)


def _smoke(recipe: Recipe) -> Recipe:
    """Shrink everything, so that all tables take a minute; the figures mean nothing."""
    strided = recipe.strided_layers
    if recipe.image_size is None and recipe.head != "baseline":
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


SCALES: dict[str, Scale] = {
    "smoke": Scale("smoke", "tiny networks and data; the figures mean nothing", 1, _smoke),
    "reduced": Scale(
        "reduced",
        "a quarter of the width, and few images and epochs, the same for every head",
        3,
        _reduced,
        ("table2", "table6"),
    ),
    "short": Scale(
        "short",
        f"the paper's networks and data, {SHORT_EPOCHS} epochs of a one-cycle schedule each",
        1,
        _short,
    ),
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
