"""Named, complete, typed configurations. A recipe is a function; a variant changes a few fields.

Each says what it reached and on what; the scores are in results/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

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

    loss-attention train digits; 32 seconds on two cores with AVX512-BF16, three seeds: accuracy
    0.997, patch F1 0.820, 0.971 of the weight inside the box (results/digits.json).
    """
    return Recipe(
        name="digits",
        data="digits",
        in_channels=1,
        horizontal_flip=False,
        backbone="vgg11_bn",
        width=0.25,
        strided_layers=(1, 3),
        patch_kernel=4,
        patch_stride=1,
        gamma_max=0.5,
        epochs=4,
        batch_size=32,
        learning_rate=0.05,
        nesterov=True,
        schedule="one-cycle",
    )


def multi_digits() -> Recipe:
    """One to four digits in a scene, multi-label (Eq. 10).

    They are smaller than the one of `digits`: so are the windows, and training takes longer.
    """
    return replace(digits(), name="multi-digits", data="multi-digits", patch_kernel=3, epochs=5)


@dataclass(frozen=True)
class PaperData:
    """How the paper treats a data set.

    Attributes:
        image_size: what images are resized to; None: they are 32 x 32 already.
        flip: whether training images are mirrored.
    """

    image_size: int | None = None
    flip: bool = True


PAPER_DATA: dict[str, PaperData] = {
    "cifar10": PaperData(),
    "cifar100": PaperData(),
    "svhn": PaperData(flip=False),
    "tiny-imagenet": PaperData(image_size=64),
    "coco2014": PaperData(image_size=64),
}
STRIDED_AT_64: dict[str, tuple[int, ...]] = {"vgg11_bn": (4,), "resnet18": (6,)}
ADAM_HEADS = ("mean", "capsule-dynamic-routing")
SMALL_BATCH_BACKBONES = ("resnet50", "resnet50_paper")


def paper_recipe(
    data: str,
    backbone: str = "resnet18",
    head: str = "loss-attention",
    optimizer: Literal["sgd", "adam"] | None = None,
) -> Recipe:
    """Return the paper's training of a network (Section V): 200 epochs, reported after the last.

    SGD: rate 0.1, a tenth from epoch 100 and from 150, momentum 0.9, weight decay 5e-4, batches of
    128; ResNet50 0.02 and batches of 48. Adam: see `training/optimisation.py`; the paper names no
    weight decay and no batch size for it, so none and SGD's are taken. Baselines keep the strides
    of their published networks, also at 64 x 64.

    Args:
        data: a name of `PAPER_DATA`.
        backbone: the network under the head.
        head: how patches become a decision.
        optimizer: None: the paper's choice, Adam for mean pooling and dynamic routing.

    Raises:
        InputError: data that is not the paper's.
    """
    if data not in PAPER_DATA:
        raise unknown_name("data set of the paper", data, PAPER_DATA)
    facts = PAPER_DATA[data]
    small = backbone in SMALL_BATCH_BACKBONES
    recipe = Recipe(
        name=f"{data}-{backbone}-{head}",
        data=data,
        image_size=facts.image_size,
        horizontal_flip=facts.flip,
        validation_fraction=0.0,
        backbone=backbone,
        head=head,
        batch_size=48 if small else 128,
        learning_rate=0.02 if small else 0.1,
    )
    if facts.image_size is not None and head != "baseline":
        recipe = replace(recipe, strided_layers=STRIDED_AT_64.get(backbone, ()))
    if optimizer == "adam" or (optimizer is None and head in ADAM_HEADS):
        recipe = with_adam(recipe)
    return recipe


def with_adam(recipe: Recipe) -> Recipe:
    """Return a recipe of the paper with its Adam procedure."""
    return replace(
        recipe, optimizer="adam", schedule="paper-adam", learning_rate=0.003, weight_decay=0.0
    )


def cifar10() -> Recipe:
    """The paper's CIFAR-10 training of the convolutional ResNet18, at full width (Table II)."""
    return replace(paper_recipe("cifar10"), name="cifar10")


