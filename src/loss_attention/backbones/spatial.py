"""What all backbones share: they keep the place of everything.

There is no pooling, and strides are only where they were asked for. The same builders make the
published networks, with their pooling and strides, for the baselines. Layers are named the paper's
way, by the 1-based index of the convolutional layer, counted as the networks' own papers count
their depth: projections of a shortcut do not count, and branches side by side count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.convolution import Conv2d
from loss_attention.backbones.layered import Layered
from loss_attention.backbones.receptive_field import receptive_field
from loss_attention.backbones.recomputing import recomputed


class Backbone(Layered):
    """A network from images to a feature map.

    Attributes:
        channels: features of each place of the map.
        receptive_field: which pixels each place sees.
        stride: pixels of the image between neighbouring places.
        checkpoint_activations: hold less memory in training, and compute most layers twice.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.layers = layers
        self.channels: Final = channels
        self.receptive_field: Final = receptive_field(layers)
        self.stride: Final = self.receptive_field.stride
        self.checkpoint_activations = False

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return its layers."""
        return [[self.layers]]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the feature map of a batch of normalised images."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            return recomputed(self.layers, images)
        features: Tensor = self.layers(images)
        return features


def convolution(
    in_channels: int, channels: int, kernel: int, stride: int = 1, *, bias: bool = False
) -> list[nn.Module]:
    """Return a convolution with batch norm and ReLU, padded so that no place is lost.

    Args:
        in_channels: channels of its input.
        channels: channels of its result.
        kernel: its side, an odd number.
        stride: 1 or 2.
        bias: as some networks were published, though batch norm takes its effect away.
    """
    return [
        Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


def reduced(backbone: Backbone, channels: int) -> Backbone:
    """Return the backbone with a 1 x 1 convolution to `channels` (batch norm, ReLU) after it."""
    reduction = convolution(backbone.channels, channels, 1)
    return Backbone(nn.Sequential(*backbone.layers, *reduction), channels)
