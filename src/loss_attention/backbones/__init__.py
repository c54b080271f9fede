"""Networks from images to feature maps: what one must be, those known by name, and one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.foreign import ForeignBackbone
from loss_attention.backbones.layers import Layered
from loss_attention.backbones.levels import Features, Normalisation, joined
from loss_attention.backbones.paper import (
    BASIC,
    BOTTLENECK,
    VGG11_WIDTHS,
    VGG16_WIDTHS,
    WIDE_BOTTLENECK,
    PaperBackbone,
    googlenet,
    reduced,
    resnet,
    vgg,
)
from loss_attention.backbones.receptive_field import ReceptiveField, receptive_field
from loss_attention.errors import InputError, quoted, reason, unknown_name
from loss_attention.model_spec import CUSTOM, HUGGING_FACE, TIMM, ModelSpec

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneEntry",
    "Features",
    "Normalisation",
    "OwnBackbone",
    "as_backbone",
    "build_backbone",
    "completed",
    "joined",
    "joined_level",
    "map_shape",
]


@runtime_checkable
class Backbone(Protocol):
    """What a model stands on: any `nn.Module` that has these four attributes.

    Cell (i, j) of the map should stand for the pixels around `stride * i` and `stride * j`, as in a
    network that pads its convolutions: patches are drawn there.

    One of several levels also has `level_channels` and `level_strides`, from the finest level to
    the coarsest: `channels` is then their sum, `stride` that of the level they are joined at
    (`joined`, `joined_level`), and it returns a tuple of maps.
    """

    @property
    def channels(self) -> int:
        """D, features of each cell of the map."""

    @property
    def stride(self) -> int:
        """Pixels of the image between neighbouring cells."""

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Which pixels each cell depends on; None: all of them, or unknown."""

    @property
    def normalisation(self) -> Normalisation | None:
        """What its weights were trained with; None: they take the training set's."""

    def __call__(self, images: Float[Tensor, "B C H W"], /) -> Features:
        """Return the feature map of a batch of normalised images, or those of its levels."""


def joined_level(backbone: Backbone) -> int:
    """Return the index of the level that a backbone's maps are joined at; 0 where it has one."""
    strides: tuple[int, ...] = getattr(backbone, "level_strides", ())
    return strides.index(backbone.stride) if strides else 0


class OwnBackbone(Layered):
    """A module of a user's, with what a `Backbone` has to say of itself found out.

    Args:
        network: from images to a feature map. A `receptive_field` or `normalisation` that it has is
            believed; channels and stride are those of the maps that it makes.
        in_channels: channels of the images.

    Raises:
        InputError: it makes no feature map that grows with the image.
    """

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.network = network
        field = getattr(network, "receptive_field", None) or receptive_field(network)
        self.receptive_field: ReceptiveField | None = field
        self.normalisation: Normalisation | None = getattr(network, "normalisation", None)
        small, large = (map_shape(network, in_channels, side, side) for side in PROBES)
        self.channels = small[1]
        cells = large[2] - small[2]
        self.stride = round((PROBES[1] - PROBES[0]) / cells) if cells > 0 else 0
        if self.stride < 1:
            raise InputError(
                "a backbone's map must grow with the image, a cell for so many pixels; this one "
                f"makes {small[2]} cells of {PROBES[0]} pixels and {large[2]} of {PROBES[1]}"
            )

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the network."""
        return [[self.network]]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the feature map of a batch of normalised images."""
        features: Tensor = self.network(images)
        return features


PROBES = (64, 128)
"""Sides of the images whose maps tell channels and stride."""


@torch.inference_mode()
def map_shape(network: nn.Module, in_channels: int, height: int, width: int) -> torch.Size:
    """Return the shape `(1, D, h, w)` of the map that a network makes of an image.

    Raises:
        InputError: it makes no feature map of it.
    """
    like = next(network.parameters(), torch.empty(0, device="cpu"))
    in_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.device(like.device):
            features = network(torch.zeros(1, in_channels, height, width, dtype=like.dtype))
        if isinstance(network, ForeignBackbone):
            features = joined(features, joined_level(network))
    except Exception as error:  # whatever a network of a user's raises
        raise InputError(
            f"the backbone fails on an image of {in_channels} x {height} x {width} "
            f"({reason(error)})"
        ) from error
    finally:
        for module in in_training:
            module.training = True
    if not isinstance(features, Tensor) or features.ndim != 4:
        made = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"a backbone returns a feature map (B, D, h, w); this one returns {made}")
    return features.shape


