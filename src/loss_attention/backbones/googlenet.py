"""GoogLeNet (Szegedy et al. 2015) with batch norm and a 3 x 3 stride-1 stem.

As for ResNet, one 3 x 3 convolution stands for the published stem, with the 192 channels that the
first inception module was published for. Batch norm takes the place of local response
normalisation and of the auxiliary classifiers; there is no dropout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.layered import Branched
from loss_attention.backbones.spatial import Backbone, convolution


class InceptionWidths(NamedTuple):
    """Channels of the convolutions of an inception module, as the columns of the paper's table."""

    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pool: int


class Inception(Branched):
    """1 x 1, 3 x 3 and 5 x 5 convolutions and a max-pooling of stride 1, side by side.

    Args:
        in_channels: channels of the input.
        widths: channels of each convolution.
        stride: of the last convolution of each branch.
    """

    def __init__(self, in_channels: int, widths: InceptionWidths, stride: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*convolution(in_channels, widths.one, 1, stride)),
                nn.Sequential(
                    *convolution(in_channels, widths.reduce_three, 1),
                    *convolution(widths.reduce_three, widths.three, 3, stride),
                ),
                nn.Sequential(
                    *convolution(in_channels, widths.reduce_five, 1),
                    *convolution(widths.reduce_five, widths.five, 5, stride),
                ),
                nn.Sequential(
                    nn.MaxPool2d(3, stride=1, padding=1),
                    *convolution(in_channels, widths.pool, 1, stride),
                ),
            ]
        )
        self.channels = widths.one + widths.three + widths.five + widths.pool

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the branches."""
        return [[branch] for branch in self.branches]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the results of the branches, channel after channel."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def googlenet(
    stem: int,
    modules: Sequence[InceptionWidths],
    pool_before: Collection[int],
    *,
    in_channels: int,
    strided_layers: Collection[int],
    pooled: bool,
) -> Backbone:
    """Build a GoogLeNet.

    Args:
        stem: channels of the first convolution.
        modules: channels of each inception module.
        pool_before: modules, from 0, that max-pooling precedes when `pooled`.
        in_channels: channels of the images.
        strided_layers: 1-based indices of the layers with stride 2: 1 is the stem, and a module
            is two layers deep, the second of which may stride (3, 5, ...).
        pooled: with the published max-pooling between stages (a baseline), or without any.
    """
    layers = convolution(in_channels, stem, 3, 2 if 1 in strided_layers else 1)
    channels = stem
    for number, widths in enumerate(modules):
        if pooled and number in pool_before:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        module = Inception(channels, widths, 2 if 3 + 2 * number in strided_layers else 1)
        layers.append(module)
        channels = module.channels
    return Backbone(nn.Sequential(*layers), channels)
