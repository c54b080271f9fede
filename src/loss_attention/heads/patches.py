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

from loss_attention.attention import full_precision, patch_weights, pool_patches, real_part
from loss_attention.backbones.convolution import Conv2d
from loss_attention.backbones.layered import Layered
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import ImagePrediction, PatchPrediction

PATCH_CHANNELS = 512
ATTENTION_UNITS = 128


@dataclass(frozen=True)
class PatchLayout:
    """How patches lie on a feature map, and which of them count as selected.

    Attributes:
        kernel: side of a patch, in cells of the feature map.
        stride: step between patches, in cells of the feature map.
        feature_stride: pixels of the image between neighbouring cells of the feature map.
        selection: patches of weight above `selection / M` count as selected.
    """

    kernel: int
    stride: int
    feature_stride: int
    selection: float

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

    A 9 x 9 convolution of stride 4 (by default) makes the patches, a 1 x 1 convolution maps their
    features, both with batch norm and ReLU. The classifier gives each patch its class vector; the
    image's is their weighted sum, so it needs no second pass.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        weighing: a module from patch features `(B, M, D)`, patch logits `(B, M, K)` and a mask
            `(B, M)` or None to weights `(B, M)`.
        layout: how the patches lie on the feature map.
        channels: D, features of a patch.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        weighing: nn.Module,
        layout: PatchLayout,
        channels: int,
    ) -> None:
        super().__init__()
        # The batch norm that follows takes away any bias of these two.
        self.patch_layers = nn.Sequential(
            Conv2d(in_channels, channels, layout.kernel, layout.stride, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(channels, num_classes)
        self.weighing = weighing
        self.layout = layout

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the layers that make the patches."""
        return [[self.patch_layers]]

    def forward(
        self, feature_map: Float[Tensor, "B C h w"], image_size: tuple[int, int]
    ) -> PatchPrediction:
        """Return the prediction for feature maps of images of `(height, width)` pixels."""
        cells: Tensor = self.patch_layers(feature_map)
        rows, columns = cells.shape[2:]
        features = cells.flatten(2).transpose(1, 2)
        prediction = pooled(features, self.classifier, self.weighing, self.layout.selection)
        return replace(prediction, grid=self.layout.grid(rows, columns, image_size))


def pooled(
    features: Float[Tensor, "B M D"],
    classifier: nn.Module,
    weighing: nn.Module,
    selection: float,
    mask: Bool[Tensor, "B M"] | None = None,
) -> PatchPrediction:
    """Classify and weigh patches, or the instances of bags, and add them up (Eqs. 5a to 5d).

    Args:
        features: `h`, shape `(B, M, D)`.
        classifier: from D features to K logits, the same for all.
        weighing: from features, logits and mask to weights; see `PatchHead`.
        selection: patches of weight above `selection / M` count as selected.
        mask: True where a patch is real; what a masked one holds takes no part. None: all are.

    Returns:
        The prediction, without a grid.

    Raises:
        ValueError: a mask of another shape or type, or a bag without a single real patch.
    """
    # Full precision from here on: the head is cheap, and the evidence has to add up.
    with torch.autocast(features.device.type, enabled=False):
        features = real_part(features.to(next(classifier.parameters()).dtype), mask)
        patch_logits = full_precision(classifier(features))
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
        hidden = torch.tanh(self.hidden(features))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(features))
        scores = full_precision(self.score(hidden).squeeze(2))
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.softmax(scores, dim=1)


class BaselineHead(nn.Module):
    """Average over all cells, then a linear layer, with two hidden layers where VGG has them.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        hidden: width of the two hidden layers (ReLU, dropout 0.5); 0 for none.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2 if hidden else 0):
            layers += [nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
            in_channels = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(in_channels, num_classes))

    def forward(
        self,
        feature_map: Float[Tensor, "B C h w"],
        image_size: tuple[int, int],  # noqa: ARG002 (patch heads need it for their grid)
    ) -> ImagePrediction:
        """Return the image's logits."""
        logits: Tensor = self.classifier(feature_map.mean(dim=(2, 3)))
        return ImagePrediction(full_precision(logits))
