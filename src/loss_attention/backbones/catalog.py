"""The backbones by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loss_attention.backbones.spatial import Backbone, resnet, vgg

STAGE_WIDTHS = (64, 128, 256, 512)
VGG11_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
VGG11_POOLS = (1, 2, 4, 6, 8)


@dataclass(frozen=True)
class BackboneEntry:
    """How to build a backbone, and where the paper's way of naming lets it stride.

    Attributes:
        build: from `(in_channels, width, strided_layers, pooled)` to the network.
        strideable: 1-based indices of the 3 x 3 convolutions that may have stride 2.
        baseline_hidden: width of the two hidden layers of the published classifier; 0 for a
            network that ends in average pooling and one linear layer.
    """

    build: Callable[[int, float, Sequence[int], bool], Backbone]
    strideable: tuple[int, ...]
    baseline_hidden: int


def scaled(channels: Sequence[int], width: float) -> list[int]:
    """Scale channel counts by `width`, rounded, at least 1 each."""
    return [max(1, round(width * count)) for count in channels]


def _vgg11_bn(in_channels: int, width: float, strided: Sequence[int], pooled: bool) -> Backbone:
    return vgg(
        scaled(VGG11_WIDTHS, width),
        VGG11_POOLS,
        in_channels=in_channels,
        strided_layers=strided,
        pooled=pooled,
    )


def _resnet18(in_channels: int, width: float, strided: Sequence[int], pooled: bool) -> Backbone:
    return resnet(
        scaled(STAGE_WIDTHS, width),
        (2, 2, 2, 2),
        in_channels=in_channels,
        strided_layers={*strided, 6, 10, 14} if pooled else strided,
    )


BACKBONES: dict[str, BackboneEntry] = {
    "vgg11_bn": BackboneEntry(_vgg11_bn, strideable=tuple(range(1, 9)), baseline_hidden=4096),
    # Where the published network widens, and so has a shortcut that can stride, and the stem.
    "resnet18": BackboneEntry(_resnet18, strideable=(1, 6, 10, 14), baseline_hidden=0),
}
