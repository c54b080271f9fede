"""The convolutional patch head of the paper's Section IV-A, for any way of weighing patches.

Read from top to bottom: a convolution makes patches of a feature map (`PatchHead`); one classifier
gives each its class vector, a way of weighing says how much each counts, and their weighted sum is
the answer (`pooled`). Of images and grids, only the first knows. The ways of weighing are the
paper's own, by the class vectors (`LossAttention`, Eq. 5), and those that it compares with. Last
come the published networks' own classifiers, which look at no patch: the paper's baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.attention import (
    centred,
    full_precision,
    patch_weights,
    pool_patches,
    real_part,
)
from loss_attention.backbones.layers import Conv2d, Layered, applied
from loss_attention.backbones.levels import Features, joined, levels_of, resized
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import ImagePrediction, PatchPrediction

PATCH_CHANNELS = (512, 512)
"""Features of a patch after each of its layers, in the paper."""
ATTENTION_UNITS = 128


@dataclass(frozen=True)
class PatchLayout:
    """How patches lie on a feature map, and which of them count as selected.

    Attributes:
        kernel: side of a patch, in cells of the feature map.
        stride: step between patches, in cells of the feature map.
        feature_stride: pixels of the image between neighbouring cells of the feature map.
        selection: patches of weight above `selection / M` count as selected.
        level: index of the level whose cells those of the feature map are, where there are several.
    """

    kernel: int
    stride: int
    feature_stride: int
    selection: float
    level: int = 0

    def shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of patches on an image of `(height, width)` pixels."""
        height, width = (-(-pixels // self.feature_stride) for pixels in image_size)
        return (height - self.kernel) // self.stride + 1, (width - self.kernel) // self.stride + 1

    def grid(self, rows: int, columns: int, image_size: tuple[int, int]) -> PatchGrid:
        """Return where the patches lie in an image of `(height, width)` pixels."""
        window, step = self.kernel * self.feature_stride, self.stride * self.feature_stride
        return PatchGrid(rows, columns, window, step, *image_size)


class PatchHead(Layered):
    """Patch features, one linear classifier for patches and image, and weights that join them.

    In the paper, a 9 x 9 convolution of stride 4 makes the patches and a 1 x 1 convolution maps
    their features, each with batch norm and ReLU. The classifier gives each patch its class vector;
    the image's is their weighted sum, so it needs no second pass.

    Args:
        in_channels: channels of the feature map, of all levels together.
        num_classes: K.
        weighing: a module from patch features `(B, M, D)`, patch logits `(B, M, K)` and a mask
            `(B, M)` or None to weights `(B, M)`.
        layout: how the patches lie on the feature map.
        channels: features of each hidden layer, the last of them D; the first layer has the
            patches' kernel and stride. None at all: the cells of the map are classified as they
            are.
        dropout: fraction of the features that training drops before the classifier.
        centre: take from each patch's logits their mean over the classes; see `attention.centred`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        weighing: nn.Module,
        layout: PatchLayout,
        channels: Sequence[int],
        dropout: float = 0.0,
        centre: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        kernel, stride = layout.kernel, layout.stride
        for out_channels in channels:
            # The batch norm that follows takes away any bias.
            layers += [
                Conv2d(in_channels, out_channels, kernel, stride, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            in_channels, kernel, stride = out_channels, 1, 1
        self.patch_layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, num_classes)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.weighing = weighing
        self.layout = layout
        self.centre = centre

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the layers that make the patches."""
        return [[self.patch_layers]]

    def forward(self, features: Features, image_size: tuple[int, int]) -> PatchPrediction:
        """Return the prediction for the features of images of `(height, width)` pixels."""
        return self.decide_map(self.patch_features(features), image_size)

    def decide_map(
        self, cells: Float[Tensor, "B D rows columns"], image_size: tuple[int, int]
    ) -> PatchPrediction:
        """Return the prediction for patches as `patch_features` gives them, or tiles joined."""
        rows, columns = cells.shape[2:]
        prediction = self.decide(cells.flatten(2).transpose(1, 2))
        return replace(prediction, grid=self.layout.grid(rows, columns, image_size))

    def patch_features(self, features: Features) -> Float[Tensor, "B D rows columns"]:
        """Return the features of each patch, as a map."""
        if isinstance(features, Tensor):
            cells: Tensor = self.patch_layers(features)
            return cells
        first: nn.Module | None = next(iter(self.patch_layers), None)
        if isinstance(first, nn.Conv2d) and _is_pointwise(first):
            summed = _of_levels(first, features, self.layout.level)
            return applied(list(self.patch_layers)[1:], summed)
        return applied(self.patch_layers, joined(features, self.layout.level))

    def decide(
        self, features: Float[Tensor, "B M D"], mask: Bool[Tensor, "B M"] | None = None
    ) -> PatchPrediction:
        """Return the prediction for the features of patches, wherever they are from; see `pooled`.

        It has no grid.
        """
        if self.dropout is not None:
            features = self.dropout(features)
        return pooled(
            features,
            self.classifier,
            self.weighing,
            self.layout.selection,
            mask,
            centre=self.centre,
        )


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == layer.stride == (1, 1)


def _of_levels(
    layer: nn.Conv2d, levels: Sequence[Tensor], joined_at: int
) -> Float[Tensor, "B D h w"]:
    """Return what a 1 x 1 convolution makes of the joined map, without joining it.

    Both it and resizing are linear, one in the channels and one in the cells, so their order does
    not matter: each level is mapped where it has fewer cells. That is a fraction of the work, also
    of the backward pass, for the coarse ones, where most channels are, and for the finest.
    """
    weights = torch.split(layer.weight, [level.shape[1] for level in levels], dim=1)
    height, width = levels[joined_at].shape[2:]
    total: Tensor | None = None
    for level, weight in zip(levels, weights, strict=True):
        if level.shape[2] > height:
            mapped = F.conv2d(resized(level, height, width), weight)
        else:
            mapped = resized(F.conv2d(level, weight), height, width)
        total = mapped if total is None else total + mapped
    assert total is not None
    # It has a bias where batch norm was folded into it.
    return total if layer.bias is None else total + layer.bias[:, None, None]


def pooled(
    features: Float[Tensor, "B M D"],
    classifier: nn.Module,
    weighing: nn.Module,
    selection: float,
    mask: Bool[Tensor, "B M"] | None = None,
    *,
    centre: bool = False,
) -> PatchPrediction:
    """Classify and weigh patches, or the instances of bags, and add them up (Eqs. 5a to 5d).

    Args:
        features: `h`, shape `(B, M, D)`.
        classifier: from D features to K logits, the same for all.
        weighing: from features, logits and mask to weights; see `PatchHead`.
        selection: patches of weight above `selection / M` count as selected.
        mask: True where a patch is real; what a masked one holds takes no part. None: all are.
        centre: take from each patch's logits their mean over the classes, before all else.

    Returns:
        The prediction, without a grid.

    Raises:
        ValueError: a mask of another shape or type, or a bag without a single real patch.
    """
    # Full precision from here on: the head is cheap, and the evidence has to add up.
    with torch.autocast(features.device.type, enabled=False):
        features = real_part(features.to(next(classifier.parameters()).dtype), mask)
        patch_logits = full_precision(classifier(features))
        if centre:
            patch_logits = centred(patch_logits)
        weights: Tensor = weighing(features, patch_logits, mask)
        logits = pool_patches(patch_logits, weights, mask)
    return PatchPrediction(logits, patch_logits, weights, None, selection, mask=mask)


class LossAttention(nn.Module):
    """The paper's weights, from the lengths of the class vectors; no parameters of its own."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self,
        features: Float[Tensor, "B M D"],  # noqa: ARG002 (other ways weigh by features)
        patch_logits: Float[Tensor, "B M K"],
        mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        """Return Eq. 5's weights."""
        return patch_weights(patch_logits, self.threshold, mask)


class MeanPooling(nn.Module):
    """The same weight, 1/M, for every patch."""

    def forward(
        self,
        features: Float[Tensor, "B M D"],  # noqa: ARG002
        patch_logits: Float[Tensor, "B M K"],
        mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        """Return uniform weights, in float32 or better."""
        real = torch.ones_like(patch_logits[:, :, 0]) if mask is None else mask.to(patch_logits)
        return real / real.sum(dim=1, keepdim=True)


class AttentionPooling(nn.Module):
    """Weights from a network of two layers on the patch features (Ilse et al. 2018, Eqs. 7 to 9).

    `a_m = softmax over m of w^T tanh(V h_m)`; gated: `w^T (tanh(V h_m) * sigmoid(U h_m))`. V, U and
    w have no bias, as printed there; w's would cancel in the softmax. The models' parameter counts
    do not tell whether the paper had them: ungated, ours are 30.79 and 32.74 million either way
    where its Table II prints 30.80 and 32.73.

    Args:
        channels: D, features of a patch.
        units: hidden units; 128 in both papers.
        gated: with the sigmoid gate U.
    """

    def __init__(self, channels: int, units: int, *, gated: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, units, bias=False)
        self.gate = nn.Linear(channels, units, bias=False) if gated else None
        self.score = nn.Linear(units, 1, bias=False)

    def forward(
        self,
        features: Float[Tensor, "B M D"],
        patch_logits: Float[Tensor, "B M K"],  # noqa: ARG002 (other ways weigh by logits)
        mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        """Return the weights, in float32 or better."""
        return softmax_over(self.scores(features), mask)

    def scores(self, features: Float[Tensor, "*P D"]) -> Float[Tensor, "*P"]:
        """Return what the softmax is taken of, for patches wherever they are."""
        hidden = torch.tanh(self.hidden(features))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(features))
        scores: Tensor = self.score(hidden)
        return scores.squeeze(-1)


def softmax_over(
    scores: Float[Tensor, "B M"], mask: Bool[Tensor, "B M"] | None = None
) -> Float[Tensor, "B M"]:
    """Return the softmax over the patches that are not masked, in float32 or better."""
    scores = full_precision(scores)
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=1)


class BaselineHead(nn.Module):
    """Average over all cells, then a linear layer, with two hidden layers where VGG has them.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        hidden: width of the two hidden layers (ReLU, dropout 0.5); 0 for none.
        dropout: fraction of the features that training drops before a linear layer alone.
    """

    def __init__(
        self, in_channels: int, num_classes: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.dropout = nn.Dropout(dropout) if dropout and not hidden else None
        for _ in range(2 if hidden else 0):
            layers += [nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
            in_channels = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(in_channels, num_classes))

    def forward(
        self,
        features: Features,
        image_size: tuple[int, int],  # noqa: ARG002 (patch heads need it for their grid)
    ) -> ImagePrediction:
        """Return the image's logits; the means of several levels stand side by side."""
        means = torch.cat([level.mean(dim=(2, 3)) for level in levels_of(features)], dim=1)
        logits: Tensor = self.classifier(means if self.dropout is None else self.dropout(means))
        return ImagePrediction(full_precision(logits))
