"""VGG with batch norm (Simonyan & Zisserman 2015), without its classifier."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from loss_attention.backbones.spatial import Backbone, convolution


def vgg(
    widths: Sequence[int],
    pool_after: Collection[int],
    *,
    in_channels: int,
    strided_layers: Collection[int],
    pooled: bool,
) -> Backbone:
    """Build a VGG.

    Args:
        widths: channels of each convolution.
        pool_after: 1-based indices of the convolutions that max-pooling follows when `pooled`.
        in_channels: channels of the images.
        strided_layers: 1-based indices of the convolutions with stride 2.
        pooled: with the published max-pooling (a baseline), or without any.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for index, width in enumerate(widths, start=1):
        stride = 2 if index in strided_layers else 1
        layers += convolution(channels, width, 3, stride, bias=True)
        channels = width
        if pooled and index in pool_after:
            # ceil_mode: the same at sizes divisible by 32, and smaller images still work.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return Backbone(nn.Sequential(*layers), channels)
