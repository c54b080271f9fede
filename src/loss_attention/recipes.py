"""Named, complete, typed configurations. A recipe is a function; a variant changes a few fields.

Each says what it reached and on what; the figures, one seed each, are in results/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loss_attention.errors import unknown_name
from loss_attention.training.recipe import Recipe


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe and what to expect of it.

    Attributes:
        make: returns the recipe.
        purpose: what it is for.
        expected: the score it reached, or "not measured".
        hardware: where that was, and how long it took.
    """

    make: Callable[[], Recipe]
    purpose: str
    expected: str
    hardware: str


def digits() -> Recipe:
    """Scenes of scanned digits: the demo, and the quickest way to see the method work.

    loss-attention train digits; 46 seconds on two cores with AVX512-BF16, one seed: accuracy 0.998,
    patch F 0.797, 0.960 of the weight inside the box (results/demo.json).
    """
    return Recipe(
        name="digits",
        data="digits",
        in_channels=1,
        horizontal_flip=False,
        backbone="vgg11_bn",
        width=0.25,
        strided_layers=(1, 3),
        patch_kernel=3,
        patch_stride=1,
        gamma_max=0.5,
        epochs=5,
        batch_size=32,
        learning_rate=0.05,
        nesterov=True,
        schedule="one-cycle",
    )


def multi_digits() -> Recipe:
    """One to four digits in a scene, multi-label (Eq. 10)."""
    return replace(digits(), name="multi-digits", data="multi-digits")


def cifar10() -> Recipe:
    """The paper's CIFAR-10 training of the convolutional ResNet18, at full width (Table II)."""
    return Recipe(name="cifar10", data="cifar10")


def cifar10_small() -> Recipe:
    """CIFAR-10 on a two-core CPU in minutes: fewer channels, two strides, few epochs.

    loss-attention train cifar10-small; 18 minutes and 0.866 on two cores with AVX512-BF16, one
    seed, JPEG re-encoded images (results/cifar10-small.json).
    """
    return Recipe(
        name="cifar10-small",
        data="cifar10",
        crop_padding=2,
        width=0.375,
        strided_layers=(6, 10),
        patch_kernel=3,
        patch_stride=1,
        epochs=11,
        batch_size=64,
        learning_rate=0.05,
        nesterov=True,
        schedule="one-cycle",
    )


def folder() -> Recipe:
    """A folder of your own images: give it with --data, and --image-size for unequal ones."""
    return Recipe(
        name="folder",
        data="",
        width=0.25,
        strided_layers=(1, 6),
        patch_kernel=4,
        patch_stride=2,
        epochs=30,
        batch_size=32,
        learning_rate=0.05,
        nesterov=True,
        schedule="one-cycle",
    )


TWO_CORES = "two cores with AVX512-BF16"

RECIPES: dict[str, RecipeEntry] = {
    "digits": RecipeEntry(
        digits,
        "scenes of scanned digits: the demo",
        "accuracy 0.998, patch F 0.797, 0.960 of the weight inside the box",
        f"46 s of training on {TWO_CORES}",
    ),
    "multi-digits": RecipeEntry(
        multi_digits, "one to four digits a scene, multi-label", "not measured", "a CPU"
    ),
    "cifar10": RecipeEntry(
        cifar10, "the paper's CIFAR-10, full width", "not measured", "a GPU; days on a CPU"
    ),
    "cifar10-small": RecipeEntry(
        cifar10_small,
        "CIFAR-10 on a CPU",
        "accuracy 0.866 on JPEG re-encoded CIFAR-10",
        f"18 min of training on {TWO_CORES}",
    ),
    "folder": RecipeEntry(
        folder, "your own images, given with --data", "what your images allow", "a CPU or a GPU"
    ),
}


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name].make()
