"""The named recipes. No torch: `--help` is made of it.

Each is a function that returns a complete configuration; a variant changes a few fields, and the
entry says what it reached and on what. The scores are in results/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from loss_attention.errors import InputError, unknown_name
from loss_attention.training.recipe import Recipe


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe and what to expect of it.

    Attributes:
        make: returns the recipe.
        purpose: what it is for.
        expected: the score it reached, or "not measured".
        hardware: the hardware, and how long it took.
    """

    make: Callable[[], Recipe]
    purpose: str
    expected: str
    hardware: str


def digits() -> Recipe:
    """Scenes of scanned digits: the demo, and the quickest way to see the method work.

    loss-attention train digits; 32 seconds on two cores with AVX512-BF16, three seeds: accuracy
    0.997, patch F1 0.820, 0.971 of the weight inside the box (results/digits.json; measured with
    --no-centre).
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
        centre=None,
        gamma_max=0.5,
        epochs=4,
        batch_size=32,
        learning_rate=0.05,
        nesterov=True,
        schedule="one-cycle",
    )


def demo() -> Recipe:
    """The digits recipe, small enough for half a minute on two cores: what the demo trains.

    Chosen on the held-out scenes of three seeds.
    """
    return replace(
        digits(),
        name="demo",
        width=0.125,
        limit_images=3000,
        gamma_max=1.0,
        optimizer="muon",
        learning_rate=0.1,
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
    """The paper's training with Adam, which it uses for mean pooling and dynamic routing."""
    return replace(paper_recipe("cifar10", head="mean"), name="cifar10-adam")


