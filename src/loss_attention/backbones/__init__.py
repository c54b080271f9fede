"""The backbones by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from loss_attention.backbones.paper import (
    BASIC,
    BOTTLENECK,
    WIDE_BOTTLENECK,
    Backbone,
    BlockKind,
    InceptionWidths,
    googlenet,
    reduced,
    resnet,
    vgg,
)

# The patch layers are made for as many; wider maps are reduced to it.
FEATURE_CHANNELS = 512

VGG11_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
RESNET_WIDTHS = (64, 128, 256, 512)
GOOGLENET_STEM = 192
GOOGLENET_MODULES = (
    InceptionWidths(64, 96, 128, 16, 32, 32),
    InceptionWidths(128, 128, 192, 32, 96, 64),
    InceptionWidths(192, 96, 208, 16, 48, 64),
    InceptionWidths(160, 112, 224, 24, 64, 64),
    InceptionWidths(128, 128, 256, 24, 64, 64),
    InceptionWidths(112, 144, 288, 32, 64, 64),
    InceptionWidths(256, 160, 320, 32, 128, 128),
    InceptionWidths(256, 160, 320, 32, 128, 128),
    InceptionWidths(384, 192, 384, 48, 128, 128),
)


@dataclass(frozen=True)
class BackboneEntry:
    """How to build a backbone, and where the paper's way of naming lets it stride.

    Attributes:
        network: from `(in_channels, width, strided_layers, pooled)` to the network as published
            but for its pooling and strides, which it has when `pooled`.
        strideable: 1-based indices of the convolutional layers that may have stride 2.
        baseline_hidden: width of the two hidden layers of the published classifier; 0 for a
            network that ends in average pooling and one linear layer.
    """

    network: Callable[[int, float, Sequence[int], bool], Backbone]
    strideable: tuple[int, ...]
    baseline_hidden: int = 0

    def build(
        self, in_channels: int, width: float, strided_layers: Sequence[int], pooled: bool
    ) -> Backbone:
        """Build the network, for a baseline (`pooled`) or for patches.

        For patches, a map of more than 512 channels (times `width`) is reduced to these by a
        1 x 1 convolution, so that the patch layers are the same on every backbone.
        """
        network = self.network(in_channels, width, strided_layers, pooled)
        most = scaled([FEATURE_CHANNELS], width)[0]
        return network if pooled or network.channels <= most else reduced(network, most)


def scaled(channels: Sequence[int], width: float) -> list[int]:
    """Scale channel counts by `width`, rounded, at least 1 each."""
    return [max(1, round(width * count)) for count in channels]


def _vgg(
    widths: Sequence[int],
    pool_after: Sequence[int],
    in_channels: int,
    width: float,
    strided: Sequence[int],
    pooled: bool,
) -> Backbone:
    return vgg(
        scaled(widths, width),
        pool_after,
        in_channels=in_channels,
        strided_layers=strided,
        pooled=pooled,
    )


def _resnet(
    kind: BlockKind,
    blocks: Sequence[int],
    published_strides: Sequence[int],
    in_channels: int,
    width: float,
    strided: Sequence[int],
    pooled: bool,
) -> Backbone:
    return resnet(
        kind,
        scaled(RESNET_WIDTHS, width),
        blocks,
        in_channels=in_channels,
        strided_layers={*strided, *published_strides} if pooled else strided,
    )


def _googlenet(in_channels: int, width: float, strided: Sequence[int], pooled: bool) -> Backbone:
    return googlenet(
        scaled([GOOGLENET_STEM], width)[0],
        [InceptionWidths(*scaled(widths, width)) for widths in GOOGLENET_MODULES],
        pool_before=(2, 7),
        in_channels=in_channels,
        strided_layers=strided,
        pooled=pooled,
    )


# A VGG can stride in every convolution; a ResNet in its stem and where a block's shortcut has a
# projection, which then strides too; a GoogLeNet in its stem and in every inception module.
BACKBONES: dict[str, BackboneEntry] = {
    "vgg11_bn": BackboneEntry(
        partial(_vgg, VGG11_WIDTHS, (1, 2, 4, 6, 8)), tuple(range(1, 9)), baseline_hidden=4096
    ),
    "vgg16_bn": BackboneEntry(
        partial(_vgg, VGG16_WIDTHS, (2, 4, 7, 10, 13)), tuple(range(1, 14)), baseline_hidden=4096
    ),
    "resnet18": BackboneEntry(partial(_resnet, BASIC, (2, 2, 2, 2), (6, 10, 14)), (1, 6, 10, 14)),
    "resnet50": BackboneEntry(
        partial(_resnet, BOTTLENECK, (3, 4, 6, 3), (12, 24, 42)), (1, 3, 12, 24, 42)
    ),
    "resnet50_paper": BackboneEntry(
        partial(_resnet, WIDE_BOTTLENECK, (3, 4, 6, 3), (11, 23, 41)), (1, 2, 11, 23, 41)
    ),
    "googlenet": BackboneEntry(_googlenet, (1, *range(3, 20, 2))),
}
