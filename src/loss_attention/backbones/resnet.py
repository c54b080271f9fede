"""ResNets (He et al. 2016) with a 3 x 3 stride-1 stem, without their classifier."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones.convolution import Conv2d
from loss_attention.backbones.layered import Branched
from loss_attention.backbones.recomputing import applied, kept_small
from loss_attention.backbones.spatial import Backbone, convolution


class BlockKind(NamedTuple):
    """What the residual blocks of a ResNet are made of.

    Attributes:
        kernels: sides of their convolutions. The first 3 x 3 of a block is the one that may
            stride: a strided 1 x 1 would leave three of four places unseen.
        expansion: channels of the last convolution, as a multiple of the others'.
    """

    kernels: tuple[int, ...]
    expansion: int

    @property
    def strided(self) -> int:
        """Position, from 0, of the convolution that may stride."""
        return self.kernels.index(3)


BASIC = BlockKind((3, 3), expansion=1)
BOTTLENECK = BlockKind((1, 3, 1), expansion=4)
# The bottleneck behind the paper's 58.16 million parameters of ResNet50.
WIDE_BOTTLENECK = BlockKind((3, 3, 1), expansion=4)


class ResidualBlock(Branched):
    """Convolutions with batch norm, and a shortcut around them."""

    def __init__(self, kind: BlockKind, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depth = len(kind.kernels)
        self.relu = nn.ReLU(inplace=True)
        inside = in_channels
        for position, kernel in enumerate(kind.kernels):
            last = position == self.depth - 1
            width = channels * kind.expansion if last else channels
            convolution = Conv2d(
                inside,
                width,
                kernel,
                stride if position == kind.strided else 1,
                padding=kernel // 2,
                bias=False,
            )
            self.add_module(f"conv{position + 1}", convolution)
            self.add_module(f"bn{position + 1}", nn.BatchNorm2d(width))
            inside = width
        self.shortcut = nn.Sequential()
        if in_channels != inside or stride != 1:
            self.shortcut = nn.Sequential(
                Conv2d(in_channels, inside, 1, stride, bias=False), nn.BatchNorm2d(inside)
            )

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the convolutions with what is between them, and the shortcut."""
        residual: list[nn.Module] = []
        for number in range(1, self.depth + 1):
            residual += [self.get_submodule(f"conv{number}"), self._norm(number), self.relu]
        return [residual[:-1], [self.shortcut]]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return `relu(F(x) + shortcut(x))`.

        In training, what batch norm and ReLU make between the convolutions is not kept but computed
        again, and so is the shortcut's convolution, the smallest: less to hold for a step that
        takes some hundredths longer.
        """
        through = kept_small if self.training and torch.is_grad_enabled() else applied
        residual: Tensor = self.get_submodule("conv1")(x)
        for number in range(1, self.depth):
            norm, following = self._norm(number), self.get_submodule(f"conv{number + 1}")
            residual = through([norm, self.relu, following], residual)
        result: Tensor = self._norm(self.depth)(residual)
        result += through([self.shortcut], x) if len(self.shortcut) else x  # nobody else's
        return F.relu(result, inplace=True)

    def _norm(self, number: int) -> nn.Module:
        return self.get_submodule(f"bn{number}")


def resnet(
    kind: BlockKind,
    widths: Sequence[int],
    blocks: Sequence[int],
    *,
    in_channels: int,
    strided_layers: Collection[int],
) -> Backbone:
    """Build a ResNet.

    Args:
        kind: what its blocks are made of.
        widths: channels of each stage, before the expansion; the first is the stem's too.
        blocks: blocks of each stage.
        in_channels: channels of the images.
        strided_layers: 1-based indices, among the convolutions outside shortcuts, of those with
            stride 2: the stem, or a block's first 3 x 3 convolution.
    """
    layers = convolution(in_channels, widths[0], 3, 2 if 1 in strided_layers else 1)
    channels, index = widths[0], 2
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            stride = 2 if index + kind.strided in strided_layers else 1
            layers.append(ResidualBlock(kind, channels, width, stride))
            channels = width * kind.expansion
            index += len(kind.kernels)
    return Backbone(nn.Sequential(*layers), channels)
