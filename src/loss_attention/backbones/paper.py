"""The paper's networks: VGG and ResNets without pooling and strides, and GoogLeNet built alike.

All keep the position of everything: there is no pooling, and strides are only where they were asked
for. The same builders make the published networks, with their pooling and strides, for the
baselines. Layers are named the paper's way, by the 1-based index of the convolutional layer,
counted as the networks' own papers count their depth: projections of a shortcut do not count, and
branches side by side count once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones.layers import (
    Branched,
    Conv2d,
    Layered,
    applied,
    kept_small,
    recomputed,
)
from loss_attention.backbones.receptive_field import receptive_field
from loss_attention.model_spec import ModelSpec


class PaperBackbone(Layered):
    """A network from images to a feature map: a `backbones.Backbone`.

    Attributes:
        channels: features of each cell of the map.
        receptive_field: which pixels each cell sees.
        stride: pixels of the image between neighbouring cells.
        normalisation: None: it begins without weights, so with the training set's.
        hidden: width of the two hidden layers of the published classifier; 0 for a network that
            ends in average pooling and one linear layer.
        checkpoint_activations: hold less memory in training, and compute most layers twice.
    """

    normalisation = None

    def __init__(self, layers: nn.Sequential, channels: int, hidden: int = 0) -> None:
        super().__init__()
        self.layers = layers
        self.channels: Final = channels
        self.hidden: Final = hidden
        field = receptive_field(layers)
        assert field is not None, "all layers are such that what they see can be computed"
        self.receptive_field: Final = field
        self.stride: Final = field.stride
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
    """Return a convolution with batch norm and ReLU, padded so that no cell is lost.

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


def reduced(backbone: PaperBackbone, channels: int) -> PaperBackbone:
    """Return the backbone with a 1 x 1 convolution to `channels` (batch norm, ReLU) after it."""
    reduction = convolution(backbone.channels, channels, 1)
    return PaperBackbone(nn.Sequential(*backbone.layers, *reduction), channels)


VGG11_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_HIDDEN = 4096


def vgg(
    widths: Sequence[int], pool_after: Collection[int], spec: ModelSpec, *, pooled: bool
) -> PaperBackbone:
    """Build a VGG with batch norm (Simonyan & Zisserman 2015), without its classifier.

    Args:
        widths: channels of each convolution.
        pool_after: 1-based indices of the convolutions that max-pooling follows when `pooled`.
        spec: channels of the images, factor on the widths, and which convolutions stride.
        pooled: with the published max-pooling (a baseline), or without any.
    """
    layers: list[nn.Module] = []
    channels = spec.in_channels
    for index, width in enumerate(map(spec.scaled, widths), start=1):
        stride = 2 if index in spec.strided_layers else 1
        layers += convolution(channels, width, 3, stride, bias=True)
        channels = width
        if pooled and index in pool_after:
            # ceil_mode: the same at sizes divisible by 32, and smaller images still work.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return PaperBackbone(nn.Sequential(*layers), channels, spec.scaled(VGG_HIDDEN))


RESNET_WIDTHS = (64, 128, 256, 512)


class BlockKind(NamedTuple):
    """What the residual blocks of a ResNet are made of.

    Attributes:
        kernels: sides of their convolutions. The first 3 x 3 of a block is the one that may
            stride: a strided 1 x 1 would leave three of four cells unseen.
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
    blocks: Sequence[int],
    published_strides: Collection[int],
    spec: ModelSpec,
    *,
    pooled: bool,
) -> PaperBackbone:
    """Build a ResNet (He et al. 2016) with a 3 x 3 stride-1 stem, without its classifier.

    Args:
        kind: what its blocks are made of.
        blocks: blocks of each stage.
        published_strides: the strided layers that it has when `pooled`.
        spec: channels of the images, factor on all widths, and the layers that stride, among the
            convolutions outside shortcuts: the stem, or a block's first 3 x 3 convolution.
        pooled: with the published strides (a baseline), or only those of the spec.
    """
    strided = {*spec.strided_layers, *(published_strides if pooled else ())}
    widths = list(map(spec.scaled, RESNET_WIDTHS))
    layers = convolution(spec.in_channels, widths[0], 3, 2 if 1 in strided else 1)
    channels, index = widths[0], 2
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            stride = 2 if index + kind.strided in strided else 1
            layers.append(ResidualBlock(kind, channels, width, stride))
            channels = width * kind.expansion
            index += len(kind.kernels)
    return PaperBackbone(nn.Sequential(*layers), channels)


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
GOOGLENET_POOLS_BEFORE = (2, 7)


def googlenet(spec: ModelSpec, *, pooled: bool) -> PaperBackbone:
    """Build a GoogLeNet (Szegedy et al. 2015) with batch norm and a 3 x 3 stride-1 stem.

    As for ResNet, one 3 x 3 convolution stands for the published stem, with the 192 channels that
    the first inception module was published for. Batch norm takes the place of local response
    normalisation and of the auxiliary classifiers; there is no dropout.

    Args:
        spec: channels of the images, factor on all widths, and the layers that stride: 1 is the
            stem, and a module is two layers deep, the second of which may stride (3, 5, ...).
        pooled: with the published max-pooling between stages (a baseline), or without any.
    """
    channels = spec.scaled(GOOGLENET_STEM)
    layers = convolution(spec.in_channels, channels, 3, 2 if 1 in spec.strided_layers else 1)
    for number, published in enumerate(GOOGLENET_MODULES):
        if pooled and number in GOOGLENET_POOLS_BEFORE:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        widths = InceptionWidths(*map(spec.scaled, published))
        module = Inception(channels, widths, 2 if 3 + 2 * number in spec.strided_layers else 1)
        layers.append(module)
        channels = module.channels
    return PaperBackbone(nn.Sequential(*layers), channels)