def as_backbone(network: nn.Module, in_channels: int) -> Backbone:
    """Return a module as it is where it is a `Backbone`, else as an `OwnBackbone`.

    Raises:
        InputError: it makes no feature map that grows with the image.
    """
    return network if isinstance(network, Backbone) else OwnBackbone(network, in_channels)


# The patch layers are made for as many; wider maps are reduced to it.
FEATURE_CHANNELS = 512


@dataclass(frozen=True)
class BackboneEntry:
    """How to build a backbone, and where the paper's way of naming lets it stride.

    Attributes:
        network: from a model's spec to the network as published but for its pooling and strides,
            which it has when `pooled`.
        strideable: 1-based indices of the convolutional layers that may have stride 2.
    """

    network: Callable[..., PaperBackbone]
    strideable: tuple[int, ...]

    def build(self, spec: ModelSpec, *, pooled: bool = False) -> PaperBackbone:
        """Build the network, for a baseline (`pooled`) or for patches.

        For patches, a map of more than 512 channels (times `width`) is reduced to these by a
        1 x 1 convolution, so that the patch layers are the same on every backbone.

        Raises:
            InputError: a layer that cannot stride.
        """
        for index in spec.strided_layers:
            if index not in self.strideable:
                raise InputError(
                    f"`strided_layers`: {spec.backbone} cannot stride in layer {quoted(index)}; "
                    f"it can in {', '.join(map(str, self.strideable))}"
                )
        network = self.network(spec, pooled=pooled)
        most = spec.scaled(FEATURE_CHANNELS)
        return network if pooled or network.channels <= most else reduced(network, most)


# A VGG can stride in every convolution; a ResNet in its stem and where a block's shortcut has a
# projection, which then strides too; a GoogLeNet in its stem and in every inception module.
BACKBONES: dict[str, BackboneEntry] = {
    "vgg11_bn": BackboneEntry(partial(vgg, VGG11_WIDTHS, (1, 2, 4, 6, 8)), tuple(range(1, 9))),
    "vgg16_bn": BackboneEntry(partial(vgg, VGG16_WIDTHS, (2, 4, 7, 10, 13)), tuple(range(1, 14))),
    "resnet18": BackboneEntry(partial(resnet, BASIC, (2, 2, 2, 2), (6, 10, 14)), (1, 6, 10, 14)),
    "resnet50": BackboneEntry(
        partial(resnet, BOTTLENECK, (3, 4, 6, 3), (12, 24, 42)), (1, 3, 12, 24, 42)
    ),
    "resnet50_paper": BackboneEntry(
        partial(resnet, WIDE_BOTTLENECK, (3, 4, 6, 3), (11, 23, 41)), (1, 2, 11, 23, 41)
    ),
    "googlenet": BackboneEntry(googlenet, (1, *range(3, 20, 2))),
}


def completed(spec: ModelSpec, revision: str | None = None) -> ModelSpec:
    """Return a spec with what another library, or its hub, knows of the backbone that it names.

    That is the configuration that a model of the hub is built from, and the size of images that the
    weights were trained with, where none is given.

    Args:
        spec: names the backbone.
        revision: branch, tag or commit of the hub's repository.

    Raises:
        InputError: an unknown name, a network that makes no feature maps, or a hub that does not
            give its configuration.
    """
    if spec.backbone.startswith(HUGGING_FACE):
        from loss_attention.backbones import from_hugging_face

        text = spec.backbone_config or from_hugging_face.configuration_of(spec.backbone, revision)
        size = spec.image_size or from_hugging_face.plan_for(text).native
        return replace(spec, backbone_config=text, image_size=size)
    if spec.backbone.startswith(TIMM):
        from loss_attention.backbones import from_timm

        return replace(spec, image_size=spec.image_size or from_timm.native_size(spec.backbone))
    return spec


def build_backbone(spec: ModelSpec, *, pooled: bool = False) -> Backbone:
    """Build the backbone that a spec names, for a baseline (`pooled`) or for patches.

    Raises:
        InputError: an unknown name, with the nearest known one, or a layer that cannot stride.
    """
    if spec.backbone == CUSTOM:
        raise InputError(
            f"the backbone {CUSTOM!r} is a module of your own: give create_model the module itself"
        )
    if spec.backbone.startswith(TIMM):
        from loss_attention.backbones.from_timm import timm_backbone

        return timm_backbone(spec)
    if spec.backbone.startswith(HUGGING_FACE):
        from loss_attention.backbones.from_hugging_face import hugging_face_backbone

        return hugging_face_backbone(spec)
    if spec.backbone not in BACKBONES:
        raise unknown_name("backbone", spec.backbone[:100], BACKBONES)
    return BACKBONES[spec.backbone].build(spec, pooled=pooled)
