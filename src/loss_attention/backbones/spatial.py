"""VGG and ResNet that keep the place of everything: no pooling, and strides only where asked for.

The same builders make the ordinary networks (`pooled=True`), for the baselines.
Layers are named the paper's way, by the 1-based index of the 3 x 3 convolution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """A network from images to a feature map.

    Attributes:
        channels: features of each place of the map.
        stride: pixels of the image between neighbouring places.
    """

    def __init__(self, layers: nn.Sequential, channels: int, stride: int) -> None:
        super().__init__()
        self.layers = layers
        self.channels: Final = channels
        self.stride: Final = stride

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the feature map of a batch of normalised images."""
        features: Tensor = self.layers(images)
        return features


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if in_channels != channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return `relu(F(x) + shortcut(x))`."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(residual)) + self.shortcut(x), inplace=True)


def vgg(
    widths: Sequence[int],
    pool_after: Collection[int],
    *,
    in_channels: int,
    strided_layers: Collection[int],
    pooled: bool,
) -> Backbone:
    """Build a VGG with batch norm (Simonyan & Zisserman 2015) without its classifier.

    Args:
        widths: channels of each convolution.
        pool_after: 1-based indices of the convolutions that max-pooling follows when `pooled`.
        in_channels: channels of the images.
        strided_layers: 1-based indices of the convolutions with stride 2.
        pooled: with the published max-pooling (a baseline), or without any.
    """
    layers: list[nn.Module] = []
    channels, total_stride = in_channels, 1
    for index, width in enumerate(widths, start=1):
        stride = 2 if index in strided_layers else 1
        layers += [
            nn.Conv2d(channels, width, 3, stride, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        total_stride *= stride
        channels = width
        if pooled and index in pool_after:
            # ceil_mode: the same at sizes divisible by 32, and smaller images still work.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            total_stride *= 2
    return Backbone(nn.Sequential(*layers), channels, total_stride)


def resnet(
    widths: Sequence[int],
    blocks: Sequence[int],
    *,
    in_channels: int,
    strided_layers: Collection[int],
) -> Backbone:
    """Build a ResNet of basic blocks with a 3 x 3 stride-1 stem, without its classifier.

    Args:
        widths: channels of each stage.
        blocks: blocks of each stage.
        in_channels: channels of the images.
        strided_layers: 1-based indices, among the 3 x 3 convolutions, of those with stride 2.
    """
    stride = 2 if 1 in strided_layers else 1
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, widths[0], 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    ]
    channels, total_stride, index = widths[0], stride, 2
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            stride = 2 if index in strided_layers else 1
            layers.append(ResidualBlock(channels, width, stride))
            channels = width
            total_stride *= stride
            index += 2
    return Backbone(nn.Sequential(*layers), channels, total_stride)
