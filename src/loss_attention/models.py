"""Backbone + head: `create_model`, and `load` for what training has saved."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from jaxtyping import Float, Shaped
from safetensors.torch import save as serialise
from torch import Tensor, nn

from loss_attention.backbones.catalog import BACKBONES
from loss_attention.backbones.layered import Layered
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.data.memory import free_memory
from loss_attention.data.sample import Resize
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.explanation import Explanation, Target, explain_prediction, explained_class
from loss_attention.heads.catalog import HEADS, HeadOptions
from loss_attention.images import Pictures, as_images
from loss_attention.model_config import check_config
from loss_attention.prediction import ImagePrediction
from loss_attention.saving import check_file
from loss_attention.weights_file import (
    FORMAT_VERSION,
    METADATA_KEY,
    read_config,
    read_weights,
)

WEIGHTS_FILE = "model.safetensors"


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
        check_config(self.config)
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
            or an `ImagePrediction` without patches for the baseline head.

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
    def explain(self, images: Pictures, target: Target | None = None) -> Explanation:
        """Classify images and show where the evidence lies, in one forward pass.

        Batch norm uses its running statistics, and every module's mode is left as it was. Values
        are checked here, which on a GPU waits for them, and not in `forward`.

        Args:
            images: as for `forward`, or NumPy arrays and PIL images, one or several; an array may
                have its channels last (see `images.as_images`). None is resized.
            target: the class to explain, by index or name, one for all or one an image; None: the
                predicted class.

        Raises:
            ValueError: images of another shape, type or range (NaN, floats in 0..255); a target
                outside the classes, or a name that none has; a baseline head, which has no
                evidence.
        """
        images = as_images(images, self.mean.shape[0], self.mean.device)
        if target is not None:
            classes = self.config["num_classes"]
            target = explained_class(target, len(images), classes, images.device, self.class_names)
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> PatchClassifier:
        """Load what `save_pretrained` wrote, as `load` does; `options` are those of the hub.

        Raises:
            ValueError: nothing there, or not ours; see `load`.
        """
        with guarded(printable(str(pretrained_model_name_or_path))):
            return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", **options: Any
    ) -> PatchClassifier:
        # Not the mixin's own reader, which builds what a file claims, and reads pickles too.
        arguments = {name: options.pop(name) for name in [*_ARGUMENTS] if name in options}
        path = Path(model_id)
        path = path / WEIGHTS_FILE if path.is_dir() else _downloaded(model_id, **options)
        return _load_file(path, **arguments).to(map_location)


_ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(PatchClassifier.__init__).parameters.items()
    if name != "self"
}


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
        `CapsulePrediction` and a `RoutedPrediction`, the baseline an `ImagePrediction`.

    Raises:
        ValueError: an unknown name (with the nearest known one), a value out of its range, or a
            model that would not fit in the free memory.

    Example:
        >>> model = create_model("vgg11_bn", width=0.125, in_channels=1)
        >>> model(torch.zeros(2, 1, 32, 32)).grid.patches
        36
    """
    arguments = (
        *(backbone, head, num_classes, in_channels, width, strided_layers, patch_kernel),
        *(patch_stride, threshold, class_names, image_size, multi_label, resize),
    )
    needed, free = _bytes_of(_outline(*arguments)), free_memory()
    if needed > free:
        raise InputError(
            f"a model of these sizes takes {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of "
            "memory are free"
        )
    return PatchClassifier(*arguments)


def _outline(*arguments: Any, **named: Any) -> PatchClassifier:
    """Build a model without memory for its weights, which have shapes alone.

    Raises:
        InputError: an argument out of its range, or sizes that no tensor can have.
    """
    try:
        with torch.device("meta"):
            return PatchClassifier(*arguments, **named)
    except (OverflowError, RuntimeError) as error:
        raise InputError("a model of these sizes has more weights than can be counted") from error


def _bytes_of(model: PatchClassifier) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def load(source: str | Path) -> PatchClassifier:
    """Load a trained model, in evaluation mode, on the CPU.

    Args:
        source: a run folder, a `.safetensors` file that training saved, a folder that
            `save_pretrained` wrote, or the Hugging Face hub id of one.

    Raises:
        ValueError: nothing there, a file that is truncated, from a newer version, or not ours; one
            whose weights are not those of the model it names, or not finite.
    """
    with guarded(printable(str(source))):
        path = Path(source)
        if path.is_dir():
            run, path = path, path / WEIGHTS_FILE
            if path.is_file() and (run / "recipe.yaml").is_file():
                check_file(path)
        if path.is_file():
            return _load_file(path)
        if path.parent.is_dir() and path.name == WEIGHTS_FILE:
            raise InputError(f"{path.parent} holds no {WEIGHTS_FILE}; is it a run folder?")
        return _load_file(_downloaded(str(source)))


def _downloaded(model_id: str, **options: Any) -> Path:
    try:
        return Path(hf_hub_download(model_id, WEIGHTS_FILE, **options))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, malformed
        raise InputError(
            f"{quoted(model_id)} is neither a run folder or .safetensors file here nor a model "
            f"that the Hugging Face hub would give ({type(error).__name__})"
        ) from error


def _load_file(path: Path, **changes: Any) -> PatchClassifier:
    """Load weights into the model that their file names, or one with some arguments changed."""
    config = {**_ARGUMENTS, **read_config(path), **changes}
    try:
        for name in config:
            if name not in _ARGUMENTS:
                raise InputError(f"it has the argument {quoted(name)}")
        check_config(config)
        model = _outline(**config)
    except InputError as error:
        name = printable(str(path))
        raise InputError(f"{name} names a model unknown to this version: {error}") from error
    model.load_state_dict(read_weights(path, model.state_dict()), assign=True)
    return model.eval()