def cifar10_small() -> Recipe:
    """CIFAR-10 on a two-core CPU in minutes: half the channels, three strides, Muon, few epochs.

    loss-attention train cifar10-small; 15 to 19 minutes and 0.880 on two cores with AVX512-BF16,
    three seeds, JPEG re-encoded images (results/cifar10-small.json; measured with --no-centre).
    """
    return Recipe(
        name="cifar10-small",
        data="cifar10",
        crop_padding=2,
        width=0.5,
        strided_layers=(6, 10, 14),
        patch_kernel=1,
        patch_stride=1,
        centre=None,
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

    loss-attention train cifar10-fast --accelerator cuda; 150 seconds of training and 0.917 on one
    NVIDIA H200, one seed, JPEG re-encoded images (results/bench/nvidia-h200.md). Beside it, for as
    many epochs, the paper's training of a network that is not interpretable: loss-attention train
    cifar10 --head baseline --epochs 24; not measured.
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
    with AVX2 alone. Three seeds: accuracy 0.71 (0.67), EPG 0.76 (0.74), GT-known Loc (patches) 0.66
    (0.62) where the best centred box has 0.62 (0.58) (results/tiny-imagenet.json).
    """
    return Recipe(
        name="tiny-imagenet-small",
        data="tiny-imagenet",
        classes=("20",),
        width=0.25,
        strided_layers=(1, 6),
        patch_kernel=4,
        patch_stride=1,
        centre=None,
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
    """A folder of your own images, from scratch: set --data.

    Small sets need many epochs, so its length is in steps; a step weighs rare classes up. Weights
    of the loss are for cross-entropy: with --head capsule-dynamic-routing, set --balance none.
    """
    return Recipe(
        name="folder",
        data="",
        image_size=128,
        crop_padding=8,
        backbone="vgg11_bn",
        width=0.25,
        strided_layers=(1, 2, 3, 5),
        patch_kernel=2,
        patch_stride=1,
        centre=None,
        epochs=0,
        steps=1000,
        batch_size=32,
        learning_rate=0.02,
        optimizer="muon",
        balance="weights",
        nesterov=True,
        schedule="one-cycle",
    )


def photos() -> Recipe:
    """Photos of your own on a frozen ImageNet backbone, in minutes on a CPU: set --data.

    Features of each image and of one changed view of it are computed once; the head trains on them
    in seconds. The weights come from the hub, or from a file with --weights. All training images
    are trained on, as few as they mostly are, and the weights are those of the last epoch. On 547
    photos of magnetic tiles in 3 minutes, three seeds: accuracy 0.969, worst 0.966; PxAP of the
    contrast 0.354, worst 0.332; tested on other tiles than were trained on, accuracy 0.796, worst
    0.790 (results/photos.json).
    """
    return Recipe(
        name="photos",
        data="",
        image_size=320,
        resize="pad",
        backbone="timm/tf_efficientnet_lite0",
        pretrained=True,
        levels=(8, 16, 32),
        feature_stride=16,
        hidden_channels=(512, 512),
        dropout=0.3,
        centre=None,
        frozen=True,
        views=2,
        crop_padding=16,
        balance="weights",
        validation_fraction=0.0,
        gamma_max=0.0,
        epochs=40,
        batch_size=32,
        learning_rate=0.003,
        optimizer="adamw",
        weight_decay=0.05,
        schedule="one-cycle",
        warmup=0.1,
    )


def photos_finetune() -> Recipe:
    """Photos of your own, with an ImageNet backbone that is trained too: set --data.

    Best from the weights of a run with the same backbone frozen (--from), whose head is trained
    already; else the backbone's come from the hub, or from a file with --weights. The rates are
    those that published fine-tunings take: a tenth for the backbone, 0.75 from block to block.
    On the photos of magnetic tiles, begun from the frozen runs, 4.5 minutes more: three seeds,
    accuracy 0.970 each, PxAP of the contrast 0.361, which are not told apart from the frozen
    runs' 0.969 and 0.354 (results/photos.json).
    """
    return replace(
        photos(),
        name="photos-finetune",
        frozen=False,
        views=1,
        epochs=6,
        batch_size=16,
        learning_rate=1e-3,
        backbone_rate=0.1,
        layer_decay=0.75,
        clip_gradients=1.0,
        frozen_statistics=True,
        average_weights=0.99,
    )


TWO_CORES = "two cores with AVX512-BF16"

RECIPES: dict[str, RecipeEntry] = {
    "photos": RecipeEntry(
        photos,
        "your own photos on a frozen ImageNet backbone, set with --data",
        "on photos of magnetic tiles accuracy 0.969, of tiles not trained on 0.796",
        f"3 min for 547 photos on {TWO_CORES}",
    ),
    "photos-finetune": RecipeEntry(
        photos_finetune,
        "your own photos, an ImageNet backbone trained too: --data, and --from a frozen run",
        "on photos of magnetic tiles accuracy 0.970, as with the backbone frozen",
        f"4.5 min for 547 photos on {TWO_CORES}; or a GPU",
    ),
    "folder": RecipeEntry(
        folder,
        "your own images, set with --data, from scratch",
        "on photos of magnetic tiles accuracy 0.878, but a map below an edge detector's",
        "minutes on a CPU for 547 photos; a GPU",
    ),
    "digits": RecipeEntry(
        digits,
        "scenes of scanned digits: the demo",
        "accuracy 0.997, patch F1 0.820, 0.971 of the weight inside the box (with --no-centre)",
        f"32 s of training on {TWO_CORES}",
    ),
    "multi-digits": RecipeEntry(
        multi_digits, "one to four digits per scene, multi-label", "not measured", "a CPU"
    ),
    "cifar10": RecipeEntry(
        cifar10, "the paper's CIFAR-10 at full width", "not measured", "a GPU; days on a CPU"
    ),
    "cifar10-adam": RecipeEntry(
        cifar10_adam,
        "the paper's training with Adam, for mean pooling",
        "not measured",
        "a GPU; days on a CPU",
    ),
    "cifar10-small": RecipeEntry(
        cifar10_small,
        "CIFAR-10 on a CPU",
        "accuracy 0.880 on JPEG re-encoded CIFAR-10 (with --no-centre)",
        f"15 to 19 min of training on {TWO_CORES}",
    ),
    "cifar10-fast": RecipeEntry(
        cifar10_fast,
        "CIFAR-10 at full width in few epochs",
        "accuracy 0.917 on JPEG re-encoded CIFAR-10, one seed",
        "150 s of training on one NVIDIA H200",
    ),
    "tiny-imagenet-small": RecipeEntry(
        tiny_imagenet_small,
        "20 classes of Tiny ImageNet on a CPU, with boxes",
        "accuracy 0.71, EPG 0.76, GT-known Loc (patches) 0.66",
        "24.5 min of training on two cores with AVX2 alone",
    ),
}


OTHERS = ("bags",)
"""Recipes that are of something else than images: `bags/recipe.py`."""


def recipe(name: str) -> Recipe:
    """Return a recipe for images by name.

    Raises:
        InputError: an unknown name, with the nearest known one, or one for something else.
    """
    if name in OTHERS:
        raise InputError(f"the recipe {name} is not for images: `loss-attention train {name}`")
    if name not in RECIPES:
        raise unknown_name("recipe", name, [*RECIPES, *OTHERS])
    return RECIPES[name].make()
