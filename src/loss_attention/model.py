"""Backbone and head made one: `create_model`, explaining, and weights saved and loaded.

What callers give as images is taken where it can mean but one thing, and what a file of weights
claims to hold is compared with what it does before memory is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from loss_attention.backbones import (
    Backbone,
    Features,
    as_backbone,
    build_backbone,
    completed,
)
from loss_attention.backbones.foreign import ForeignBackbone, WantedWeights
from loss_attention.backbones.layers import Layered
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.backbones.weights import check_finite
from loss_attention.errors import InputError, guarded, printable, quoted, reason
from loss_attention.explanation import (
    Explanation,
    Target,
    explain_prediction,
    explained_class,
)
from loss_attention.heads import centres, check_patch_fits, head_entry, smallest_image
from loss_attention.heads.capsules import RoutingHead
from loss_attention.heads.patches import PatchLayout
from loss_attention.memory import free_memory
from loss_attention.model_spec import CUSTOM, KIND, ModelSpec
from loss_attention.prediction import ImagePrediction, MapName
from loss_attention.saving import EXPORT_FORMATS, METADATA_KEY, WEIGHTS_FILE, check_file
from loss_attention.tiling import BATCH_SIZE, OVERLAP, Progress, Tiles, predict_in_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Picture = Tensor | NDArray[Any] | Image.Image
    Pictures = Picture | Sequence[Picture]
else:  # what is none of these meets the messages below
    Pictures = Any

FORMAT_VERSION = 1
_ROUNDING = 1 / 255
"""How far floating-point images may leave [0, 1], as resizing and number formats have it."""


class PatchClassifier(
    Layered,
    PyTorchModelHubMixin,
    library_name="loss-attention",
    license="apache-2.0",
    tags=["image-classification", "interpretability"],
):
    """An image classifier made of a backbone and a head, both modules; `create_model` makes them.

    Args:
        backbone: from images to a feature map.
        head: from a feature map and the images' height and width to a prediction. One that has
            patches says in its `layout` how they lie on the map.
        spec: what it was made from, kept with the weights.

    Attributes:
        class_names: name of each class; "0", "1", ... where none were given.
        image_size: height and width in pixels that it was trained at, or None.
        resize: how images of another shape were brought to that size.
        multi_label: its probabilities are sigmoids. So they are with dynamic routing, where they
            are also the lengths of the class capsules.
        competing: a softmax decides. It does not with several labels or one-vs-rest: each class is
            then decided by itself.

    Raises:
        ValueError: a backbone that does not say what a `Backbone` has to.

    Example:
        >>> from loss_attention.backbones import as_backbone
        >>> from loss_attention.heads import HEADS
        >>> spec = ModelSpec(backbone="custom", num_classes=2, patch_kernel=3, patch_stride=4)
        >>> backbone = as_backbone(nn.Conv2d(3, 8, 5, stride=2, padding=2), in_channels=3)
        >>> model = PatchClassifier(backbone, HEADS["mean"].build(backbone, spec), spec)
        >>> model.receptive_field
        ReceptiveField(size=9, stride=8, offset=-2)
    """

    backbone: Any  # a `Backbone` and an `nn.Module`: Python has no type for both at once

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        for name in ("channels", "stride", "receptive_field", "normalisation"):
            if not hasattr(backbone, name):
                raise InputError(
                    f"the backbone lacks {name!r}: a module needs what `backbones.Backbone` names; "
                    "create_model(module) finds it out"
                )
        self.spec = spec
        self.class_names = spec.class_names or tuple(map(str, range(spec.num_classes)))
        self.image_size = spec.image_size
        self.multi_label = spec.multi_label
        self.resize = spec.resize
        self.register_buffer("mean", torch.full((spec.in_channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((spec.in_channels, 1, 1), 0.25))
        if backbone.normalisation is not None:
            channels = len(backbone.normalisation.mean)
            if channels != spec.in_channels:
                grey = "; grey images are then converted" if channels == 3 else ""
                raise InputError(
                    f"`in_channels` must be {channels}, as the backbone's images have{grey}"
                )
            self.set_normalisation(*map(torch.tensor, backbone.normalisation))
        self.backbone = backbone
        self.head = head
        self._hub_mixin_config = self.config

    @property
    def competing(self) -> bool:
        """Whether a softmax decides; see `ModelSpec.competing`."""
        return not self.multi_label and self.spec.competing

    @property
    def config(self) -> dict[str, Any]:
        """The spec as plain values that JSON can hold."""
        return self.spec.to_dict()

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the backbone and the head."""
        return [list(self.children())]

    def forward(self, images: Shaped[Tensor, "B C H W"]) -> ImagePrediction:
        """Classify images.

        Args:
            images: shape `(B, C, H, W)`, uint8 in 0..255 or floating point in [0, 1]. They are
                normalised inside, with the training set's mean and standard deviation.

        Returns:
            A `PatchPrediction`, a `CapsulePrediction` or `RoutedPrediction` for the capsule heads,
            or an `ImagePrediction` without patches for the baseline head.

        Raises:
            ValueError: another number of channels, another type, images smaller than one patch,
                or of another size than a routing head was made for.
        """
        return self.decide(self.features(images), (images.shape[2], images.shape[3]))

    def features(self, images: Shaped[Tensor, "B C H W"]) -> Features:
        """Return what the backbone makes of images, as for `forward`, and the head decides by.

        Returns:
            A map `(B, D, h, w)`, or a tuple of one for each level, from the finest to the coarsest.

        Raises:
            ValueError: as for `forward`.
        """
        if images.ndim != 4 or images.shape[1] != self.mean.shape[0]:
            raise InputError(
                f"images must have shape (B, {self.mean.shape[0]}, H, W), got {tuple(images.shape)}"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(f"images must be uint8 or floating point, got {images.dtype}")
        self.check_image_size(images.shape[2], images.shape[3])
        scaled = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            scaled = scaled / 255
        features: Features = self.backbone((scaled - self.mean) / self.std)
        return features

    def decide(self, features: Features, image_size: tuple[int, int]) -> ImagePrediction:
        """Return the prediction for features of images of `(height, width)` pixels."""
        prediction: ImagePrediction = self.head(features, image_size)
        return prediction

    @torch.inference_mode()
    def explain(
        self,
        images: Pictures,
        target: Target | None = None,
        *,
        map: MapName | None = None,
        versus: Target | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> Explanation:
        """Classify images and show where the evidence lies, in one forward pass.

        Batch norm uses its running statistics, and every module's mode is left as it was. Values
        are checked here, which on a GPU waits for them, and not in `forward`.

        Args:
            images: as for `forward`, or NumPy arrays and PIL images, one or several; an array may
                have its channels last (see `as_images`). None is resized.
            target: the class to explain, by index or name, one for all or one an image; None: the
                predicted class.
            map: what the heat maps show: "margin", "contrast" or "evidence". None: the margin, or
                the evidence where each class is decided by itself.
            versus: a class, likewise, to show the evidence for the target against.
            tile: side in pixels of the tiles that large photos are seen in; None: at once. All
                patches are weighed together: the evidence of the whole photo is its logits.
            overlap: the least fraction of a tile that its neighbour sees too, in [0, 1).
            batch_size: tiles at a time.
            progress: called with the number of tiles done and of all.

        Raises:
            ValueError: images of another shape, type or range (NaN, floats in 0..255); a target
                outside the classes, or a name that none has; a baseline head, which has no
                evidence; a map that the model does not have; `versus` the explained class itself;
                with `tile`, also what `predict_in_tiles` says.
        """
        tiles = None if tile is None else Tiles(tile=tile, overlap=overlap)
        images = as_images(images, self.mean.shape[0], self.mean.device)
        target, versus = (self._classes(one, images) for one in (target, versus))
        # Module by module: a frozen batch norm inside a model in training stays frozen.
        in_training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            prediction = (
                self(images)
                if tiles is None
                else predict_in_tiles(self, images, tiles, batch_size=batch_size, progress=progress)
            )
            found = explain_prediction(
                prediction, target, competing=self.competing, map=map, versus=versus
            )
            return replace(found, images=images, class_names=self.class_names)
        finally:
            for module in in_training:
                module.training = True

    def _classes(self, named: Target | None, images: Tensor) -> Int[Tensor, " B"] | None:
        """Return the indices of classes given by index or name; None for none."""
        if named is None:
            return None
        count, names = self.spec.num_classes, self.class_names
        return explained_class(named, len(images), count, images.device, names)

    def set_normalisation(self, mean: Float[Tensor, " C"], std: Float[Tensor, " C"]) -> None:
        """Set the mean and standard deviation of each channel, in units of [0, 1] images."""
        self.mean.copy_(mean.reshape(-1, 1, 1))
        self.std.copy_(std.clamp(min=1e-3).reshape(-1, 1, 1))

    @property
    def smallest_image(self) -> int:
        """The smallest height and width in pixels that hold one patch."""
        return 1 if self._layout is None else smallest_image(self._layout)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Which pixels each patch depends on, more than its window.

        None for a baseline, and where it is unknown of the backbone.
        """
        field, layout = self.backbone.receptive_field, self._layout
        return (
            None if field is None or layout is None else field.after(layout.kernel, layout.stride)
        )

    @property
    def _layout(self) -> PatchLayout | None:
        return getattr(self.head, "layout", None)

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` for images smaller than one patch, or of a size that is not theirs.

        A head with parameters for each position takes images of the size it was made for alone, and
        a backbone may take certain sizes.
        """
        if isinstance(self.backbone, ForeignBackbone):
            self.backbone.check_image_size(height, width)
        if self._layout is not None:
            check_patch_fits(self._layout, height, width)
        if isinstance(self.head, RoutingHead) and (height, width) != self.image_size:
            made_for = " x ".join(map(str, self.image_size or ()))
            raise InputError(
                f"a model with the head {self.spec.head} takes images of the size that it was made "
                f"for, {made_for} pixels, got {height} x {width}"
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
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        map_location: str = "cpu",
        **options: Any,
    ) -> PatchClassifier:
        # Not the mixin's own reader, which builds what a file claims, and reads pickles too.
        module = options.pop("backbone", None)
        known = ModelSpec.__dataclass_fields__.keys() & options.keys()
        changes = {**(config or {}), **{name: options.pop(name) for name in known}}
        path = Path(model_id)
        path = path / WEIGHTS_FILE if path.is_dir() else _downloaded(model_id, **options)
        module = module if isinstance(module, nn.Module) else None
        return _load_file(path, module, **changes).to(map_location)


def create_model(
    backbone: str | nn.Module | ModelSpec = "resnet18",
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    revision: str | None = None,
    **options: Any,
) -> PatchClassifier:
    """Build an untrained classifier (the paper's Section IV), its backbone pretrained or not.

    Args:
        backbone: the name of a network (`ModelSpec.backbone`); or a module of your own from images
            to a feature map (see `backbones.Backbone`), which is made part of the model as it is;
            or a whole spec.
        pretrained: take the backbone's weights from the Hugging Face hub; `timm/` and `hf/` only.
        weights: take them from a file, safetensors or what `torch.save` wrote of tensors.
        revision: branch, tag or commit of the hub's repository; None: its main branch. What was
            loaded is in `model.backbone.weights`.
        options: fields of `ModelSpec`: `head`, `num_classes`, `in_channels`, `width`,
            `strided_layers`, `patch_kernel`, `patch_stride`, `threshold`, `centre`, `class_names`,
            `image_size`, `multi_label`, `one_vs_rest`, `resize`. The head `capsule-dynamic-routing`
            needs `image_size` and is trained with `margin_loss`; `baseline` is the published
            network as it is, without patches: `strided_layers` come on top of its own strides and
            pooling.

    Returns:
        A module from images `(B, C, H, W)` to a `PatchPrediction`; the capsule heads return a
        `CapsulePrediction` and a `RoutedPrediction`, the baseline an `ImagePrediction`.

    Raises:
        ValueError: an unknown name (with the nearest known one), a value out of its range, a
            model that would not fit in the free memory, or weights that are not to be had or are
            another network's.

    Example:
        >>> model = create_model("vgg11_bn", width=0.125, in_channels=1)
        >>> model(torch.zeros(2, 1, 32, 32)).grid.patches
        36
    """
    own: Backbone | None = None
    if isinstance(backbone, ModelSpec):
        spec = replace(backbone, **options)
    elif isinstance(backbone, nn.Module):
        spec = ModelSpec(backbone=CUSTOM, **options)
        own = as_backbone(backbone, spec.in_channels)
    else:
        spec = ModelSpec(backbone=backbone, **options)
    wanted = WantedWeights(pretrained, weights, revision)
    wanted.check(spec)
    spec = completed(spec, revision)
    _check_memory(_outline(spec, own))
    model = _build(spec, own)
    wanted.load_into(model.backbone)
    return model


def _check_memory(model: PatchClassifier) -> None:
    """Raise `InputError` where what a model has on the meta device does not fit in memory."""
    needed, free = _missing_bytes(model), free_memory()
    if needed > free:
        raise InputError(
            f"a model of these sizes takes {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of "
            "memory are free"
        )


def _build(spec: ModelSpec, own: Backbone | None) -> PatchClassifier:
    """Build what a spec names, on a backbone of the caller's own where it names none."""
    entry, spec = head_entry(spec.head), replace(spec, centre=centres(spec))
    backbone = own or build_backbone(spec, pooled=entry.pooled_backbone)
    return PatchClassifier(backbone, entry.build(backbone, spec), spec)


def _outline(spec: ModelSpec, own: Backbone | None) -> PatchClassifier:
    """Build a model without memory for its weights, which have shapes alone.

    Raises:
        InputError: an argument out of its range, or sizes that no tensor can have.
    """
    try:
        with torch.device("meta"):
            return _build(spec, own)
    except (OverflowError, RuntimeError) as error:
        raise InputError("a model of these sizes has more weights than can be counted") from error


def _missing_bytes(model: PatchClassifier) -> int:
    tensors = [*model.state_dict().values(), *_unsaved_buffers(model)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.is_meta)


def load(source: str | Path, backbone: nn.Module | None = None) -> PatchClassifier:
    """Load a trained model, in evaluation mode, on the CPU.

    Args:
        source: a run folder, a `.safetensors` file that training saved, a folder that
            `save_pretrained` wrote, or the Hugging Face hub id of one.
        backbone: of a model that was built on a module of your own, that module, built again: it
            becomes part of the model, with the weights of the file.

    Raises:
        ValueError: nothing there, a file that is truncated, from a newer version, or not ours; one
            whose weights are not those of the model it names, or not finite; one that names no
            backbone, without `backbone`.
    """
    with guarded(printable(str(source))):
        path = Path(source)
        if path.is_dir():
            run, path = path, path / WEIGHTS_FILE
            if path.is_file() and (run / "recipe.yaml").is_file():
                check_file(path)
        if path.is_file():
            return _load_file(path, backbone)
        if path.parent.is_dir() and path.name == WEIGHTS_FILE:
            raise InputError(f"{path.parent} holds no {WEIGHTS_FILE}; is it a run folder?")
        return _load_file(_downloaded(str(source)), backbone)


def _downloaded(model_id: str, **options: Any) -> Path:
    try:
        return Path(hf_hub_download(model_id, WEIGHTS_FILE, **options))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, malformed
        raise InputError(
            f"{quoted(model_id)} is neither a run folder or .safetensors file here nor a model "
            f"that the Hugging Face hub would give ({type(error).__name__})"
        ) from error


def _load_file(path: Path, module: nn.Module | None, **changes: Any) -> PatchClassifier:
    """Load weights into the model that their file names, or one with some arguments changed."""
    name = printable(str(path))
    config = {**read_config(path), **changes}
    if KIND in config:
        raise InputError(f"{name} holds a classifier of {quoted(config[KIND])}, not of images")
    if module is not None:
        config["backbone"] = CUSTOM
    elif config.get("backbone") == CUSTOM:
        raise InputError(
            f"{name} holds a model on a backbone of its maker's own, which no file can name: "
            "load(path, backbone=module) with that module, built again"
        )
    try:
        spec = ModelSpec.from_dict(config)
        own = None if module is None else as_backbone(module, spec.in_channels)
        model = _outline(spec, own)
    except InputError as error:
        raise InputError(f"{name} names a model unknown to this version: {error}") from error
    weights = read_weights(path, model.state_dict())
    if any(buffer.is_meta for buffer in _unsaved_buffers(model)):
        _check_memory(model)
        with torch.random.fork_rng(devices=[]):  # its own weights are random, and not wanted
            model = _build(spec, own)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _unsaved_buffers(model: nn.Module) -> list[Tensor]:
    """Return what networks of other libraries compute when they are built, and files lack."""
    saved = model.state_dict().keys()
    return [buffer for name, buffer in model.named_buffers() if name not in saved]


def read_config(path: Path) -> dict[str, Any]:
    """Return the arguments of the model that a file names in its metadata, not yet checked.

    Raises:
        InputError: a file that is truncated, damaged, from a newer version, or not ours.
    """
    name = printable(str(path))
    metadata = _opened(path).metadata() or {}
    if METADATA_KEY not in metadata:
        raise InputError(f"{name} was not saved by loss-attention: its metadata lacks the model")
    try:
        description = json.loads(metadata[METADATA_KEY])
        version, config = description["format_version"], description["config"]
        if type(version) is not int or version < 1 or not isinstance(config, dict):
            raise ValueError(f"format_version {quoted(version)}, config {quoted(config)}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the metadata of {name} is damaged ({reason(error)})") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{name} is of format {version}, this version reads up to {FORMAT_VERSION}: "
            "upgrade loss-attention"
        )
    return config


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Args:
        path: the file.
        expected: their names, shapes and types, on the meta device: the file's header is compared
            with these first.

    Raises:
        InputError: a file that is truncated or holds others, or values that are not finite.
    """
    name = printable(str(path))
    file = _opened(path)
    difference = _difference(file, expected)
    if difference is not None:
        raise InputError(f"the weights in {name} are not those of the model it names: {difference}")
    # Copies: what the file gives is its own mapped memory, which ends where it is truncated.
    tensors: dict[str, Tensor] = {
        key: file.get_tensor(key).to(tensor.dtype, copy=True) for key, tensor in expected.items()
    }
    check_finite(tensors, path)
    return tensors


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        name = printable(str(path))
        if path.suffix.lower() in EXPORT_FORMATS:
            raise InputError(
                f"{name} is an exported file, which `predict` and ExportedModel run: give the "
                f"run's folder, or the {WEIGHTS_FILE} in it"
            ) from error
        raise InputError(f"{name} is truncated or no safetensors file ({reason(error)})") from error


def _difference(file: Any, expected: Mapping[str, Tensor]) -> str | None:
    """Say what a file's header has other than a model's weights; None: nothing."""
    names = set(file.keys())
    for name in sorted(names ^ set(expected)):
        return f"{quoted(name)} is {'too many' if name in names else 'missing'}"
    for name, tensor in expected.items():
        header = file.get_slice(name)
        shape, kind = tuple(header.get_shape()), header.get_dtype()
        if shape != tensor.shape:
            return f"{name} has the shape {quoted(shape)}, not {tuple(tensor.shape)}"
        if kind.startswith(("F", "BF")) != tensor.is_floating_point():
            return f"{name} has the type {kind}"
    return None


def as_images(images: Pictures, channels: int, device: torch.device) -> Tensor:
    """Return images as the tensor `(B, C, H, W)` that a model takes, of the values given.

    Args:
        images: a tensor, a NumPy array or a PIL image, or several of one size in a list. Tensors
            and arrays are `(B, C, H, W)`, or `(B, H, W, C)`, without B for one image, and without C
            for grey ones, where that can be told by the number of channels; uint8 in 0..255 or
            floating point in [0, 1]. PIL images of any mode are turned upright and converted.
        channels: C of the model.
        device: of the model, where arrays and PIL images go.

    Raises:
        InputError: what has no such layout or could have two, holds other values (NaN, floats in
            0..255, normalised images, integers of other types), or is not an image at all.
    """
    if isinstance(images, (list, tuple)):
        parts = [as_images(image, channels, device) for image in images]
        if not parts:
            raise InputError("there are no images")
        if len({part.shape[2:] for part in parts}) > 1 or len({part.dtype for part in parts}) > 1:
            raise InputError("images given in a list must all have one size and type of numbers")
        return torch.cat(parts)
    array = not isinstance(images, Tensor)
    if not isinstance(images, Tensor):
        images = torch.from_numpy(_pixels(images, channels)).to(device)
    images = _laid_out(images, channels, array=array)
    if images.device != device:
        raise InputError(f"images are on {images.device}, the model is on {device}")
    _check_values(images)
    return images


def _pixels(image: Any, channels: int) -> NDArray[Any]:
    """Return an array that torch takes, of a NumPy array or a PIL image."""
    from PIL import Image

    if isinstance(image, Image.Image):
        from loss_attention.data.decoding import upright

        return np.array(upright(image, channels), np.uint8)
    if not isinstance(image, (np.ndarray, np.generic)):
        raise InputError(
            "images must be a tensor, a NumPy array, PIL images or a list of these, "
            f"got {type(image).__name__}"
        )
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise InputError(_other_type(image.dtype))
    wanted = image.dtype if image.dtype.itemsize <= 8 else np.dtype(np.float64)
    # A copy: torch takes neither foreign byte orders nor steps backwards nor what is read-only.
    return np.array(image, wanted.newbyteorder("="), order="C")


def _laid_out(images: Tensor, channels: int, *, array: bool) -> Tensor:
    """Return images as `(B, C, H, W)`, if their shape can mean but one thing.

    A tensor has channels before rows by torch's convention, so one that may is taken so.
    """
    shape = tuple(images.shape)
    first = len(shape) in (3, 4) and shape[-3] == channels
    last = len(shape) in (3, 4) and shape[-1] == channels
    if first and last and array and not (shape[-1] == shape[-3] == 1):
        raise InputError(
            f"images of shape {shape} may have their channels first or last; give (B, C, H, W) as "
            "a tensor"
        )
    if first:
        return images if len(shape) == 4 else images.unsqueeze(0)
    if last:
        return images.movedim(-1, -3) if len(shape) == 4 else images.movedim(-1, 0).unsqueeze(0)
    if channels == 1 and len(shape) in (2, 3):  # grey, one or many
        return images.reshape(-1, 1, *shape[-2:])
    raise InputError(
        f"images must have shape (B, {channels}, H, W) or (B, H, W, {channels}), or that of one "
        f"image without B, got {shape}"
    )


def _check_values(images: Tensor) -> None:
    """Refuse values that a model would make nonsense of. On a GPU, this waits for it."""
    if images.numel() == 0:
        raise InputError(f"there are no images in a batch of shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise InputError(_other_type(images.dtype))
    low, high = (float(value) for value in images.detach().aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("images hold NaN or infinite values; they must be in [0, 1]")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"floating-point images must be in [0, 1], these are in [{low:.4g}, {high:.4g}]; "
            "divide by 255 or give uint8, and leave normalising to the model"
        )


def _other_type(dtype: object) -> str:
    return (
        f"images must be uint8 in 0..255 or floating point in [0, 1], got {dtype}; convert them, "
        "as with .astype('uint8') or .to(torch.uint8)"
    )