def cifar10_adam() -> Recipe:
    """The paper's Adam training, which it gives to mean pooling and dynamic routing."""
    return replace(paper_recipe("cifar10", head="mean"), name="cifar10-adam")


def cifar10_small() -> Recipe:
    """CIFAR-10 on a two-core CPU in minutes: half the channels, three strides, Muon, few epochs.

    loss-attention train cifar10-small; 15 to 19 minutes and 0.880 on two cores with AVX512-BF16,
    three seeds, JPEG re-encoded images (results/cifar10-small.json).
    """
    return Recipe(
        name="cifar10-small",
        data="cifar10",
        crop_padding=2,
        width=0.5,
        strided_layers=(6, 10, 14),
        patch_kernel=1,
        patch_stride=1,
        label_smoothing=0.1,
        epochs=11,
        batch_size=256,
        learning_rate=0.12,
        optimizer="muon",
        nesterov=True,
        schedule="one-cycle",
    )


def cifar10_fast() -> Recipe:
    """CIFAR-10 at full width in as few minutes as a GPU allows; the paper's accuracy is 0.953.

    loss-attention train cifar10-fast --accelerator cuda; not measured yet. Beside it, for as many
    epochs, the paper's training of a network that is not interpretable: loss-attention train
    cifar10 --head baseline --epochs 24.
    """
    return replace(
        cifar10_small(),
        name="cifar10-fast",
        crop_padding=4,
        alternate_flips=True,
        cutout=8,
        width=1.0,
        epochs=24,
        batch_size=512,
        validation_fraction=0.0,  # as in what stands beside it: all 50,000 are trained on
    )


def tiny_imagenet_small() -> Recipe:
    """20 classes of Tiny ImageNet on a two-core CPU, drawn by the seed; every image has a box.

    loss-attention train tiny-imagenet-small --data tiny-imagenet:PATH; 24.5 minutes on two cores
    with AVX2 alone, one seed: accuracy 0.686, EPG 0.804, GT-known Loc (patches) 0.665
    where the best centred box has 0.637 (results/tiny-imagenet.json).
    """
    return Recipe(
        name="tiny-imagenet-small",
        data="tiny-imagenet",
        classes=("20",),
        width=0.25,
        strided_layers=(1, 6),
        patch_kernel=4,
        patch_stride=1,
        threshold=1.0,
        gamma_max=0.5,
        label_smoothing=0.1,
        epochs=12,
        batch_size=128,
        learning_rate=0.12,
        optimizer="muon",
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
        "accuracy 0.997, patch F1 0.820, 0.971 of the weight inside the box",
        f"32 s of training on {TWO_CORES}",
    ),
    "multi-digits": RecipeEntry(
        multi_digits, "one to four digits a scene, multi-label", "not measured", "a CPU"
    ),
    "cifar10": RecipeEntry(
        cifar10, "the paper's CIFAR-10, full width", "not measured", "a GPU; days on a CPU"
    ),
    "cifar10-adam": RecipeEntry(
        cifar10_adam,
        "the paper's Adam training, of mean pooling",
        "not measured",
        "a GPU; days on a CPU",
    ),
    "cifar10-small": RecipeEntry(
        cifar10_small,
        "CIFAR-10 on a CPU",
        "accuracy 0.880 on JPEG re-encoded CIFAR-10",
        f"15 to 19 min of training on {TWO_CORES}",
    ),
    "cifar10-fast": RecipeEntry(
        cifar10_fast,
        "CIFAR-10 at full width in few epochs",
        "not measured",
        "a GPU",
    ),
    "tiny-imagenet-small": RecipeEntry(
        tiny_imagenet_small,
        "20 classes of Tiny ImageNet on a CPU, with boxes",
        "accuracy 0.686, EPG 0.804, GT-known Loc (patches) 0.665",
        "24.5 min of training on two cores with AVX2 alone",
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
