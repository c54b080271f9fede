"""Backbone + head: `create_model`, and `load` for what training has saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from loss_attention.backbones.catalog import BACKBONES
from loss_attention.backbones.layered import Layered
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.data.placement import Resize
from loss_attention.errors import InputError, unknown_name
from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.heads.catalog import HEADS, HeadOptions
from loss_attention.prediction import ImagePrediction

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
METADATA_KEY = "loss-attention"


class PatchClassifier(
    Layered,
    PyTorchModelHubMixin,
    library_name="loss-attention",
    license="apache-2.0",
    tags=["image-classification", "interpretability"],
):
    """An image classifier made of a backbone and a head; see `create_model` for its arguments.

    Attributes:
        config: the arguments it was built from, plain values that JSON can hold.
        class_names: name of each class; "0", "1", ... where none were given.
        image_size: height and width in pixels that it was trained at, or None.
        resize: how images of another shape were brought to that size.
        multi_label: its probabilities are sigmoids. So they are with dynamic routing, where they
            are also the lengths of the class capsules.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "resnet18",
        head: str = "loss-attention",
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        strided_layers: Sequence[int] = (),
        patch_kernel: int = 9,
        patch_stride: int = 4,
        threshold: float = 0.1,
        class_names: Sequence[str] = (),
        image_size: Sequence[int] | None = None,
        multi_label: bool = False,
        resize: Resize = "squash",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "width": width,
            "strided_layers": list(strided_layers),
            "patch_kernel": patch_kernel,
            "patch_stride": patch_stride,
            "threshold": threshold,
            "class_names": list(class_names),
            "image_size": None if image_size is None else list(image_size),
            "multi_label": multi_label,
            "resize": resize,
        }
        _check(self.config)
        entry, head_entry = BACKBONES[backbone], HEADS[head]
        self.class_names = tuple(class_names) or tuple(map(str, range(num_classes)))
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        self.multi_label = multi_label
        self.resize: Resize = resize
        self.register_buffer("mean", torch.full((in_channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((in_channels, 1, 1), 0.25))
        self.backbone = entry.build(
            in_channels, width, tuple(strided_layers), head_entry.pooled_backbone
        )
        if head_entry.fixed_image_size and self.image_size is not None:
            self.check_image_size(*self.image_size)
        options = HeadOptions(
            num_classes, width, patch_kernel, patch_stride, threshold, self.image_size
        )
        self.head = head_entry.build(entry, self.backbone, options)

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the backbone and the head."""
        return [[self.backbone, self.head]]

    def forward(self, images: Shaped[Tensor, "B C H W"]) -> ImagePrediction:
        """Classify images.

        Args:
            images: shape `(B, C, H, W)`, uint8 in 0..255 or floating point in [0, 1]. They are
                normalised inside, with the training set's mean and deviation.

        Returns:
            A `PatchPrediction`, a `CapsulePrediction` or `RoutedPrediction` for the capsule heads,
            or an `ImagePrediction` without patches for the baseline head. Where there are too many
            patch logits to hold (`B * M * K` above 2^25), a `ManyClassPrediction`, which answers
            the same and computes them when asked.

        Raises:
            ValueError: another number of channels, another type, images smaller than one patch,
                or of another size than a routing head was made for.
        """
        if images.ndim != 4 or images.shape[1] != self.mean.shape[0]:
            raise InputError(
                f"images must have shape (B, {self.mean.shape[0]}, H, W), got {tuple(images.shape)}"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(f"images must be uint8 or floating point, got {images.dtype}")
        height, width = images.shape[2:]
        self.check_image_size(height, width)
        scaled = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            scaled = scaled / 255
        prediction: ImagePrediction = self.head(
            self.backbone((scaled - self.mean) / self.std), (height, width)
        )
        return prediction

    @torch.inference_mode()
    def explain(
        self, images: Shaped[Tensor, "B C H W"], target: int | Int[Tensor, " B"] | None = None
    ) -> Explanation:
        """Classify images and show where the evidence lies, in one forward pass.

        Batch norm uses its running statistics, and every module's mode is left as it was.

        Args:
            images: as for `forward`.
            target: the class to explain, one for all or one an image; None: the predicted class.

        Raises:
            ValueError: a baseline head, which has no evidence; a target outside the classes.
        """
        # Module by module: a frozen batch norm inside a model in training stays frozen.
        in_training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            return explain_prediction(self(images), target, multi_label=self.multi_label)
        finally:
            for module in in_training:
                module.training = True

    def set_normalisation(self, mean: Float[Tensor, " C"], std: Float[Tensor, " C"]) -> None:
        """Set the mean and deviation of each channel, in units of [0, 1] images."""
        self.mean.copy_(mean.reshape(-1, 1, 1))
        self.std.copy_(std.clamp(min=1e-3).reshape(-1, 1, 1))

    @property
    def smallest_image(self) -> int:
        """The smallest height and width in pixels that hold one patch."""
        if HEADS[self.config["head"]].pooled_backbone:
            return 1
        # The last of the kernel's places begins so many pixels after the first.
        return (int(self.config["patch_kernel"]) - 1) * self.backbone.stride + 1

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Which pixels each patch depends on, more than its window; None for a baseline."""
        if HEADS[self.config["head"]].pooled_backbone:
            return None
        field = self.backbone.receptive_field
        return field.after(int(self.config["patch_kernel"]), int(self.config["patch_stride"]))

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` for images smaller than one patch, or of a size that is not theirs.

        A head with parameters for each position takes images of the size it was made for alone.
        """
        least = self.smallest_image
        if min(height, width) < least:
            raise InputError(
                f"images of {height} x {width} pixels are smaller than one patch; the smallest "
                f"this model takes is {least} x {least} (a smaller patch_kernel or fewer "
                "strided_layers would lower that)"
            )
        head = self.config["head"]
        if HEADS[head].fixed_image_size and (height, width) != self.image_size:
            made_for = " x ".join(map(str, self.image_size or ()))
            raise InputError(
                f"a model with the head {head} takes images of the size that it was made for, "
                f"{made_for} pixels, got {height} x {width}"
            )

    def to_bytes(self) -> bytes:
        """Return the weights as a safetensors file whose metadata says how to build the model."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        # One entry: safetensors writes several in random order, and equal models give equal bytes.
        description = {"format_version": FORMAT_VERSION, "config": self.config}
        return serialise(tensors, {METADATA_KEY: json.dumps(description)})

    def _save_pretrained(self, save_directory: Path) -> None:
        # Not the mixin's own file, which lacks the metadata that `load` reads.
        (save_directory / WEIGHTS_FILE).write_bytes(self.to_bytes())


def create_model(
    backbone: str = "resnet18",
    *,
    head: str = "loss-attention",
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    strided_layers: Sequence[int] = (),
    patch_kernel: int = 9,
    patch_stride: int = 4,
    threshold: float = 0.1,
    class_names: Sequence[str] = (),
    image_size: Sequence[int] | None = None,
    multi_label: bool = False,
    resize: Resize = "squash",
) -> PatchClassifier:
    """Build an untrained classifier (the paper's Section IV).

    Args:
        backbone: `vgg11_bn`, `vgg16_bn`, `resnet18`, `resnet50`, `resnet50_paper` (the wider
            blocks behind the paper's 58.16 million parameters) or `googlenet`.
        head: `loss-attention`, `capsule-loss-attention`, or what they are compared with: `mean`,
            `attention`, `gated-attention`, `capsule-dynamic-routing` (which needs `image_size` and
            is trained with `margin_loss`), and `baseline` (the published network as it is: no
            patches).
        num_classes: K, at least 1.
        in_channels: channels of the images, 1 for grey, 3 for colour.
        width: factor on the channels of every layer, above 0; 1 is the paper's size.
        strided_layers: 1-based indices of the backbone's convolutional layers that get stride 2,
            counted the paper's way (`loss_attention.backbones.spatial`). In a baseline they come
            on top of the strides and pooling that the published network has.
        patch_kernel: side of a patch, in places of the backbone's feature map.
        patch_stride: step between patches, in places of the feature map.
        threshold: the paper's xi in [0, 1]: patches of a share below `threshold / M` are dropped.
        class_names: kept with the model, for people; none or `num_classes` of them.
        image_size: height and width in pixels that it is meant for, kept with the model. Dynamic
            routing has parameters for each position of a patch and takes no other size.
        multi_label: an image may have several classes; probabilities are sigmoids.
        resize: how images of another shape become `image_size`, squashed or padded ("pad"); kept
            with the model.

    Returns:
        A module from images `(B, C, H, W)` to a `PatchPrediction`; the capsule heads return a
        `CapsulePrediction` and a `RoutedPrediction`, the baseline an `ImagePrediction`. With very
        many classes it is a `ManyClassPrediction`; see `forward`.

    Raises:
        ValueError: an unknown name (with the nearest known one), or a value out of its range.

    Example:
        >>> model = create_model("vgg11_bn", width=0.125, in_channels=1)
        >>> model(torch.zeros(2, 1, 32, 32)).grid.patches
        36
    """
    return PatchClassifier(
        backbone,
        head,
        num_classes,
        in_channels,
        width,
        strided_layers,
        patch_kernel,
        patch_stride,
        threshold,
        class_names,
        image_size,
        multi_label,
        resize,
    )


def load(source: str | Path) -> PatchClassifier:
    """Load a trained model, in evaluation mode, on the CPU.

    Args:
        source: a run folder, a `.safetensors` file that training saved, a folder that
            `save_pretrained` wrote, or the Hugging Face hub id of one.

    Raises:
        ValueError: nothing there, a file that is truncated, from a newer version, or not ours.
    """
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if path.is_file():
        return _load_file(path)
    if path.parent.is_dir() and path.name == WEIGHTS_FILE:
        raise InputError(f"{path.parent} holds no {WEIGHTS_FILE}; is it a run folder?")
    try:
        path = Path(hf_hub_download(str(source), WEIGHTS_FILE))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, malformed
        raise InputError(
            f"{str(source)!r} is neither a run folder or .safetensors file here nor a model that "
            f"the Hugging Face hub would give ({type(error).__name__})"
        ) from error
    return _load_file(path)


def _load_file(path: Path) -> PatchClassifier:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error})") from error
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} was not saved by loss-attention: its metadata lacks the model")
    try:
        description = json.loads(metadata[METADATA_KEY])
        version, config = int(description["format_version"]), dict(description["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the metadata of {path} is damaged ({error!r})") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} is of format {version}, this version reads up to {FORMAT_VERSION}: "
            "upgrade loss-attention"
        )
    try:
        model = create_model(**config)
    except (TypeError, InputError) as error:
        raise InputError(f"{path} names a model unknown to this version: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} are not those of the model it names") from error
    return model.eval()


def _check(config: dict[str, Any]) -> None:
    """Raise `InputError` for the first argument of a model that is out of its range."""
    if config["backbone"] not in BACKBONES:
        raise unknown_name("backbone", config["backbone"], BACKBONES)
    if config["head"] not in HEADS:
        raise unknown_name("head", config["head"], HEADS)
    size = config["image_size"]
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputError(f"image_size must be a height and a width in pixels, got {size}")
    if size is None and HEADS[config["head"]].fixed_image_size:
        raise InputError(
            f"the head {config['head']} needs image_size=(height, width) in pixels: it has "
            "parameters for each position of a patch"
        )
    for name in ("num_classes", "in_channels", "patch_kernel", "patch_stride"):
        if config[name] < 1:
            raise InputError(f"{name} must be at least 1, got {config[name]}")
    if not 0 < config["width"] < math.inf:
        raise InputError(f"width must be above 0 and finite, got {config['width']}")
    if not 0 <= config["threshold"] <= 1:
        raise InputError(f"threshold must be in [0, 1], got {config['threshold']}")
    places = BACKBONES[config["backbone"]].strideable
    for index in config["strided_layers"]:
        if index not in places:
            raise InputError(
                f"strided_layers: {config['backbone']} cannot stride in layer {index}; "
                f"it can in {', '.join(map(str, places))}"
            )
    if config["resize"] not in get_args(Resize):
        raise unknown_name("resize", config["resize"], get_args(Resize))
    if config["class_names"] and len(config["class_names"]) != config["num_classes"]:
        raise InputError(
            f"class_names must name all {config['num_classes']} classes, "
            f"got {len(config['class_names'])}"
        )
